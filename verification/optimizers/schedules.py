"""Run a schedule of the learning rate: candidate, builtin and oracle in every use of it.

What is compared is the rate of each step that the optimizer makes, for two groups of parameters,
relative to the rate itself: after many epochs it is small.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR, LambdaLR
from torch.optim.lr_scheduler import SequentialLR as Sequential

from refnet.optim import lr_scheduler
from verification.oracles import Exact, exact, schedules
from verification.report import ANOTHER, Row
from verification.tolerance import DRAWS, Sample, same_algorithm

Make = Callable[..., Any]  # (optimizer, option, last_epoch=-1) -> a schedule
Rates = list[list[float]]  # of each step: that of each group

BASES = (0.1, 0.03)  # α₀ of the two groups
STEPS = 30


@dataclass(frozen=True)
class ScheduleTable:
    """A schedule, its two other parties, and the values of its option.

    Attributes:
        name: of the schedule.
        candidate: refnet's class.
        builtin: makes torch's from an optimizer and the option.
        oracle: the rates of given epochs in NumPy.
        option: its name.
        values: of the option, the slide's first.
        others: further builtins that are the same schedule, though not in closed form: where the
            rate is not changed by anybody else.
    """

    name: str
    candidate: Make
    builtin: Make
    oracle: Callable[..., Exact]
    option: str
    values: tuple[float, ...]
    others: Mapping[str, Make]


def schedule_rows(name: str, candidate: Make | None = None) -> Iterator[list[Row]]:
    """Yield the rows of each use of a schedule.

    Args:
        name: "InverseTimeDecay", "ExponentialDecay" or "InverseSqrtDecay".
        candidate: a class or factory with the arguments of refnet's, instead of it.

    Returns:
        An iterator over lists of rows, a list for each of `USES`.

    Raises:
        ValueError: there is no such schedule.

    Example:
        >>> rows = next(schedule_rows("ExponentialDecay"))
        >>> rows[0].case, all(row.passed for row in rows)
        ('by epoch, gamma=0.95', True)
    """
    table = schedule_tables().get(name)
    if table is None:
        raise ValueError(f"name must be one of {', '.join(schedule_tables())}, got {name!r}")
    make = candidate or table.candidate
    for use in USES:
        yield [row for value in table.values for row in _rows(table, use, value, make)]


def _rows(table: ScheduleTable, use: str, value: float, make: Make) -> Iterator[Row]:
    case, nan = f"{use}, {table.option}={value:g}", math.nan
    builtins = {"": table.builtin, **(table.others if use in _PLAIN else {})}
    for other, builtin in builtins.items():
        quantity = f"rate, beside {other}" if other else "rate"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of SequentialLR about itself
                ours, theirs = USES[use](make, value), USES[use](builtin, value)
        except Exception as error:  # a candidate that crashes gets a row
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Row(table.name, case, "-", "float64", nan, nan, nan, "runs", ANOTHER, note)
            return
        judged = same_algorithm([_sample(table, use, value, ours, theirs)])
        yield Row(table.name, case, quantity, "float64", **vars(judged) | {"seed": None})


def _sample(table: ScheduleTable, use: str, value: float, ours: Rates, theirs: Rates) -> Sample:
    rng = np.random.default_rng(0)
    right = _expected(table, use, exact(BASES), exact(value))

    def share(of: npt.ArrayLike) -> Exact:
        rates = exact(of)
        return exact(rates / right) if rates.shape == right.shape else rates

    def ulp(x: npt.ArrayLike) -> Exact:
        return exact(exact(x) + np.spacing(np.abs(x)) * rng.choice([-1, 1], np.shape(x)))

    draws = [(ulp(BASES), ulp(value)) for _ in range(DRAWS)]
    return Sample(
        candidate=share(ours),
        builtin=share(theirs),
        oracle=np.ones_like(right),
        responses=[share(_expected(table, use, bases, v)) for bases, v in draws],
    )


def _expected(table: ScheduleTable, use: str, bases: Exact, value: Exact) -> Exact:
    """The oracle's rates, (steps, groups)."""
    epochs = _EPOCHS[use]
    rates = np.stack([table.oracle(base, [max(e, 0) for e in epochs], value) for base in bases], 1)
    for step, epoch in enumerate(epochs):
        if epoch < 0:  # before its turn
            rates[step] = exact(WARM) * bases
        elif use == "chained" and epoch > 0:
            rates[step] *= exact(CHAINED)
    return rates


# How a schedule is used, and which epoch each step of the optimizer then belongs to.

