from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import TensorDataset

from lightning_modules import DigitsDataModule
from lightning_modules.data import Part, fractions_for, split
from lightning_modules.data_sources import ArraysDataModule

PARTS: tuple[Part, ...] = ("train", "dev", "test")


def labels_of(data: DigitsDataModule, part: Part) -> torch.Tensor:
    return data.dataset(part).tensors[1]


def epoch(data: DigitsDataModule) -> torch.Tensor:
    return torch.cat([x for x, _ in data.train_dataloader()])


def test_rows_are_disjoint_and_cover_the_data() -> None:
    labels = load_digits().target
    rows = split(labels, {"train": 0.7, "dev": 0.15, "test": 0.15}, seed=3)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(1797))


def test_every_set_has_the_classes_in_the_same_shares() -> None:
    data = DigitsDataModule()
    whole = np.bincount(load_digits().target) / 1797
    for part in PARTS:
        labels = labels_of(data, part)
        shares = torch.bincount(labels, minlength=10).numpy() / len(labels)
        assert np.abs(shares - whole).max() < 1 / len(labels) + 0.002


def test_statistics_come_from_the_training_set_alone() -> None:
    data = DigitsDataModule()
    train = data.dataset("train").tensors[0].double().flatten(1)
    varying = train.std(0) > 0
    # float32 pixels of 1257 images: the mean is right to about eps * sqrt(1257).
    assert train.mean(0).abs().max() < 1e-5
    assert (train.std(0, correction=0)[varying] - 1).abs().max() < 1e-5
    dev = data.dataset("dev").tensors[0].double().flatten(1)
    assert dev.mean(0).abs().max() > 0.01  # standardized by its own it would be 0
    pixels, _ = load_digits(return_X_y=True)
    constant = np.flatnonzero(~varying.numpy())
    assert constant.size > 0
    assert torch.isfinite(dev).all()
    assert set(np.unique(dev[:, constant].numpy())) <= set(np.unique(pixels[:, constant]))


def test_same_seed_same_split_and_order() -> None:
    one, two, other = DigitsDataModule(seed=1), DigitsDataModule(seed=1), DigitsDataModule(seed=2)
    assert torch.equal(epoch(one), epoch(two))
    assert torch.equal(epoch(one), epoch(two))  # the second epoch too
    assert not torch.equal(labels_of(one, "test"), labels_of(other, "test"))


def test_order_changes_each_epoch_and_ignores_the_global_generator() -> None:
    one, two = DigitsDataModule(), DigitsDataModule()
    torch.manual_seed(0)
    first, second = epoch(one), epoch(one)
    torch.manual_seed(1)
    torch.rand(100)
    assert torch.equal(first, epoch(two))
    state = torch.get_rng_state()
    assert torch.equal(second, epoch(two))
    assert not torch.equal(first, second)
    # DataLoader itself draws one base seed from the generator that it was given.
    assert torch.equal(state, torch.get_rng_state())


def test_state_continues_the_order() -> None:
    one, two = DigitsDataModule(), DigitsDataModule()
    epoch(one)
    two.load_state_dict(one.state_dict())
    assert torch.equal(epoch(one), epoch(two))


def test_checkpoint_of_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'seed': 1.*'seed': 0.*data\.seed"):
        DigitsDataModule().load_state_dict(DigitsDataModule(seed=1).state_dict())


@pytest.mark.parametrize(("size", "batches", "examples"), [(64, 20, 1257), (8, 157, 1256)])
def test_only_a_last_batch_of_one_is_left_out(size: int, batches: int, examples: int) -> None:
    assert 1257 % 8 == 1
    sizes = [len(y) for _, y in DigitsDataModule(batch_size=size).train_dataloader()]
    assert (len(sizes), sum(sizes)) == (batches, examples)
    assert min(sizes) > 1


def test_whoever_is_left_out_changes_and_dev_is_whole() -> None:
    data = DigitsDataModule(batch_size=8)
    everyone = {tuple(x.flatten().tolist()) for x in data.dataset("train").tensors[0]}
    missing = [everyone - {tuple(x.flatten().tolist()) for x in epoch(data)} for _ in range(3)]
    assert all(len(m) == 1 for m in missing)
    assert any(a != b for a, b in itertools.pairwise(missing))
    assert sum(len(y) for _, y in DigitsDataModule(batch_size=269).val_dataloader()) == 270


def test_test_set_may_be_absent() -> None:
    data = DigitsDataModule(train=0.85, test=0)
    data.setup()
    with pytest.raises(ValueError, match="no test set: test=0"):
        data.dataset("test")
    assert len(data.dataset("train")) + len(data.dataset("dev")) == 1797


