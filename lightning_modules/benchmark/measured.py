"""One case of the benchmark: refused while its verification is red, else timed and weighed."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch

import refnet
from lightning_modules.benchmark.cases import OURS, Case, Party
from lightning_modules.benchmark.cuda import copy_bandwidth, measure_on_device, peak_on_device
from lightning_modules.benchmark.end_to_end import training_steps
from lightning_modules.benchmark.results import Result
from lightning_modules.benchmark.timing import Timing, measure
from verification import verify_op, verify_optimizer
from verification.cases import op_tables
from verification.ops.memory import bytes_kept
from verification.optimizers.memory import peak_bytes

STEPS = "training steps"
AGAIN = " again"


def result_of(
    title: str, case: Case | str, seconds: float, *, device: str = "cpu", compiled: bool = False
) -> Result:
    """Time a case, or the training steps of a net.

    Args:
        title: what it is called.
        case: or the name of a net.
        seconds: to spend on it, about; on CUDA `triton.testing` decides.
        device: "cpu" or "cuda".
        compiled: whether to time the builtin under `torch.compile` as well.
    """
    if isinstance(case, str):
        return _steps(title, case, seconds, device)
    reason = red(case.subject, device)
    if reason:
        return Result(title, case.subject, case.elements, refused=reason)
    if device == "cuda":
        with torch.device("cuda"):  # where what a case makes lies
            return _time_on_device(case, compiled=compiled)
    return _time(case, seconds, compiled=compiled)


@cache
def red(subject: str, device: str) -> str:
    """Return why there may be no figures of an op or optimizer: its verification fails."""
    if subject in op_tables():
        report = verify_op(getattr(refnet.functional, subject), like=subject, device=device)
    else:
        report = verify_optimizer(getattr(refnet.optim, subject), like=subject, device=device)
    first = next(iter(report.failures), None)
    return "" if first is None else f"verification: {first.case}, {first.quantity}: {first.verdict}"


def _time(case: Case, seconds: float, *, compiled: bool) -> Result:
    parties = case.make()
    best = _best(parties, seconds / 4)
    calls = {OURS: parties[OURS].both, best: parties[best].both, best + AGAIN: parties[best].both}
    if compiled and case.compiled is not None:
        calls["compiled"] = case.compiled().both
    timed = measure(calls, seconds)
    ours, theirs = timed[OURS], timed[best]
    forward, backward = _ways(parties, timed, best, seconds / 2)
    other = timed.get("compiled")
    return Result(
        case.title, case.subject, case.elements, ours.median, ours.spread, theirs.median, best,
        ratio=theirs.ratio(ours), noise=abs(theirs.ratio(timed[best + AGAIN]) - 1),
        forward=forward, backward=backward,
        compiled=math.nan if other is None else other.ratio(ours),
        bandwidth=case.floor * case.elements / ours.median / 1e9,
        kept=_kept(parties[OURS], parties[best]),
        peak=(peak_bytes(parties[OURS].both), peak_bytes(parties[best].both)),
    )  # fmt: skip


def _time_on_device(case: Case, *, compiled: bool) -> Result:
    parties = case.make()
    calls = {name: party.both for name, party in parties.items()}
    if compiled and case.compiled is not None:
        calls["compiled"] = case.compiled().both
    timed = measure_on_device(calls)
    best = min(parties.keys() - {OURS}, key=lambda name: timed[name].device.median)
    again = measure_on_device({best: parties[best].both})[best]
    ours, theirs, other = timed[OURS], timed[best], timed.get("compiled")
    bandwidth = case.floor * case.elements / ours.device.median
    forward, backward = math.nan, math.nan
    ahead = {name: parties[name].forward for name in (OURS, best)}
    if all(ahead.values()):
        way = measure_on_device({name: call for name, call in ahead.items() if call})
        forward = way[best].device.ratio(way[OURS].device)
        added = {n: timed[n].device.median - way[n].device.median for n in way}
        backward = added[best] / added[OURS]
    return Result(
        case.title, case.subject, case.elements, ours.device.median, ours.device.spread,
        theirs.device.median, best, ratio=theirs.device.ratio(ours.device),
        noise=abs(theirs.device.median / again.device.median - 1),
        forward=forward, backward=backward,
        compiled=math.nan if other is None else other.device.ratio(ours.device),
        bandwidth=bandwidth / 1e9, kept=_kept(parties[OURS], parties[best]),
        peak=(peak_on_device(parties[OURS].both), peak_on_device(parties[best].both)),
        graph=theirs.graph.ratio(ours.graph), host_ours=ours.host.median,
        host_builtin=theirs.host.median, share=bandwidth / copied(),
    )  # fmt: skip


def _best(parties: dict[str, Party], seconds: float) -> str:
    """Name the fastest of torch's ways."""
    theirs = {name: party.both for name, party in parties.items() if name != OURS}
    if len(theirs) == 1:
        return next(iter(theirs))
    timed = measure(theirs, seconds)
    return min(timed, key=lambda name: timed[name].median)


def _ways(
    parties: dict[str, Party], both: dict[str, Timing], best: str, seconds: float
) -> tuple[float, float]:
    """The ratios of the forward, and of what the backward adds."""
    ours, theirs = parties[OURS].forward, parties[best].forward
    if ours is None or theirs is None:
        return math.nan, math.nan
    timed = measure({OURS: ours, best: theirs}, seconds)
    added = {name: both[name].median - timed[name].median for name in timed}
    return timed[best].ratio(timed[OURS]), added[best] / added[OURS]


def _kept(ours: Party, theirs: Party) -> tuple[int, int]:
    if ours.forward is None or theirs.forward is None:
        return -1, -1
    return bytes_kept(ours.forward, ours.held), bytes_kept(theirs.forward, theirs.held)


def _steps(title: str, net: str, seconds: float, device: str) -> Result:
    calls = training_steps(net, device)
    timed = measure({**calls, "torch" + AGAIN: calls["torch"]}, 2 * seconds)
    ours, theirs = timed[OURS], timed["torch"]
    return Result(
        title, STEPS, 0, ours.median, ours.spread, theirs.median, "torch",
        ratio=theirs.ratio(ours), noise=abs(theirs.ratio(timed["torch" + AGAIN]) - 1),
    )  # fmt: skip


class _Empty(torch.autograd.Function):
    """What no op of ours can be faster than."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def empty_function() -> float:
    """Return the seconds that a Function takes both ways which does nothing."""
    x = torch.ones(64, 10, requires_grad=True)
    ones = torch.ones(64, 10)

    def both() -> object:
        return torch.autograd.grad(_Empty.apply(x), x, ones)  # type: ignore[no-untyped-call]

    return measure({"empty": both}, 0.3)["empty"].median


@cache
def copied() -> float:
    """Return what a copy on the device reaches, in bytes per second."""
    return copy_bandwidth()
