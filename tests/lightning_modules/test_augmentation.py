from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from scipy.ndimage import affine_transform
from torch import Tensor

from lightning_modules import MLP, Classifier, DigitsDataModule, ExactResume
from lightning_modules.augmentation import Augmentation, affine
from lightning_modules.cli import main
from lightning_modules.data_samples import main as samples
from lightning_modules.data_sources import ArraysDataModule

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from")
STRONG = Augmentation(flip=0.5, shift=1, rotate=20, zoom=0.2, distort=0.2, noise=0.1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(x: Tensor, shift: tuple[float, float] = (0, 0), **options: float) -> Tensor:
    values = {"rotate": 0.0, "zoom": 1.0, "slant": 0.0, **options}
    every = {name: torch.full((len(x),), value) for name, value in values.items()}
    return affine(x, shift=torch.tensor([shift] * len(x), dtype=torch.float32), **every)


def test_whole_pixels_and_quarter_turns_are_exact() -> None:
    x = torch.rand(3, 2, 6, 6, generator=generator())
    near = {"rtol": 0, "atol": 1e-6}  # coordinates within 6 pixels, rounded to float32
    torch.testing.assert_close(moved(x, (2, 0))[..., 2:], x[..., :-2], **near)
    torch.testing.assert_close(moved(x, (2, 0))[..., :2], x[..., :1].expand(3, 2, 6, 2), **near)
    torch.testing.assert_close(moved(x, (0, -1))[:, :, :-1], x[:, :, 1:], **near)
    torch.testing.assert_close(moved(x, rotate=90), x.rot90(-1, (2, 3)), **near)
    twice = torch.arange(4.0).expand(1, 1, 4, 4)
    assert moved(twice, zoom=2.0)[0, 0, 0].tolist() == pytest.approx([0.75, 1.25, 1.75, 2.25])


def test_any_movement_beside_scipy() -> None:
    x = torch.rand(1, 1, 9, 12, generator=generator())  # not square: degrees stay degrees
    phi, zoom, slant, shift = np.deg2rad(25), 1.2, 0.3, np.array([0.7, -1.1])
    turn = np.array([[np.cos(phi), -np.sin(phi)], [np.sin(phi), np.cos(phi)]])
    forward = zoom * turn @ np.array([[1, slant], [0, 1]])  # of (x, y)
    back = np.linalg.inv(forward)[::-1, ::-1]  # of (row, column)
    middle = (np.array([9, 12]) - 1) / 2
    offset = middle - back @ (middle + shift[::-1])
    wanted = affine_transform(x[0, 0].double().numpy(), back, offset, order=1, mode="nearest")
    found = moved(x, (0.7, -1.1), rotate=25, zoom=zoom, slant=slant)[0, 0]
    assert np.abs(found.numpy() - wanted).max() < 1e-5


def test_zero_strength_is_the_very_image() -> None:
    x = torch.randn(5, 3, 8, 8, generator=generator())
    assert Augmentation()(x, generator()) is x
    data = DigitsDataModule(augment=Augmentation())
    plain = DigitsDataModule()
    for ours, theirs in zip(data.train_dataloader(), plain.train_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("name", ["flip", "shift", "rotate", "zoom", "distort", "noise"])
def test_each_variation_changes_images_and_keeps_their_mean(name: str) -> None:
    x = DigitsDataModule(standardize="channel").dataset("train").tensors[0]
    strength = {"flip": 0.3, "rotate": 10.0}.get(name, 0.1)
    varied = Augmentation(**{name: strength})(x, generator())
    changed = (varied != x).flatten(1).any(1).double().mean().item()
    # Of 1257 images 30 % are mirrored, with a standard deviation of 1.3 %.
    assert changed == pytest.approx(0.3, abs=0.05) if name == "flip" else changed > 0.99
    assert abs(varied.mean() - x.mean()) < 0.02
    assert abs(varied.std() - x.std()) < 0.1
    if name == "noise":
        assert (varied - x).std().item() == pytest.approx(0.1, rel=0.02)
    if name == "flip":
        assert all(torch.equal(v, i) or torch.equal(v, i.flip(-1)) for v, i in zip(varied, x))  # noqa: B905


def test_the_same_seed_varies_the_same_way_whatever_else_is_on() -> None:
    x = torch.rand(4, 1, 8, 8, generator=generator())
    assert torch.equal(STRONG(x, generator(1)), STRONG(x, generator(1)))
    assert not torch.equal(STRONG(x, generator(1)), STRONG(x, generator(2)))
    both, turned = Augmentation(rotate=9, noise=0.5), Augmentation(rotate=9)
    noise = both(x, generator()) - turned(x, generator())
    alone = Augmentation(noise=0.5)(x, generator()) - x
    torch.testing.assert_close(noise, alone, rtol=0, atol=1e-6)


def epoch(data: DigitsDataModule) -> tuple[Tensor, Tensor]:
    batches = list(data.train_dataloader())
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_only_the_training_images_are_varied() -> None:
    plain, data = DigitsDataModule(seed=4), DigitsDataModule(seed=4, augment=STRONG)
    for _ in range(2):  # the order too: variations have a generator of their own
        (x, y), (varied, labels) = epoch(plain), epoch(data)
        assert torch.equal(y, labels)
        assert not torch.equal(x, varied)
    for part in ("train", "dev", "test"):
        for ours, theirs in zip(data.ordered(part), plain.ordered(part), strict=True):  # type: ignore[arg-type]
            assert torch.equal(ours[0], theirs[0])
    for ours, theirs in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_differs_and_a_run_repeats(workers: int) -> None:
    options: dict[str, Any] = {"augment": Augmentation(noise=1), "num_workers": workers}
    small: dict[str, Any] = {"batch_size": 100, "train": 0.2, **options}
    torch.manual_seed(0)
    one = DigitsDataModule(**small)
    first, second = epoch(one), epoch(one)
    torch.manual_seed(1)
    two = DigitsDataModule(**small)
    assert torch.equal(first[0], epoch(two)[0])
    three = DigitsDataModule(**small)
    three.load_state_dict(two.state_dict())
    assert torch.equal(second[0], epoch(two)[0])
    if not workers:  # with workers the images arrive by whoever is ready, in order all the same
        assert torch.equal(second[0], epoch(three)[0])
    noise = [x - three._parts["train"].tensors[0].mean() for x, _ in (first, second)]
    assert not torch.equal(*noise)


def test_workers_vary_each_batch_differently() -> None:
    images, labels = np.zeros((400, 1, 2, 2)), np.arange(400) % 2
    options: dict[str, Any] = {"num_workers": 2, "batch_size": 70, "train": 0.7}
    data = ArraysDataModule(images, labels, augment=Augmentation(noise=1), **options)
    x = torch.cat([epoch(data)[0] for _ in range(2)])  # type: ignore[arg-type]
    assert len(x.flatten(1).unique(dim=0)) == len(x) == 560


class Interrupted(Exception):
    """The machine is needed elsewhere."""


class Classified(Classifier):
    stop_at: int | None = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == self.stop_at:
            raise Interrupted


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_has_the_same_bits(workers: int, tmp_path: Path) -> None:
    def run(name: str, stop_at: int | None = None, ckpt: Path | None = None) -> Classified:
        torch.manual_seed(0)
        model = Classified(MLP(hidden=[8], dropout=0.2))
        model.stop_at = stop_at
        options: dict[str, Any] = {"train": 0.2, "batch_size": 100, "num_workers": workers}
        data = DigitsDataModule(augment=STRONG, **options)  # 4 steps an epoch
        every = ModelCheckpoint(tmp_path / name, save_last=True, every_n_train_steps=6)
        trainer = Trainer(
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            callbacks=[ExactResume(), every],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data, ckpt_path=ckpt)
        return model

    whole = run("whole")
    with pytest.raises(Interrupted):
        run("killed", stop_at=7)
    resumed = run("resumed", ckpt=tmp_path / "killed" / "last.ckpt")
    assert resumed.global_step == whole.global_step == 12
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotate": 181}, r"augment\.rotate must be in \[0, 180\], got 181"),
        ({"flip": 1.1}, r"augment\.flip must be in \[0, 1\], got 1\.1"),
        ({"noise": -0.1}, r"augment\.noise must be 0 or more, got -0\.1"),
        ({"shift": float("inf")}, r"augment\.shift must be 0 or more, got inf"),
        ({"zoom": float("nan")}, r"augment\.zoom must be 0 or more, got nan"),
    ],
)
def test_errors_name_the_strength(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_features_know_noise_alone() -> None:
    x, y = np.random.default_rng(0).normal(size=(100, 3)), np.arange(100) % 2
    with pytest.raises(ValueError, match=r"augment\.shift is for images"):
        ArraysDataModule(x, y, augment=Augmentation(shift=1, noise=1)).setup()
    data = ArraysDataModule(x, y, augment=Augmentation(noise=1))
    (batch,) = (b for b, _ in ArraysDataModule(x, y, batch_size="all").train_dataloader())
    assert next(iter(data.train_dataloader()))[0].shape == (64, 3)
    assert batch.shape == (70, 3)


def test_from_the_command_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    turned = ["--data.augment.rotate", "10", "--data.augment.noise", "0.1"]
    cli = main(["fit", "--config", "mlp", *short, *turned])
    assert cli.datamodule.augment == Augmentation(rotate=10, noise=0.1)
    saved = torch.load(here / "runs/mlp/version_0/checkpoints/last.ckpt", weights_only=True)
    assert saved["datamodule_hyper_parameters"]["augment"]["rotate"] == 10
    capsys.readouterr()
    samples(turned)
    said = capsys.readouterr().out
    assert "1,797 examples: 1 x 8 x 8" in said
    assert said.splitlines()[-1] == "written to runs/data_samples/samples.png"
    picture = imread(here / "runs/data_samples/samples.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100
