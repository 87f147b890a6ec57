"""What a dropout draws, judged by its results alone; and that nobody else draws anything.

A dropout that takes no mask can still be held to what it has to be: its outputs tell its masks.
What is exact is compared exactly. What is random is counted and correlated; see `chance`.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verification.cases import Case, OpTable
from verification.limits import time_limit as limited
from verification.ops.calls import run, torchs_way
from verification.ops.chance import correlated, counted
from verification.ops.masks import is_random
from verification.report import ANOTHER, AS_GOOD, Row
from verification.tensors import as_tensors, lay_out, short, to_numpy

PROBABILITIES = (0.1, 0.5, 0.9)
DTYPES = (torch.float64, torch.float32)
# One random number for each element, or for each of the first two dimensions.
SHAPES = {
    "dropout": (50, 40, 10),
    "dropout1d": (120, 50, 4),
    "dropout2d": (120, 50, 2, 2),
    "dropout3d": (120, 50, 1, 2, 2),
}
MANY = (3, 70_001, 1)  # above three times 2^16, of which periods are made
UNBATCHED = {"dropout1d": (300, 4), "dropout3d": (300, 1, 2, 2)}
Function = Callable[..., Any]
Found = tuple[str, float, float, str, str]  # quantity, error, bound, rule, note


def randomness_rows(
    table: OpTable,
    candidate: Function | None = None,
    *,
    device: str = "cpu",
    seeds: int | Sequence[int] = 3,
    time_limit: float | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of what an op does with random numbers.

    Args:
        table: the op.
        candidate: a function with torch's signature; it is not given a mask.
        device: where it computes.
        seeds: how many draws of each check, or which.
        time_limit: seconds for each list of rows.

    Returns:
        An iterator over lists of rows; one of one row for an op that is not random.

    Example:
        >>> from verification.cases import op_tables
        >>> lists = list(randomness_rows(op_tables()["dropout"], seeds=1))
        >>> all(row.passed for rows in lists for row in rows)
        True
    """
    function, where = candidate or table.candidate, torch.device(device)
    draws = range(seeds) if isinstance(seeds, int) else seeds
    if not is_random(table):
        yield [_silent(table, function, where, time_limit)]
        return
    for p in PROBABILITIES:
        for dtype in DTYPES:
            trials = [Trial(table.name, function, p, dtype, where, seed) for seed in draws]
            yield _rows(trials, CHECKS, time_limit)
    yield _rows([Trial(table.name, function, 0.5, DTYPES[1], where, 0)], FIXED, time_limit)


def randomness_cases(table: OpTable) -> list[str]:
    """Return the cases that the rows are of."""
    if is_random(table):
        return [_drawn(p) for p in PROBABILITIES]
    return [_few(table)[0].name]


def _drawn(p: float) -> str:
    return f"p={p:g}, drawn"


def _few(table: OpTable) -> list[Case]:
    fits = [case for case in table.cases if "float32" in case.dtypes]
    return [case for case in fits if case.layout == "contiguous"][:3]


@dataclass(frozen=True)
class Trial:
    """A dropout, and how it is called."""

    name: str
    function: Function
    p: float
    dtype: torch.dtype
    device: torch.device
    seed: int

    def call(self, input: Tensor, **options: Any) -> Tensor:
        """Call the dropout without the warnings about unusual shapes."""
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            output = self.function(input, **{"p": self.p, **options})
        if not isinstance(output, Tensor):
            raise TypeError(f"the output is {type(output).__name__}, expected a tensor")
        if (output.shape, output.dtype) != (input.shape, input.dtype):
            raise ValueError(f"the output is of shape {list(output.shape)} and {output.dtype}")
        return output

    def draw(self, *shape: int) -> Tensor:
        """Return numbers that are not zero, of a generator of their own."""
        generator = torch.Generator().manual_seed(self.seed)
        normal = torch.randn(shape or SHAPES[self.name], generator=generator, dtype=torch.float64)
        return (normal + normal.sign() / 2).to(self.dtype).to(self.device)

    def mask(self, *shape: int) -> Tensor:
        """Return what the next call keeps, one number for each that had to be drawn."""
        kept = self.call(torch.ones_like(self.draw(*shape))).detach() != 0
        return (kept if self.name == "dropout" else kept.flatten(2)[:, :, 0]).cpu()


# What each draw has to show


