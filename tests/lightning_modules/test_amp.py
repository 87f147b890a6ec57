"""refnet's optimizers and torch's in the same training: mixed precision, and what Lightning does.

Each run is made twice, from the same weights, and has to end with the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset

import refnet.optim
from refnet.optim.lr_scheduler import ExponentialDecay, InverseTimeDecay

Make = Callable[[Any], torch.optim.Optimizer]


def lecture(params: Any) -> torch.optim.Optimizer:
    """The lecture's momentum in torch: SGD with dampening, and buffers of zeros laid in before."""
    optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.9)
    for group in optimizer.param_groups:
        for param in group["params"]:
            optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    return optimizer


def both(name: str, **options: Any) -> tuple[Make, Make]:
    ours, theirs = getattr(refnet.optim, name), getattr(torch.optim, name)
    return lambda params: ours(params, **options), lambda params: theirs(params, **options)


# Ours and theirs.
TABLE: dict[str, tuple[Make, Make]] = {
    "SGD": both("SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "Momentum": (lambda params: refnet.optim.Momentum(params, lr=0.1), lecture),
    "RMSprop": both("RMSprop", lr=0.01, momentum=0.5, centered=True),
    "Adam": both("Adam", lr=0.01, amsgrad=True, weight_decay=0.01),
    "AdamW": both("AdamW", lr=0.01),
}
FUSED = {
    "SGD": both("SGD", lr=0.1, momentum=0.9, fused=True),
    "Adam": both("Adam", lr=0.01, fused=True),
    "AdamW": both("AdamW", lr=0.01, weight_decay=0.1, fused=True),
}
# Weights and losses, relative to the largest. On the machine at hand all but the fused ones are
# equal to the last bit; elsewhere a product and a sum may be rounded together.
ROUNDING = 1e-6
X = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
Y = X[:, :2].sin()


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def deviation(ours: Any, theirs: Any) -> float:
    """The largest difference of two lists of tensors, relative to the largest entry."""
    pairs = list(zip(ours, theirs, strict=True))
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


# ------------------------------------------------------------------------ GradScaler, by hand

STEPS, OVERFLOW = 12, 5


def scaled_loop(make: Make) -> dict[str, Any]:
    """Train in float16; in one step the loss overflows."""
    net = body()
    optimizer = make(net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    losses, scales, skipped = [], [], []
    for step in range(STEPS):
        before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
        with torch.autocast("cpu", torch.float16):
            out = net(X)
        assert out.dtype == torch.float16
        loss = (out.float() - Y).square().mean() * (float("inf") if step == OVERFLOW else 1)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.detach())
        scales.append(scaler.get_scale())
        after = (net.state_dict(), optimizer.state_dict())
        skipped.append(same(before, after))
    return {
        "losses": losses,
        "weights": list(net.state_dict().values()),
        "scales": scales,
        "skipped": skipped,
        "optimizer": optimizer,
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", [*TABLE, *(f"fused {name}" for name in FUSED)])
def test_scaled_float16_equals_torch(name: str) -> None:
    fused = name.startswith("fused ")
    table = FUSED[name.removeprefix("fused ")] if fused else TABLE[name]
    ours, theirs = map(scaled_loop, table)
    for run in (ours, theirs):
        assert run["skipped"] == [step == OVERFLOW for step in range(STEPS)]
        assert run["scales"][OVERFLOW] == run["scales"][OVERFLOW - 1] / 2
        # a fused optimizer divides by the scale itself
        assert getattr(run["optimizer"], "_step_supports_amp_scaling", False) == fused
    assert ours["scales"] == theirs["scales"]
    assert deviation(ours["weights"], theirs["weights"]) <= ROUNDING
    finite = [i for i in range(STEPS) if i != OVERFLOW]
    losses = [torch.stack([run["losses"][i] for i in finite]) for run in (ours, theirs)]
    assert deviation([losses[0]], [losses[1]]) <= ROUNDING
    assert losses[0][-1] < losses[0][0] / 1.2  # it does train


@pytest.mark.parametrize("name", TABLE)
def test_an_overflow_at_first_makes_no_state(name: str) -> None:
    net = body()
    optimizer = TABLE[name][0](net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = copy.deepcopy(net.state_dict())
    scaler.scale(net(X).sum() * float("nan")).backward()
    scaler.unscale_(optimizer)  # as whoever clips gradients does
    scaler.step(optimizer)
    scaler.update()
    assert same(before, net.state_dict())
    assert optimizer.state == {}
    assert scaler.get_scale() == 2.0**9


# -------------------------------------------------------------------------- under Lightning


class Net(pl.LightningModule):
    """One optimizer for all, or one for each layer, stepped in turn by hand."""

    def __init__(self, make: Make, schedule: Any = None, interval: str = "epoch") -> None:
        super().__init__()
        self.net = body()
        self.make, self.schedule, self.interval = make, schedule, interval
        self.losses: list[Tensor] = []
        self.rates: list[float] = []
        self.dtypes: set[torch.dtype] = set()
        self.overflow: int | None = None

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        out = self.net(x)
        self.dtypes.add(out.dtype)
        loss = (out.float() - y).square().mean()
        if len(self.losses) == self.overflow:
            loss = loss * float("inf")
        self.losses.append(loss.detach())
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.make(self.parameters())
        if self.schedule is None:
            return optimizer
        schedule = {"scheduler": self.schedule(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class ByHand(Net):
    """Two optimizers, each of which sees gradients of its own layer alone."""

    def __init__(self, make: Make, schedule: Any = None, interval: str = "epoch") -> None:
        super().__init__(make, schedule, interval)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
        pairs = zip(
            self.optimizers(), self.lr_schedulers(), (self.net[0], self.net[2]), strict=True
        )
        for optimizer, schedule, layer in pairs:
            self.toggle_optimizer(optimizer)
            wanted = [p.requires_grad for p in self.parameters()]
            assert wanted == [any(p is q for q in layer.parameters()) for p in self.parameters()]
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 0.1, "norm")
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            schedule.step()

    def configure_optimizers(self) -> Any:
        optimizers = [self.make(self.net[i].parameters()) for i in (0, 2)]
        return optimizers, [self.schedule(optimizer) for optimizer in optimizers]


def fit(net: Net, **options: Any) -> Net:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(net, DataLoader(TensorDataset(X, Y), 7))  # four steps, the last one smaller
    return net


def by_step(optimizer: Any) -> Any:
    return LambdaLR(optimizer, lambda t: 1 / (1 + 0.1 * t))


def by_epoch(optimizer: Any) -> Any:
    return LambdaLR(optimizer, lambda epoch: 0.8**epoch)


Schedules = tuple[Any, Any]  # ours and theirs
STEPWISE: Schedules = (lambda o: InverseTimeDecay(o, 0.1), by_step)
EPOCHWISE: Schedules = (lambda o: ExponentialDecay(o, 0.8), by_epoch)
# Net, schedules and their interval, options of the Trainer.
RUNS: dict[str, tuple[type[Net], Schedules, str, dict[str, Any]]] = {
    "float32, by step": (Net, STEPWISE, "step", {}),
    "bf16-mixed, by epoch": (Net, EPOCHWISE, "epoch", {"precision": "bf16-mixed"}),
    "norm": (Net, EPOCHWISE, "epoch", {"gradient_clip_val": 0.1}),
    "value": (
        *(Net, STEPWISE, "step"),
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    ),
    "accumulation, by step": (Net, STEPWISE, "step", {"accumulate_grad_batches": 3}),
    "all at once": (
        *(Net, STEPWISE, "step"),
        {"precision": "bf16-mixed", "gradient_clip_val": 0.1, "accumulate_grad_batches": 2},
    ),
    "manual, two optimizers": (ByHand, STEPWISE, "step", {}),
    "manual, bf16-mixed": (ByHand, EPOCHWISE, "step", {"precision": "bf16-mixed"}),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", TABLE)
def test_under_lightning_equals_torch(name: str, run: str) -> None:
    kind, schedules, interval, options = RUNS[run]
    ours, theirs = (
        fit(kind(make, schedule, interval), **options)
        for make, schedule in zip(TABLE[name], schedules, strict=True)
    )
    require_equal(ours, theirs)
    mixed = options.get("precision") == "bf16-mixed"
    assert ours.dtypes == {torch.bfloat16 if mixed else torch.float32}
    assert ours.trainer.global_step == theirs.trainer.global_step


def require_equal(ours: Net, theirs: Net) -> None:
    assert ours.rates == theirs.rates
    assert len(set(ours.rates)) > 1 or ours.schedule is None
    weights = [list(net.state_dict().values()) for net in (ours, theirs)]
    assert deviation(*weights) <= ROUNDING
    finite = [i for i in range(len(ours.losses)) if i != ours.overflow]
    losses = [torch.stack([net.losses[i] for i in finite]) for net in (ours, theirs)]
    assert deviation([losses[0]], [losses[1]]) <= ROUNDING
    assert (weights[0][0] - body()[0].weight).abs().max() > 1e-3  # it does train


def scaled() -> dict[str, Any]:
    """Real float16 on a CPU: the word "16-mixed" alone would be turned into bfloat16 there."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize("name", TABLE)
def test_float16_under_lightning(name: str, clip: float) -> None:
    nets = []
    for make in TABLE[name]:
        net = Net(make)
        net.overflow = 6
        nets.append(fit(net, **scaled(), gradient_clip_val=clip))
        assert net.dtypes == {torch.float16}
    require_equal(*nets)
    scales = [net.trainer.precision_plugin.scaler.get_scale() for net in nets]
    assert scales[0] == scales[1] == 2.0**12  # three times doubled, once halved


@pytest.mark.parametrize("name", FUSED)
def test_fused_optimizers_and_clipping(name: str) -> None:
    nets = [fit(Net(make), **scaled()) for make in FUSED[name]]
    require_equal(*nets)
    for make in FUSED[name]:
        with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
            fit(Net(make), **scaled(), gradient_clip_val=0.1)
