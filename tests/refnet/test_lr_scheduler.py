"""The lecture's schedules beside LambdaLR, and torch's schedules on refnet's optimizers."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.optim import lr_scheduler as torchs
from torch.optim.swa_utils import SWALR
from torch.utils.data import DataLoader

from refnet import optim
from refnet.optim.lr_scheduler import ExponentialDecay, InverseSqrtDecay, InverseTimeDecay

Make = Callable[..., Any]
Factor = Callable[[int], float]

# A schedule and the factor of the lecture's formula; epochs from 0.
SCHEDULES: dict[str, tuple[Make, Factor]] = {
    "InverseTimeDecay": (
        lambda o, **k: InverseTimeDecay(o, 0.3, **k),
        lambda epoch: 1 / (1 + 0.3 * epoch),
    ),
    "ExponentialDecay": (lambda o, **k: ExponentialDecay(o, **k), lambda epoch: 0.95**epoch),
    "InverseSqrtDecay": (
        lambda o, **k: InverseSqrtDecay(o, 0.7, **k),
        lambda epoch: 0.7 / math.sqrt(epoch + 1),
    ),
}
every_schedule = pytest.mark.parametrize(("make", "factor"), SCHEDULES.values(), ids=SCHEDULES)


def optimizer(lr: Any = 0.3, name: str = "SGD", package: Any = optim, **options: Any) -> Any:
    """Two groups, of which the second has a learning rate of its own."""
    torch.manual_seed(0)
    a, b = (torch.nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(2))
    second = torch.tensor(0.07, dtype=torch.float64) if isinstance(lr, Tensor) else 0.07
    groups = [{"params": [a]}, {"params": [b], "lr": second}]
    return getattr(package, name)(groups, lr=lr, **options)


def tensor_lr() -> Tensor:
    return torch.tensor(0.3, dtype=torch.float64)


def step(schedule: Any, *metrics: float) -> None:
    schedule.optimizer.step()
    schedule.step(*metrics)


def plain(values: list[Any]) -> list[float]:
    return [float(value) for value in values]


def rates(schedule: Any, steps: int = 30) -> list[list[float]]:
    """Learning rates before each step, as the schedule tells them and as the optimizer has them."""
    found = []
    for _ in range(steps):
        found.append(plain([group["lr"] for group in schedule.optimizer.param_groups]))
        assert found[-1] == plain(schedule.get_last_lr())
        step(schedule)
    return found


# --- The formulas


def test_golden_inverse_time_decay() -> None:
    """α₀ = 0.2, decay_rate = 1: 0.1, 0.067, 0.05, 0.04 in epochs 1 to 4."""
    found = [rate for rate, _ in rates(InverseTimeDecay(optimizer(0.2), 1.0), 5)]
    assert [round(rate, 3) for rate in found] == [0.2, 0.1, 0.067, 0.05, 0.04]


def test_golden_exponential_decay() -> None:
    """0.95^epoch α₀, from epoch 0 on."""
    found = [rate for rate, _ in rates(ExponentialDecay(optimizer(1.0)), 4)]
    assert found == pytest.approx([1, 0.95, 0.9025, 0.857375], rel=1e-15)


def test_golden_inverse_sqrt_decay() -> None:
    """k / √epoch α₀ in epochs 1, 4 and 9, the first epoch being 1."""
    found = [rate for rate, _ in rates(InverseSqrtDecay(optimizer(0.6), 0.5), 9)]
    assert (found[0], found[3], found[8]) == pytest.approx((0.3, 0.15, 0.1), rel=1e-15)


@pytest.mark.parametrize("lr", [lambda: 0.3, tensor_lr], ids=["float", "Tensor"])
@every_schedule
def test_lambda_lr_bit_for_bit(make: Make, factor: Factor, lr: Any) -> None:
    ours, theirs = optimizer(lr()), optimizer(lr())
    kept = ours.param_groups[0]["lr"]
    assert rates(make(ours)) == rates(torchs.LambdaLR(theirs, factor))
    if isinstance(kept, Tensor):  # it is filled, since a compiled or captured step holds on to it
        assert ours.param_groups[0]["lr"] is kept


@pytest.mark.parametrize("lr", [lambda: 0.3, tensor_lr], ids=["float", "Tensor"])
@pytest.mark.parametrize("gamma", [0.95, 0.5, 1.01])
def test_exponential_lr(gamma: float, lr: Any) -> None:
    ours = rates(ExponentialDecay(optimizer(lr()), gamma), 100)
    theirs = rates(torchs.ExponentialLR(optimizer(lr()), gamma), 100)
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=1e-14, abs=0)


@every_schedule
def test_asking_for_the_formula_warns_as_lambda_lr_does(make: Make, factor: Factor) -> None:
    found, messages = [], []
    for schedule in (make(optimizer()), torchs.LambdaLR(optimizer(), factor)):
        with pytest.warns(UserWarning, match="get_last_lr") as caught:
            found.append(schedule.get_lr())
        messages.append([str(warning.message) for warning in caught])
    assert found[0] == found[1]
    assert messages[0] == messages[1]


@every_schedule
def test_a_step_before_the_optimizers_warns(make: Make, factor: Factor) -> None:
    schedule = make(optimizer())
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step"):
        schedule.step()


# --- Resuming


@pytest.mark.parametrize("lr", [lambda: 0.3, tensor_lr], ids=["float", "Tensor"])
@every_schedule
def test_resumed_by_last_epoch(make: Make, factor: Factor, lr: Any) -> None:
    found = []
    for build in (make, lambda o, **k: torchs.LambdaLR(o, factor, **k)):
        first = build(optimizer(lr()))
        rates(first, 7)
        resumed = optimizer(lr())
        resumed.load_state_dict(first.optimizer.state_dict())  # brings initial_lr along
        found.append(rates(build(resumed, last_epoch=first.last_epoch - 1)))
        assert found[-1] == rates(first)
    assert found[0] == found[1]


@every_schedule
def test_resuming_without_initial_lr_is_torchs_error(make: Make, factor: Factor) -> None:
    for build in (make, lambda o, **k: torchs.LambdaLR(o, factor, **k)):
        with pytest.raises(KeyError, match="param 'initial_lr' is not specified"):
            build(optimizer(), last_epoch=3)


@pytest.mark.parametrize("lr", [lambda: 0.3, tensor_lr], ids=["float", "Tensor"])
@every_schedule
def test_resumed_by_state_dict_through_a_file(make: Make, factor: Factor, lr: Any) -> None:
    first, second = make(optimizer(lr())), make(optimizer(lr()))
    rates(first, 7)
    file = io.BytesIO()
    torch.save({"schedule": first.state_dict(), "optimizer": first.optimizer.state_dict()}, file)
    file.seek(0)
    checkpoint = torch.load(file, weights_only=True)
    second.load_state_dict(checkpoint["schedule"])
    second.optimizer.load_state_dict(checkpoint["optimizer"])
    assert rates(first) == rates(second)


@every_schedule
def test_state_dict_has_what_lambda_lrs_has(make: Make, factor: Factor) -> None:
    ours, theirs = make(optimizer()), torchs.LambdaLR(optimizer(), factor)
    for schedule in (ours, theirs):
        rates(schedule, 3)
    state, reference = ours.state_dict(), theirs.state_dict()
    del reference["lr_lambdas"]
    assert {name: state[name] for name in reference} == reference
    assert state.keys() - reference.keys() == {ours.option}


def test_the_option_comes_from_the_checkpoint() -> None:
    first, second = InverseTimeDecay(optimizer(), 0.3), InverseTimeDecay(optimizer(), 0.9)
    second.load_state_dict(first.state_dict())
    assert second.decay_rate == 0.3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@every_schedule
def test_copies_go_on_by_themselves(make: Make, factor: Factor, copied: Any) -> None:
    schedule = make(optimizer())
    rates(schedule, 4)
    twin = copied(schedule)
    assert twin.optimizer is not schedule.optimizer
    assert repr(twin) == repr(schedule)
    expected = rates(twin, 5)
    assert plain(schedule.get_last_lr()) == expected[0]  # nothing is shared
    assert rates(schedule, 5) == expected


def test_repr() -> None:
    found = [make(optimizer()) for make, _ in SCHEDULES.values()]
    step(found[0])
    assert [repr(schedule) for schedule in found] == [
        "InverseTimeDecay(decay_rate=0.3, last_epoch=1)",
        "ExponentialDecay(gamma=0.95, last_epoch=0)",
        "InverseSqrtDecay(k=0.7, last_epoch=0)",
    ]


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
@pytest.mark.parametrize("schedule", [InverseTimeDecay, ExponentialDecay, InverseSqrtDecay])
def test_errors_name_the_option(schedule: Any, value: float) -> None:
    with pytest.raises(ValueError, match=f"Invalid {schedule.option}: {value}"):
        schedule(optimizer(), value)
    if schedule is not InverseTimeDecay:
        with pytest.raises(ValueError, match=f"Invalid {schedule.option}: 0"):
            schedule(optimizer(), 0)
    with pytest.raises(TypeError, match="is not an Optimizer"):
        schedule(None, 0.5)


# --- Inside torch's schedules of schedules

Decay = Callable[[Any], Any]


def warm_up(o: Any) -> Any:
    return torchs.LinearLR(o, start_factor=0.1, total_iters=5)


NESTED: dict[str, Callable[[Any, Decay], Any]] = {
    "after a warm-up": lambda o, d: torchs.SequentialLR(o, [warm_up(o), d(o)], [5]),
    "before a constant": lambda o, d: torchs.SequentialLR(
        o, [d(o), torchs.ConstantLR(o, 0.5, 100)], [4]
    ),
    "after itself": lambda o, d: torchs.SequentialLR(o, [d(o), d(o), d(o)], [3, 9]),
    "after a warm-up of 0 steps": lambda o, d: torchs.SequentialLR(o, [warm_up(o), d(o)], [0]),
    "first in a chain": lambda o, d: torchs.ChainedScheduler([d(o), warm_up(o)]),
    "last in a chain": lambda o, d: torchs.ChainedScheduler([warm_up(o), d(o)]),
    "sequence in a chain": lambda o, d: torchs.ChainedScheduler(
        [torchs.SequentialLR(o, [warm_up(o), d(o)], [3]), torchs.ExponentialLR(o, 0.9)]
    ),
}


def told(schedule: Any, steps: int) -> list[list[float]]:
    found = []
    for _ in range(steps):
        groups = plain([group["lr"] for group in schedule.optimizer.param_groups])
        found += [groups, plain(schedule.get_last_lr())]
        step(schedule)
    return found


@pytest.mark.parametrize("lr", [lambda: 0.3, tensor_lr], ids=["float", "Tensor"])
@pytest.mark.parametrize("nest", NESTED.values(), ids=NESTED)
@every_schedule
def test_nested_as_lambda_lr(make: Make, factor: Factor, nest: Any, lr: Any) -> None:
    def reference(o: Any) -> Any:
        return torchs.LambdaLR(o, factor)

    ours, theirs = nest(optimizer(lr()), make), nest(optimizer(lr()), reference)
    assert told(ours, 12) == told(theirs, 12)
    resumed = nest(optimizer(lr()), make)
    resumed.load_state_dict(ours.state_dict())
    resumed.optimizer.load_state_dict(ours.optimizer.state_dict())
    assert told(resumed, 8) == told(theirs, 8)


# --- Torch's schedules on our optimizers

TORCHS: dict[str, Make] = {
    "LambdaLR": lambda o: torchs.LambdaLR(o, [lambda e: 0.9**e, lambda e: 1 / (1 + e)]),
    "MultiplicativeLR": lambda o: torchs.MultiplicativeLR(o, lambda e: 0.9),
    "StepLR": lambda o: torchs.StepLR(o, 4, 0.3),
    "MultiStepLR": lambda o: torchs.MultiStepLR(o, [2, 7], 0.3),
    "ConstantLR": lambda o: torchs.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: torchs.LinearLR(o, 0.2, 1.0, 6),
    "ExponentialLR": lambda o: torchs.ExponentialLR(o, 0.8),
    "SequentialLR": lambda o: torchs.SequentialLR(
        o, [torchs.ConstantLR(o, 0.1, 3), torchs.ExponentialLR(o, 0.8)], [3]
    ),
    "CosineAnnealingLR": lambda o: torchs.CosineAnnealingLR(o, 6, 0.01),
    "ChainedScheduler": lambda o: torchs.ChainedScheduler(
        [torchs.ConstantLR(o, 0.1, 3), torchs.ExponentialLR(o, 0.8)]
    ),
    "ReduceLROnPlateau": lambda o: torchs.ReduceLROnPlateau(o, factor=0.3, patience=1, cooldown=1),
    "CyclicLR": lambda o: torchs.CyclicLR(o, 0.01, 0.3, 4),  # moves momentum or β₁ too
    "CosineAnnealingWarmRestarts": lambda o: torchs.CosineAnnealingWarmRestarts(o, 4, 2),
    "OneCycleLR": lambda o: torchs.OneCycleLR(o, [0.3, 0.1], total_steps=25),  # likewise
    "PolynomialLR": lambda o: torchs.PolynomialLR(o, 10, 2.0),
    "SWALR": lambda o: SWALR(o, 0.05, 5),
}
# ours: the name, options, and torch's of the same steps
OPTIMIZERS: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    *[
        (name, options, name, options)
        for name, options in (
            ("SGD", {"momentum": 0.9}),
            ("RMSprop", {"momentum": 0.5}),
            ("Adam", {"amsgrad": True}),
            ("AdamW", {}),
        )
    ],
    ("Momentum", {"momentum": 0.9}, "SGD", {"momentum": 0.9, "dampening": 0.9}),
]


def test_the_table_has_all_of_torchs() -> None:
    assert TORCHS.keys() - {"SWALR"} == set(torchs.__all__) - {"LRScheduler"}


def trajectory(schedule: Any) -> tuple[list[Any], Tensor]:
    """What the groups' numbers and the parameters are, in 20 steps."""
    numbers, params = [], []
    o = schedule.optimizer
    leaves = [p for group in o.param_groups for p in group["params"]]
    generator = torch.Generator().manual_seed(1)
    plateau = isinstance(schedule, torchs.ReduceLROnPlateau)
    for epoch in range(20):
        for p in leaves:
            p.grad = torch.randn(3, generator=generator, dtype=torch.float64)
        step(schedule, *([1 / min(epoch + 1, 5)] if plateau else []))
        names = ("lr", "initial_lr", "momentum", "betas", "swa_lr", "max_momentum", "max_lr")
        numbers.append(
            [
                (n, plain(group[n]) if n == "betas" else float(group[n]))
                for group in o.param_groups
                for n in names
                if group.get(n) is not None
            ]
        )
        numbers.append(plain(schedule.get_last_lr()))
        params.append(torch.cat([p.detach() for p in leaves]))
    return numbers, torch.stack(params)