def test_part_of_the_data_may_be_left_aside() -> None:
    data = DigitsDataModule(train=0.2, dev=0.1, test=0.1)
    assert [len(data.dataset(part)) for part in PARTS] == [359, 180, 180]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"train": 1.5}, r"train must be a fraction in \[0, 1\], got 1.5"),
        ({"dev": -0.1}, r"dev must be a fraction in \[0, 1\], got -0.1"),
        ({"dev": 0}, "dev must not be 0"),
        ({"train": 0.9, "dev": 0.2}, r"at most 1, got train=0.9 \+ dev=0.2"),
        ({"train": 1.0}, "train=1.0 leaves nothing for the dev set"),
        ({"dev": 0.5, "test": 0.5}, "dev=0.5, test=0.5 leaves nothing for the train set"),
    ],
)
def test_errors_name_argument_and_value(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**options)  # type: ignore[arg-type]


def test_too_small_a_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dev=0\.001 leaves 2 of 1797 examples: .* 10 classes"):
        DigitsDataModule(dev=0.001).setup()


def test_the_lectures_advice_by_size() -> None:
    for m, train in ((1797, 0.70), (10_000, 0.70), (70_000, 0.90), (1_000_000, 0.99)):
        advice = fractions_for(m)
        assert advice["train"] == train
        assert sum(advice.values()) == pytest.approx(1, abs=1e-15)
        assert advice["dev"] == advice["test"]
    assert DigitsDataModule().fractions == {"train": 0.70, "dev": 0.15, "test": 0.15}
    with pytest.raises(ValueError, match="m must be at least 1, got 0"):
        fractions_for(0)


def test_the_advice_is_taken_by_size() -> None:
    x, y = np.zeros((10_100, 1)), np.arange(10_100) % 2
    data = ArraysDataModule(x, y)
    assert [len(data.dataset(part)) for part in PARTS] == [9090, 505, 505]
    data = ArraysDataModule(x, y, train=0.5, test=0)
    assert data.fractions == {"train": 0.5, "dev": 0.05, "test": 0}


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({"train": 0.8, "dev": 0.2}, [1438, 359]),  # all of the data, and no test set
        ({"train": 0.9}, [1617, 90, 90]),
        ({"dev": 0.3, "test": 0.3}, [719, 539, 539]),
        ({"train": 0.5}, [898, 270, 270]),  # the advice fits beside it
    ],
)
def test_what_is_not_given_gets_what_is_left(given: dict[str, Any], sizes: list[int]) -> None:
    data = DigitsDataModule(**given)
    parts = [part for part in PARTS if data.fractions[part]]
    assert [len(data.dataset(part)) for part in parts] == sizes


def test_a_split_is_that_of_scikit_learn() -> None:
    labels = load_digits().target
    rows = split(labels, {"train": 0.7, "dev": 0.15, "test": 0.15}, seed=5)
    options = {"random_state": 5}
    test, rest = train_test_split(np.arange(1797), train_size=270, stratify=labels, **options)
    dev, train = train_test_split(rest, train_size=270, stratify=labels[rest], **options)
    assert all(map(np.array_equal, rows.values(), (train, dev, test)))


def test_numbers_are_those_of_the_scaler_of_scikit_learn() -> None:
    pixels, labels = load_digits(return_X_y=True)
    rows = split(labels, {"train": 0.7, "dev": 0.15, "test": 0.15}, seed=0)
    scaler = StandardScaler().fit(pixels[rows["train"]])
    mu, sigma = pixels[rows["train"]].mean(0), pixels[rows["train"]].std(0)
    for part in PARTS:
        found = DigitsDataModule().dataset(part).tensors[0].flatten(1)
        wanted = torch.tensor(scaler.transform(pixels[rows[part]]), dtype=torch.float32)
        assert torch.equal(found, wanted)
        # The slide divides by σ²; σ is meant.
        by_hand = (pixels[rows[part]] - mu) / np.where(sigma == 0, 1, sigma)
        assert np.abs(found.numpy() - by_hand).max() < 1e-5


def test_five_million_examples_by_a_thousand() -> None:
    """T = ⌈m / size⌉: 5,000,000 by 1,000 are 5,000 mini-batches."""
    column = torch.zeros(1).expand(5_000_000)
    data = DigitsDataModule(batch_size=1_000)
    data._parts = {"train": TensorDataset(column, column)}
    assert len(data.train_dataloader()) == 5_000
    data.batch_size = "all"
    assert len(data.train_dataloader()) == 1