def _values(t: Trial) -> Iterator[Found]:
    input, cotangent = t.draw().requires_grad_(), t.draw().flip(0)
    output = t.call(input)
    (gradient,) = torch.autograd.grad(output, input, cotangent)
    kept = output.detach() != 0
    rule = "x / (1 − p) to eps, or 0"
    yield "kept values", _gap(output, input, kept, t.p), 1.0, rule, ""
    yield "grad input", _gap(gradient, cotangent, kept, t.p), 1.0, "the output's mask and scale", ""
    if t.name != "dropout":
        yield "whole channels", *_mixed(kept, 2)
    if t.name in UNBATCHED:
        alone = t.call(t.draw(*UNBATCHED[t.name])).detach() != 0
        yield "whole channels, no batch", *_mixed(alone, 1)


def _gap(output: Tensor, input: Tensor, kept: Tensor, p: float) -> float:
    """Return the largest error relative to what is kept, in eps; infinite where 0 is due."""
    x, y, mask = (to_numpy(t).astype(np.longdouble) for t in (input, output, kept))
    right = x * mask / (1 - np.longdouble(p))
    gap = np.abs(y - right)
    wrong = bool((gap[right == 0] != 0).any()) or not np.isfinite(y).all()
    largest = float((gap[right != 0] / np.abs(right[right != 0])).max(initial=0))
    return math.inf if wrong else largest / torch.finfo(output.dtype).eps


def _mixed(kept: Tensor, dim: int) -> tuple[float, float, str, str]:
    channels = kept.flatten(dim)
    mixed = (channels != channels[..., :1]).any(-1).sum().item()
    return mixed, 0.0, "channels in part", ""


def _infinite(t: Trial) -> Iterator[Found]:
    """∞ is multiplied by 0, not replaced by it."""
    with _seeded(t, 0):
        kept = t.call(torch.ones_like(t.draw())).detach() != 0
    with _seeded(t, 0):
        output = t.call(torch.full_like(t.draw(), math.inf)).detach()
    wrong = (~torch.where(kept, output == math.inf, output.isnan())).sum().item()
    yield "∞", wrong, 0.0, "∞ · 0 = NaN", ""


def _rate(t: Trial) -> Iterator[Found]:
    masks = [t.mask().flatten() for _ in range(4)]
    yield "keep rate", *counted(torch.cat(masks), 1 - t.p)


def _independent(t: Trial) -> Iterator[Found]:
    """Two independent units are kept or shut off alike with probability p² + (1 − p)²."""
    alike = t.p**2 + (1 - t.p) ** 2
    first, second = t.mask(), t.mask()
    yield "successive calls", *counted(first == second, alike)
    rows = torch.stack([first, second])
    yield "at any distance", *correlated(rows, 1 - t.p)
    for dim, name in enumerate(("", "examples", "channels", "positions")[: rows.dim()]):
        if name:
            even, odd = (
                rows.index_select(dim, torch.arange(i, rows.shape[dim], 2)) for i in (0, 1)
            )
            yield f"neighbouring {name}", *counted(even == odd, alike)


def _reproducible(t: Trial) -> Iterator[Found]:
    outputs = []
    for seed in (0, 0, 1):
        with _seeded(t, seed):
            before = _states(t.device)
            outputs.append(t.call(t.draw()).detach())
            drawn = before != _states(t.device)
    again = not torch.equal(outputs[0], outputs[1])
    yield "same seed, same mask", again, 0.0, "torch.manual_seed", ""
    yield "other seed, other mask", torch.equal(outputs[0], outputs[2]), 0.0, "manual_seed", ""
    yield "random state moves", not drawn, 0.0, "in training", ""


