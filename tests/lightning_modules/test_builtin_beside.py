"""torch's builtins beside a live run: nothing is touched, bugs are named, limits are said."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import refnet.optim
from lightning_modules import BuiltinBeside, Classifier, ConvNet
from lightning_modules.builtin_beside import BuiltinDiffersError, builtin_optimizer
from refnet import nn
from verification.mutants import mutants, planted


class Net(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            torch.nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(16, 10),
        )  # fmt: skip


def model(optimizer: Any = refnet.optim.Adam) -> Classifier:
    seed_everything(0, verbose=False)
    return Classifier(Net(), optimizer=optimizer)


def data() -> DataLoader[tuple[Tensor, ...]]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 8, 8, generator=random)
    y = torch.randint(10, (64,), generator=random)
    return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True)


def fit(
    module: LightningModule, callback: BuiltinBeside | None, folder: Path | None = None,
    **options: Any,
) -> LightningModule:  # fmt: skip
    settings: dict[str, Any] = {"max_epochs": 2, **options}
    trainer = Trainer(
        accelerator="cpu", devices=1, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback] if callback else [],
        logger=CSVLogger(folder, name="", version="") if folder else False,
        log_every_n_steps=1, limit_val_batches=0, **settings,
    )  # fmt: skip
    trainer.fit(module, data(), data())
    return module


def bug(subject: str, name: str) -> Any:
    return planted(next(m for m in mutants() if (m.subject, m.bug) == (subject, name)))


OPTIMIZERS = {
    "SGD": lambda p: refnet.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "Momentum": lambda p: refnet.optim.Momentum(p, lr=0.1, weight_decay=1e-3),
    "RMSprop": lambda p: refnet.optim.RMSprop(p, lr=1e-3, centered=True),
    "AdamW": lambda p: refnet.optim.AdamW(p, lr=1e-3, amsgrad=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_refnet_agrees_and_nothing_is_touched(name: str) -> None:
    callback = BuiltinBeside(every_n_steps=3, on_difference="stop")
    beside, alone = (fit(model(OPTIMIZERS[name]), c).state_dict() for c in (callback, None))
    assert beside.keys() == alone.keys()
    assert all(torch.equal(beside[key], alone[key]) for key in alone)
    assert [number for number, _ in callback.reports] == [0, 0, 3, 3, 6, 6]
    for _, report in callback.reports:
        report.raise_if_failed()
        assert report.unmatched == []
        kinds = {row.quantity for row in report.rows if row.case == "net.1"}
        assert {"output", "gradient of weight", "parameter weight"} <= kinds
    assert {report.rows[0].dtype for _, report in callback.reports} == {"float32", "float64"}


@pytest.mark.parametrize(
    ("subject", "name", "layer"),
    [
        ("batch_norm", "ε 1.1 times", "net.2, output"),
        ("batch_norm", "biased running variance", "net.2, buffer running_var"),
        ("relu", "gradient everywhere", "net.3, gradient of input 0"),
        ("linear", "dW of the first example", "net.5, gradient of weight"),
        ("cross_entropy", "gradient not divided", "loss, gradient of input 0"),
        ("Adam", "ε ten times", "net.1, parameter weight"),
    ],
)
def test_a_planted_bug_stops_the_training(subject: str, name: str, layer: str) -> None:
    with (
        bug(subject, name),
        pytest.raises(BuiltinDiffersError, match=f"at batch 0: step 0, layer {layer}, local"),
    ):
        fit(model(), BuiltinBeside(on_difference="stop"))


def test_a_warning_and_what_is_written(tmp_path: Path) -> None:
    callback = BuiltinBeside(every_n_steps=2)
    with bug("batch_norm", "ε 1.1 times"), pytest.warns(UserWarning, match=r"layer net\.2, output"):
        fit(model(), callback, tmp_path)
    rows = json.loads((tmp_path / "builtin_beside.json").read_text())
    assert [(row["batch"], row["dtype"]) for row in rows[:2]] == [(0, "float32"), (0, "float64")]
    assert rows[1]["first_difference"]["layer"] == "net.2"
    assert rows[1]["failures"]
    assert not rows[1]["passed"]
    assert "builtin_beside" in (tmp_path / "metrics.csv").read_text()


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
    ],
)
def test_other_ways_to_train(options: dict[str, Any]) -> None:
    callback = BuiltinBeside(every_n_steps=3, on_difference="stop")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        beside = fit(model(), callback, **options).state_dict()
    alone = fit(model(), None, **options).state_dict()
    assert all(torch.equal(beside[key], alone[key]) for key in alone)
    assert callback.reports
    mixed = options.get("precision") == "bf16-mixed"
    assert any("compares in float64 alone" in str(w.message) for w in said) is mixed


def test_a_convolutional_net() -> None:
    seed_everything(0, verbose=False)
    callback = BuiltinBeside(on_difference="stop")
    fit(Classifier(ConvNet()), callback, max_epochs=1)
    assert len(callback.reports) == 2


class Manual(Classifier):
    def __init__(self) -> None:
        super().__init__(Net())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._step(batch, "train")


class Keeps(Classifier):
    """Keeps a tensor with its graph, which can't be copied."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.kept = super().training_step(batch, batch_idx)
        return self.kept


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: Manual(), "does not compare manual optimization"),
        (lambda: Keeps(Net()), "can't copy the model: RuntimeError"),
        (
            lambda: model(lambda p: refnet.optim.RMSprop(p, eps_inside_root=True)),
            "does not compare the optimizer: .*eps_inside_root",
        ),
    ],
)
def test_what_is_not_supported_is_said(module: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=said):
        fit(module(), BuiltinBeside(every_n_steps=1, on_difference="stop"), max_epochs=1)