@pytest.mark.parametrize("size", [1, 2, 64, 1024, 1257, "all"])
def test_mini_batches_of_any_size(size: Any) -> None:
    sizes = [len(y) for _, y in DigitsDataModule(batch_size=size).train_dataloader()]
    number = 1257 if size == "all" else size
    left_out = 1 if size == 2 else 0  # of an odd number, in pairs
    assert len(sizes) == math.ceil((1257 - left_out) / number)
    assert sum(sizes) == 1257 - left_out
    assert max(sizes) == number


def test_a_checkpoint_of_other_data_is_refused() -> None:
    x, y = np.arange(40.0).reshape(40, 1), np.arange(40) % 2
    state = ArraysDataModule(x, y).state_dict()
    ArraysDataModule(x, y).load_state_dict(state)
    with pytest.raises(ValueError, match="trained on other data"):
        ArraysDataModule(x + 1, y).load_state_dict(state)


def test_a_checkpoint_of_before_is_accepted() -> None:
    data = DigitsDataModule()
    state = {key: value for key, value in data.state_dict().items() if key in ("split", "order")}
    DigitsDataModule().load_state_dict(state)


def test_rounding_leaves_nobody_out() -> None:
    for m in range(20, 120):
        rows = split(np.arange(m) % 3, {"train": 0.7, "dev": 0.15, "test": 0.15}, seed=0)
        assert sorted(np.concatenate(list(rows.values()))) == list(range(m))
    rows = split(np.arange(100) % 3, {"train": 0.69, "dev": 0.15, "test": 0.15}, seed=0)
    assert len(rows["train"]) == 70  # one is fewer than a set of three classes could hold


def rows_of(data: DigitsDataModule) -> set[bytes]:
    return {x.numpy().tobytes() for x in data.dataset("train").tensors[0]}


def test_subsets_are_nested_and_stratified_and_leave_dev_and_test_alone() -> None:
    whole = DigitsDataModule(standardize="none")
    before = rows_of(whole)
    shares = np.bincount(labels_of(whole, "train")) / 1257
    for share, size in ((0.7, 880), (0.3, 377), (0.05, 63)):
        data = DigitsDataModule(standardize="none", subset=share)
        assert len(labels_of(data, "train")) == size
        counts = np.bincount(labels_of(data, "train"))
        assert np.abs(counts - shares * size).max() <= 1
        assert rows_of(data) < before
        before = rows_of(data)
        for part in PARTS[1:]:
            assert torch.equal(data.dataset(part).tensors[0], whole.dataset(part).tensors[0])


def test_a_subset_is_standardized_by_itself() -> None:
    data = DigitsDataModule(subset=0.1, standardize="channel")
    x = data.dataset("train").tensors[0].double()
    assert float(x.mean()) == pytest.approx(0, abs=1e-6)
    assert float(x.std(correction=0)) == pytest.approx(1, abs=1e-6)


def test_the_sampling_seed_draws_subset_and_order_but_not_the_split() -> None:
    one, two = (DigitsDataModule(subset=0.1, sampling_seed=seed) for seed in (1, 2))
    assert rows_of(one) != rows_of(two)
    assert torch.equal(labels_of(one, "dev"), labels_of(two, "dev"))
    one, two = (DigitsDataModule(sampling_seed=seed) for seed in (1, 2))
    assert torch.equal(one.dataset("train").tensors[0], two.dataset("train").tensors[0])
    assert not torch.equal(epoch(one), epoch(two))
    assert torch.equal(epoch(DigitsDataModule(seed=0)), epoch(DigitsDataModule(sampling_seed=0)))


def test_a_checkpoint_of_another_subset_is_refused() -> None:
    state = DigitsDataModule(subset=0.5).state_dict()
    DigitsDataModule(subset=0.5).load_state_dict(state)
    for other in (DigitsDataModule(), DigitsDataModule(subset=0.5, sampling_seed=1)):
        with pytest.raises(ValueError, match="trained on the split"):
            other.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subset": 0.0}, r"subset must be a fraction in \(0, 1\], got 0.0"),
        ({"subset": 30.0}, r"subset must be a fraction in \(0, 1\], got 30.0"),
        ({"sampling_seed": -1}, "sampling_seed must be at least 0, got -1"),
    ],
)
def test_mistakes_in_sampling(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**options)


def test_a_subset_without_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves 9 of 1257 training examples, and none of"):
        DigitsDataModule(subset=0.007).setup()
