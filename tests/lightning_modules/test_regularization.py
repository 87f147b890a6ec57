"""L2 and L1 as options of the classifier: λ/m on weights alone, in the loss or by the optimizer."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import refnet.optim
from lightning_modules import MLP, BuiltinBeside, Classifier, ExactResume
from lightning_modules.cli import main

M, RATE = 96, 0.1
SGD = partial(refnet.optim.SGD, lr=RATE)
ADAM = partial(refnet.optim.Adam, lr=0.01)


def data(batch_size: int = M) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(M, 6, generator=generator, dtype=torch.float64)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size)


def model(optimizer: Any = SGD, **options: Any) -> Classifier:
    torch.manual_seed(0)
    implementation = options.get("implementation", "refnet")
    net = MLP(6, [8], 2, dropout=0.0, batch_norm=False, implementation=implementation)
    return Classifier(net, optimizer, num_classes=2, **options)


def fit(
    classifier: Classifier,
    loader: Any = None,
    steps: int = 1,
    val: Any = None,
    ckpt_path: Any = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Train, and return the parameters."""
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", **{**quiet, "precision": "64-true", **options}
    )
    trainer.fit(
        classifier, data() if loader is None else loader, val or data(), ckpt_path=ckpt_path
    )
    classifier.found = trainer.callback_metrics  # type: ignore[assignment]
    return {name: p.detach().clone() for name, p in classifier.net.named_parameters()}


def biases(parameters: dict[str, Tensor]) -> list[Tensor]:
    return [p for name, p in parameters.items() if name.endswith("bias")]


@pytest.mark.parametrize("implementation", ["refnet", "torch"])
@pytest.mark.parametrize("l2_as", ["loss", "decay"])
def test_l2_adds_its_gradient_to_weights_alone(implementation: Any, l2_as: Any) -> None:
    """W ← W − α (dW + λ/m W), b ← b − α db."""
    before = dict(model().double().net.named_parameters())
    plain = fit(model(implementation=implementation))
    found = fit(model(implementation=implementation, l2=3.0, l2_as=l2_as))
    for name, w in before.items():
        of = 0.0 if name.endswith("bias") else RATE * 3.0 / M
        torch.testing.assert_close(found[name], plain[name] - of * w, rtol=1e-13, atol=1e-15)


def test_l2_in_the_loss_and_as_decay_are_the_same_for_sgd() -> None:
    for momentum in (0.0, 0.9):
        optimizer = partial(refnet.optim.SGD, lr=RATE, momentum=momentum)
        ways = [
            fit(model(optimizer, l2=2.0, l2_as=way), data(32), steps=9) for way in ("loss", "decay")
        ]
        for name, w in ways[0].items():
            torch.testing.assert_close(w, ways[1][name], rtol=1e-12, atol=1e-14)


