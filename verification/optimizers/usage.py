"""How an optimizer is used: groups, closures, schedules, layouts, several at once, checkpoints.

Every use is a few steps that candidate and builtin take alike, in float64, and whose parameters and
state have to agree; some uses look at what one optimizer does on its own as well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from verification.cases.optimizers import OptimizerTable
from verification.limits import time_limit as limited
from verification.optimizers.uses import (
    DEVICE,
    OPTIONS,
    Make,
    NoCount,
    Options,
    Use,
    Wrong,
    uses_of,
)
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, WORSE, Row

BOUND = 1e-12  # relative to the largest element of a tensor


def usage_rows(
    table: OptimizerTable,
    candidate: Make | None = None,
    *,
    state: bool = True,
    device: str = "cpu",
    time_limit: float | None = None,
) -> Iterator[list[Row]]:
    """Yield a row for each use of an optimizer, with few options and with many.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.
        state: whether the state has to be the builtin's too, or the parameters alone.
        device: where the parameters are.
        time_limit: seconds that a use may take.

    Returns:
        An iterator over lists of one row; "error" is the largest relative difference.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(usage_rows(optimizer_tables()["SGD"]))
        >>> rows[0].case, rows[0].quantity, rows[0].passed
        ('lr=0.05', 'every shape', True)
    """
    make = candidate or table.candidate
    for words, options in zip(usage_cases(table), OPTIONS[table.name], strict=True):
        for name, use in uses_of(table.name).items():
            token = DEVICE.set(device)
            try:
                theirs = _outcome(use, table.builtin, options, table.own_state, None)
                ours = _outcome(use, make, options, table.own_state, time_limit)
            finally:
                DEVICE.reset(token)
            verdict, error, note = _compare(ours, theirs, state)
            yield [Row(table.name, words, name, "float64", error, math.nan, BOUND, "like torch",
                       verdict, note)]  # fmt: skip


def usage_cases(table: OptimizerTable) -> list[str]:
    """Return the cases that the rows are of: the options in words."""
    return [
        " ".join(f"{name}={value}" for name, value in options.items())
        for options in OPTIONS[table.name]
    ]


def _compare(ours: Any, theirs: Any, state: bool) -> tuple[str, float, str]:
    uncounted = isinstance(theirs, NoCount) and not isinstance(ours, BaseException)
    if isinstance(ours, NoCount) or uncounted:  # another name or place fails as another state
        return AS_GOOD, math.nan, str(ours if isinstance(ours, NoCount) else theirs)
    said = [f"{type(r).__name__}: {r}".splitlines()[0] for r in (ours, theirs)]
    if isinstance(theirs, BaseException):
        if isinstance(theirs, Wrong):
            return INCONCLUSIVE, math.nan, f"the builtin: {said[1]}"
        if isinstance(ours, type(theirs)):
            return AS_GOOD, math.nan, f"both {type(theirs).__name__}"
        raised = f"raises {said[0]}" if isinstance(ours, BaseException) else "works"
        return WORSE, math.nan, f"{raised}; the builtin raises {said[1]}"
    if isinstance(ours, BaseException):
        return ANOTHER, math.nan, said[0]
    gaps = {"the parameters differ": _distance(ours[0], theirs[0])}
    if state:
        gaps["the state differs"] = _distance(ours[1], theirs[1])
    worst = max(gaps, key=gaps.__getitem__)
    verdict = AS_GOOD if gaps[worst] <= BOUND else ANOTHER
    return verdict, gaps[worst], "" if verdict == AS_GOOD else worst


def _outcome(
    use: Use, make: Make, options: Options, own: Sequence[str], time_limit: float | None
) -> Any:
    """Return parameters and state after a use, or what was raised."""
    try:
        with warnings.catch_warnings(), torch.enable_grad(), limited(time_limit):
            warnings.simplefilter("ignore")
            optimizer, params = use(make, options)
            state = [
                {n: v for n, v in found.items() if v is not None and n not in own}
                for found in (optimizer.state.get(p, {}) for p in params)
            ]
            return [p.detach() for p in params], state
    except (Exception, SystemExit) as error:
        return error


def _distance(ours: Any, theirs: Any) -> float:
    """Return the largest relative difference; infinite where names, types or shapes differ."""
    if isinstance(theirs, Tensor):
        if not isinstance(ours, Tensor) or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return math.inf
        finite = theirs.isfinite()
        if not torch.allclose(ours[~finite], theirs[~finite], equal_nan=True):
            return math.inf
        ours, theirs = ours[finite], theirs[finite]
        scale = theirs.abs().max().item() if theirs.numel() else 1.0
        gap = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
        return gap / (scale or 1.0) if math.isfinite(gap) else math.inf
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping) or ours.keys() != theirs.keys():
            return math.inf
        return max((_distance(ours[name], theirs[name]) for name in theirs), default=0.0)
    if isinstance(theirs, list):
        return max((_distance(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    return 0.0 if ours == theirs else math.inf