WARM, CHAINED, EARLY = 0.5, 0.9, 5
_EPOCHS: dict[str, Sequence[int]] = {
    "by epoch": [step // 5 for step in range(STEPS)],
    "by step": range(STEPS),
    "rates that are tensors": range(STEPS),
    "after a warm-up": [step - EARLY for step in range(STEPS)],
    "chained": range(STEPS),
    "resumed": range(STEPS),
    "from an epoch": range(EARLY, EARLY + STEPS),
}
_PLAIN = ("by epoch", "by step", "rates that are tensors", "resumed")


def _by_epoch(make: Make, value: float) -> Rates:
    optimizer = _optimizer()
    return _run(optimizer, make(optimizer, value), every=5)


def _by_step(make: Make, value: float) -> Rates:
    optimizer = _optimizer()
    return _run(optimizer, make(optimizer, value))


def _tensors(make: Make, value: float) -> Rates:
    optimizer = _optimizer([torch.tensor(base, dtype=torch.float64) for base in BASES])
    return _run(optimizer, make(optimizer, value))


def _warmed_up(make: Make, value: float) -> Rates:
    """After a rate that is lower for some epochs: those of the schedule begin with its turn."""
    optimizer = _optimizer()
    warm = ConstantLR(optimizer, WARM, total_iters=STEPS)
    return _run(optimizer, Sequential(optimizer, [warm, make(optimizer, value)], [EARLY]))


def _chained(make: Make, value: float) -> Rates:
    """First in a chain: it sets the rate, whatever the last one of the chain has made of it."""
    optimizer = _optimizer()
    chain = [make(optimizer, value), ExponentialLR(optimizer, CHAINED)]
    return _run(optimizer, ChainedScheduler(chain, optimizer))


def _resumed(make: Make, value: float) -> Rates:
    """Stopped after a third of the steps, and gone on with from the state dicts."""
    optimizer = _optimizer()
    schedule = make(optimizer, value)
    rates, file = _run(optimizer, schedule, steps=STEPS // 3), io.BytesIO()
    torch.save([optimizer.state_dict(), schedule.state_dict()], file)
    file.seek(0)
    states = torch.load(file)
    optimizer = _optimizer([1.0, 1.0])  # what it started with is in the state
    schedule = make(optimizer, value)
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    return rates + _run(optimizer, schedule, steps=STEPS - STEPS // 3)


def _from_epoch(make: Make, value: float) -> Rates:
    """A new object on the optimizer of an old one, which has gone as far as `last_epoch`."""
    optimizer = _optimizer()
    _run(optimizer, make(optimizer, value), steps=EARLY)
    return _run(optimizer, make(optimizer, value, last_epoch=EARLY - 1))


USES: dict[str, Callable[[Make, float], Rates]] = dict(
    zip(
        _EPOCHS,
        (_by_epoch, _by_step, _tensors, _warmed_up, _chained, _resumed, _from_epoch),
        strict=True,
    )
)


def _optimizer(rates: Sequence[Any] = BASES) -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups)


def _run(
    optimizer: torch.optim.Optimizer, schedule: Any, *, every: int = 1, steps: int = STEPS
) -> Rates:
    rates = []
    for step in range(steps):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        if (step + 1) % every == 0:
            schedule.step()
    return rates


def _lambda(factor: Callable[[float, int], float]) -> Make:
    """Torch's counterpart of a closed form."""
    return lambda optimizer, value, last_epoch=-1: LambdaLR(
        optimizer, lambda epoch: factor(value, epoch), last_epoch
    )


TABLES = (
    ScheduleTable(
        "InverseTimeDecay",
        lr_scheduler.InverseTimeDecay,
        _lambda(lambda decay_rate, epoch: 1 / (1 + decay_rate * epoch)),
        schedules.inverse_time,
        "decay_rate",
        (1.0, 0.0, 0.1, 30.0),
        {},
    ),
    ScheduleTable(
        "ExponentialDecay",
        lr_scheduler.ExponentialDecay,
        _lambda(lambda gamma, epoch: gamma**epoch),
        schedules.exponential,
        "gamma",
        (0.95, 0.5, 1.0, 1.1),
        {"ExponentialLR": ExponentialLR},
    ),
    ScheduleTable(
        "InverseSqrtDecay",
        lr_scheduler.InverseSqrtDecay,
        _lambda(lambda k, epoch: k / math.sqrt(epoch + 1)),
        schedules.inverse_sqrt,
        "k",
        (1.0, 0.3, 20.0),
        {},
    ),
)


def schedule_tables() -> dict[str, ScheduleTable]:
    """Return all tables of schedules by name."""
    return {table.name: table for table in TABLES}