class Net32(Net):
    """Takes float32 alone."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype != torch.float32:
            raise TypeError("float32, please")
        return super().forward(input)  # type: ignore[no-any-return]


class Shy(Net):
    """Crashes where it is not converted to the builtins, in a copy."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float64 and isinstance(self[2], nn.BatchNorm1d):
            raise TypeError("not like this")
        return super().forward(input)  # type: ignore[no-any-return]


def test_a_model_that_crashes_beside_the_builtins_stops_the_training() -> None:
    with pytest.raises(BuiltinDiffersError, match=r"batch 0 in torch\.float64: TypeError: not"):
        fit(Classifier(Shy()), BuiltinBeside(on_difference="stop"), max_epochs=1)
    with pytest.warns(UserWarning, match=r"can't compare in torch\.float64: TypeError: not like"):
        fit(Classifier(Shy()), BuiltinBeside(), max_epochs=1)


def test_where_nothing_can_be_compared_the_training_stops() -> None:
    callback = BuiltinBeside(on_difference="stop")
    with pytest.warns(UserWarning, match="the reference: TypeError: float32, please"):
        fit(Classifier(Net32()), callback, max_epochs=1)  # float32 has been compared
    assert {report.rows[0].dtype for _, report in callback.reports} == {"float32"}
    with (
        pytest.warns(UserWarning, match="not in bf16-mixed"),
        pytest.raises(BuiltinDiffersError, match="the reference: TypeError: float32, please"),
    ):
        fit(Classifier(Net32()), BuiltinBeside(on_difference="stop"), precision="bf16-mixed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"on_difference": "cry"}, "on_difference must be 'warn' or 'stop', got 'cry'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BuiltinBeside(**arguments)


def test_momentum_with_bias_correction_has_no_counterpart() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="bias_correction=True"):
        builtin_optimizer(refnet.optim.Momentum([weight], bias_correction=True))


def test_the_state_is_handed_over() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    ours = refnet.optim.Adam([weight])
    weight.grad = torch.ones(2)
    ours.step()
    theirs = builtin_optimizer(ours)
    assert type(theirs) is torch.optim.Adam
    assert theirs.state[weight].keys() == ours.state[weight].keys()
    assert torch.equal(theirs.state[weight]["exp_avg"], ours.state[weight]["exp_avg"])