@pytest.mark.parametrize("lr", [lambda: 0.3, tensor_lr], ids=["float", "Tensor"])
@pytest.mark.parametrize("schedule", TORCHS)
@pytest.mark.parametrize(("name", "options", "twin", "twins"), OPTIMIZERS)
def test_torchs_schedules_on_our_optimizers(
    schedule: str, name: str, options: Any, twin: str, twins: Any, lr: Any
) -> None:
    ours = optimizer(lr(), name, optim, **options)
    theirs = optimizer(lr(), twin, torch.optim, **twins, foreach=False)
    if name == "Momentum":
        for group in theirs.param_groups:
            for p in group["params"]:
                theirs.state[p]["momentum_buffer"] = torch.zeros_like(p)
    cycles = schedule in ("CyclicLR", "OneCycleLR")
    found, w = trajectory(TORCHS[schedule](ours))
    expected, w_twin = trajectory(TORCHS[schedule](theirs))
    assert found == expected
    assert len({str(row) for row in found}) > 2  # it moves
    if name == "Momentum" and cycles:  # torch's dampening does not follow its momentum
        assert not torch.allclose(w, w_twin, rtol=1e-3)
    else:
        torch.testing.assert_close(w, w_twin, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("schedule", ["CyclicLR", "OneCycleLR"])
def test_optimizers_without_momentum_are_refused_as_torchs(schedule: str) -> None:
    for package in (optim, torch.optim):
        o = optimizer(0.3, "RMSprop", package)
        for group in o.param_groups:
            del group["momentum"]
        del o.defaults["momentum"]
        with pytest.raises(ValueError, match="optimizer must support momentum or beta1"):
            TORCHS[schedule](o)


# --- In Lightning


class Module(pl.LightningModule):
    def __init__(self, build: Make, interval: str) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.build, self.interval = build, interval

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(6, 2), batch_size=2)  # three steps an epoch

    def configure_optimizers(self) -> Any:
        o = optim.SGD(self.parameters(), lr=0.3)
        return [o], [{"scheduler": self.build(o), "interval": self.interval}]


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def trainer(folder: Any, rates: Rates, epochs: int) -> pl.Trainer:
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=epochs, callbacks=[rates], **quiet
    )


@pytest.mark.parametrize("interval", ["epoch", "step"])
@every_schedule
def test_by_epoch_and_by_step_in_lightning_and_resumed(
    tmp_path: Any, make: Make, factor: Factor, interval: str
) -> None:
    first, second = Rates(), Rates()
    run = trainer(tmp_path, first, epochs=2)
    run.fit(Module(make, interval))
    run.save_checkpoint(tmp_path / "it.ckpt")
    resumed = trainer(tmp_path, second, epochs=4)
    resumed.fit(Module(make, interval), ckpt_path=tmp_path / "it.ckpt", weights_only=True)
    count = range(12) if interval == "step" else [e for e in range(4) for _ in range(3)]
    assert first.seen + second.seen == [0.3 * factor(t) for t in count]