def test_decay_of_adamw_is_decoupled() -> None:
    """W ← (1 − αλ/m) W before the step, which is that of a gradient without the term."""
    adamw = partial(refnet.optim.AdamW, lr=0.01, weight_decay=0.0)
    before = dict(model().double().net.named_parameters())
    plain, found = fit(model(adamw)), fit(model(adamw, l2=3.0, l2_as="decay"))
    for name, w in before.items():
        of = 0.0 if name.endswith("bias") else 0.01 * 3.0 / M
        torch.testing.assert_close(found[name], plain[name] - of * w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("l2_as", ["loss", "decay"])
@pytest.mark.parametrize("optimizer", [SGD, ADAM])
def test_refnet_and_torch_agree(optimizer: Any, l2_as: Any) -> None:
    options: dict[str, Any] = {"l2": 2.0, "l2_as": l2_as, "l1": 1.0}
    ours, theirs = (
        fit(model(optimizer, implementation=side, **options), data(32), steps=9)
        for side in ("refnet", "torch")
    )
    for name, w in ours.items():
        torch.testing.assert_close(w, theirs[name], rtol=1e-10, atol=1e-12)


def test_l1_ends_a_step_with_the_soft_threshold() -> None:
    """W ← sign(V) max(|V| − α λ/(2m), 0), V what the optimizer left."""
    plain, found = fit(model()), fit(model(l1=20.0))
    for name, v in plain.items():
        threshold = 0.0 if name.endswith("bias") else RATE * 20.0 / (2 * M)
        want = v.sign() * (v.abs() - threshold).clamp(min=0)
        torch.testing.assert_close(found[name], want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("optimizer", [SGD, ADAM, partial(refnet.optim.Momentum, lr=RATE)])
def test_more_l1_makes_more_weights_exactly_zero(optimizer: Any) -> None:
    shares = []
    for l1 in (3.0, 6.0, 12.0):
        classifier = model(optimizer, l1=l1)
        fitted = fit(classifier, data(32), steps=60, check_val_every_n_epoch=1)
        weights = torch.cat([w.flatten() for n, w in fitted.items() if n.endswith("weight")])
        shares.append((weights == 0).double().mean().item())
        assert classifier.found["zero_weights"].item() == pytest.approx(shares[-1])
        assert all((b != 0).all() for b in biases(fitted))
    assert 0 < shares[0] < shares[1] < shares[2]


def test_the_penalty_is_logged_beside_the_loss() -> None:
    plain, both = model(), model(l2=3.0, l1=2.0)
    weights = [w for name, w in both.double().net.named_parameters() if name.endswith("weight")]
    want = sum((3.0 * w.square().sum() + 2.0 * w.abs().sum()).item() for w in weights) / (2 * M)
    fit(plain)
    fit(both)
    assert both.found["penalty"].item() == pytest.approx(want, rel=1e-12)
    assert both.found["train_loss"] == plain.found["train_loss"]  # the data's alone
    assert "penalty" not in plain.found
    assert "zero_weights" not in plain.found


def test_without_strengths_the_optimizer_has_one_group() -> None:
    for l2 in (0.0, 1.0):
        (group,) = model(l2=l2).configure_optimizers().param_groups
        assert "l1" not in group
    groups = model(partial(SGD, weight_decay=0.5), l1=1.0).configure_optimizers().param_groups
    assert [g["weight_decay"] for g in groups] == [0.5, 0.5]  # the optimizer's own stays
    groups = model(partial(SGD, weight_decay=0.5), l2_as="decay").configure_optimizers()
    assert [g["weight_decay"] for g in groups.param_groups] == [0.0, 0.0]


@pytest.mark.parametrize("l2_as", ["loss", "decay"])
def test_accumulated_batches_have_one_penalty(l2_as: Any) -> None:
    options: dict[str, Any] = {"l2": 3.0, "l2_as": l2_as, "l1": 2.0}
    whole = fit(model(**options))
    parts = fit(model(**options), data(M // 4), accumulate_grad_batches=4)
    for name, w in whole.items():
        torch.testing.assert_close(parts[name], w, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("l2_as", ["loss", "decay"])
def test_under_autocast(l2_as: Any) -> None:
    options: dict[str, Any] = {"l2": 3.0, "l2_as": l2_as, "l1": 20.0}
    x, y = next(iter(data()))
    loader = DataLoader(TensorDataset(x.float(), y), M)
    mixed, plain = (
        fit(model(**options), loader, steps=3, val=loader, precision=precision)
        for precision in ("bf16-mixed", "32-true")
    )
    for name, w in plain.items():
        torch.testing.assert_close(mixed[name], w, rtol=0, atol=5e-3)
    assert any((w == 0).any() for w in mixed.values())


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("l2_as", ["loss", "decay"])
def test_a_resumed_run_has_the_same_bits(tmp_path: Path, l2_as: Any) -> None:
    options: dict[str, Any] = {"l2": 3.0, "l2_as": l2_as, "l1": 5.0}
    every = ModelCheckpoint(tmp_path, every_n_train_steps=4, save_top_k=-1, filename="{step}")
    on: dict[str, Any] = {"enable_checkpointing": True, "callbacks": [ExactResume(), every]}
    whole, resumed = model(ADAM, **options), model(ADAM, **options).double()
    want = fit(whole, data(32), steps=9, **on)
    fit(resumed, data(32), steps=9, ckpt_path=tmp_path / "step=4.ckpt", **on)
    for name, p in resumed.net.named_parameters():
        assert torch.equal(p, want[name]), name
    for name in ("penalty", "train_loss", "zero_weights"):
        assert resumed.found[name] == whole.found[name], name


@pytest.mark.parametrize("l2_as", ["loss", "decay"])
def test_a_strength_can_be_changed_in_training(l2_as: Any) -> None:
    class Change(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if trainer.global_step == 1:
                module.l2, module.l1 = 40.0, 30.0

    options: dict[str, Any] = {"l2": 1.0, "l2_as": l2_as, "l1": 1.0}
    changed = fit(model(**options), steps=2, callbacks=[Change()])
    one = fit(model(**options))
    torch.manual_seed(0)
    again = model(**{**options, "l2": 40.0, "l1": 30.0}).double()
    again.net.load_state_dict(one)
    for name, w in fit(again).items():
        assert torch.equal(w, changed[name]), name

    class Late(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            module.l1 = 1.0

    with pytest.raises(ValueError, match=r"l1=1\.0, in a training that began without"):
        fit(model(), callbacks=[Late()])


def test_the_builtins_beside_see_no_difference() -> None:
    beside = BuiltinBeside(1, on_difference="stop")
    fit(model(ADAM, l2=2.0), data(32), steps=3, callbacks=[beside])
    fit(model(ADAM, l2=2.0, l2_as="decay"), data(32), steps=3, callbacks=[beside])
    assert beside.reports


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": -1.0}, r"l2 must be finite and at least 0, got -1\.0"),
        ({"l1": float("nan")}, "l1 must be finite and at least 0, got nan"),
        ({"l2_as": "both"}, "l2_as must be 'loss' or 'decay', got 'both'"),
    ],
)
def test_errors_name_argument_and_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_what_cannot_be_done_is_said() -> None:
    rprop = partial(torch.optim.Rprop, lr=0.1)
    with pytest.raises(ValueError, match="l2_as='decay': the optimizer Rprop has no weight_decay"):
        model(rprop, l2=1.0, l2_as="decay").configure_optimizers()

    class Stream(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Any:
            return iter(data().dataset)

    with pytest.raises(ValueError, match=r"l2=1\.0, l1=0\.0: .* a DataLoader doesn't tell it"):
        fit(model(l2=1.0), DataLoader(Stream(), M))


def test_from_the_command_line(here: Path) -> None:
    args = "fit --config mlp --trainer.max_epochs 1 --model.l2 1 --model.l1 0.5 --model.l2_as decay"
    dropout = ["--model.net.dropout", "[0.3, 0.1]", "--model.net.initialization", "by_activation"]
    cli = main([*args.split(), *dropout])
    with (here / "runs" / "mlp" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert any(float(row["penalty"] or 0) > 0 for row in rows)
    assert any(float(row["zero_weights"] or 0) > 0 for row in rows)
    assert [layer.p for layer in cli.model.net.children() if hasattr(layer, "p")] == [0.3, 0.1]