def _in_place(t: Trial) -> Iterator[Found]:
    with _seeded(t, 0):
        expected = t.call(t.draw()).detach()
    leaf = t.draw().requires_grad_()
    input = leaf * 1
    with _seeded(t, 0):
        output = t.call(input, inplace=True)
    same = output.data_ptr() == input.data_ptr() and torch.equal(output, expected)
    yield "in place", not same, 0.0, "the same values where the input was", ""
    (gradient,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
    rule = "the output's mask and scale"
    gap = _gap(gradient, torch.ones_like(leaf), expected != 0, t.p)
    yield "in place, grad input", gap, 1.0, rule, ""


# What doesn't depend on the draw


def _nothing_to_draw(t: Trial) -> Iterator[Found]:
    for name, factor, options in (
        ("p = 0", 1.0, {"p": 0.0}),
        ("p = 1", 0.0, {"p": 1.0}),
        ("evaluation", 1.0, {"p": 0.5, "training": False}),
    ):
        input = t.draw().requires_grad_()
        before = _states(t.device)
        output = t.call(input, **options)
        (gradient,) = torch.autograd.grad(output, input, torch.ones_like(output))
        moved = before != _states(t.device)
        yield f"{name}: random state", moved, 0.0, "stays", ""
        right = torch.equal(output, input * factor) and bool((gradient == factor).all())
        rule = "the input and gradients of 1" if factor else "zeros"
        yield f"{name}: values", not right, 0.0, rule, ""


def _uneven(t: Trial) -> Iterator[Found]:
    """The number of units that are kept is random too."""
    counts = {int(t.mask(10, 10, *SHAPES[t.name][2:]).sum()) for _ in range(40)}
    yield "number kept", len(counts) == 1, 0.0, "varies", ""


def _long(t: Trial) -> Iterator[Found]:
    """A mask that repeats itself late, as that of a short period does."""
    yield "at any distance, many", *correlated(t.mask(*MANY, *SHAPES[t.name][3:]), 1 - t.p)


CHECKS = (_values, _infinite, _rate, _independent, _reproducible, _in_place)
FIXED = (_nothing_to_draw, _uneven, _long)


def _rows(
    trials: list[Trial],
    checks: tuple[Callable[[Trial], Iterator[Found]], ...],
    time_limit: float | None,
) -> list[Row]:
    """Run checks on draws; a quantity's row is that of the worst draw."""
    rows: dict[str, Row] = {}
    try:
        with limited(time_limit):
            for trial in trials:
                for check in checks:
                    for row in _checked(trial, check):
                        worst = rows.setdefault(row.quantity, row)
                        if (row.passed, -row.used) < (worst.passed, -worst.used):
                            rows[row.quantity] = row
    except TimeoutError as error:
        rows["-"] = _failure(trials[0], error)
    return list(rows.values())


def _checked(trial: Trial, check: Callable[[Trial], Iterator[Found]]) -> Iterator[Row]:
    try:
        with _seeded(trial, 1000 + trial.seed):
            found = list(check(trial))
    except TimeoutError:
        raise
    except (Exception, SystemExit) as error:  # a candidate that crashes gets a row
        found = []
        yield replace(_failure(trial, error), quantity=check.__name__.strip("_").replace("_", " "))
    for quantity, gap, bound, rule, note in found:
        verdict = AS_GOOD if gap <= bound else ANOTHER
        yield Row(
            trial.name, _drawn(trial.p), quantity, short(trial.dtype), float(gap),
            math.nan, bound, rule, verdict, note, seed=trial.seed,
        )  # fmt: skip


def _failure(trial: Trial, error: BaseException) -> Row:
    note = f"{type(error).__name__}: {error}".splitlines()[0]
    return Row(trial.name, _drawn(trial.p), "-", short(trial.dtype), math.nan, math.nan,
               math.nan, "runs", ANOTHER, note, seed=trial.seed)  # fmt: skip


# Ops that are not random


def _silent(
    table: OpTable, candidate: Function, device: torch.device, time_limit: float | None
) -> Row:
    """Run a few cases forward and backward; the generators have to stay where they are."""
    function, note, moved = torchs_way(table, table.adapt(candidate)), "", 0
    cases = _few(table)
    try:
        with limited(time_limit), torch.random.fork_rng(_devices(device)):
            for case in cases:
                tensors = _tensors(table, case, device)
                before = _states(device)
                run(table, case, function, tensors, case.options)
                moved += before != _states(device)
    except (Exception, SystemExit) as error:
        note = f"{type(error).__name__}: {error}".splitlines()[0]
    verdict = AS_GOOD if not moved and not note else ANOTHER
    return Row(table.name, cases[0].name, "random state", "float32", moved, 0.0, 0.0, "stays",
               verdict, note)  # fmt: skip


def _tensors(table: OpTable, case: Case, device: torch.device) -> dict[str, Any]:
    arrays = case.draw(np.random.default_rng(0))
    tensors = as_tensors(table, case, arrays, torch.float32, device)
    laid_out = {name: lay_out(name, t, case, table) for name, t in tensors.items()}
    return table.complete(laid_out, dict(case.options)) | tensors


# Generators


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


@contextmanager
def _seeded(trial: Trial, seed: int) -> Iterator[None]:
    """Seed torch, and put the random states back."""
    with torch.random.fork_rng(_devices(trial.device)):
        torch.manual_seed(seed)
        yield


def _states(device: torch.device) -> list[bytes]:
    """Return the states of all generators that a candidate might draw from."""
    states = [torch.get_rng_state().numpy().tobytes(), repr(random.getstate()).encode()]
    states.append(repr([np.asarray(s).tobytes() for s in np.random.get_state()]).encode())
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    return states
