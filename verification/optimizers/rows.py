"""Run an optimizer's table: whole trajectories, parameters and state compared after every step."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from verification.cases.optimizers import Case, OptimizerTable
from verification.cases.pairs import coverage
from verification.limits import time_limit as limited
from verification.optimizers.runs import Lane, Make, Steps, run, state_difference
from verification.optimizers.trajectories import beside_builtin, beside_oracle, own_precision
from verification.oracles import exact
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, Row
from verification.tensors import nudge, round_to, short, to_numpy
from verification.tolerance import DRAWS, Judgement, Sample, same_algorithm, same_precision

# Which gradients are absent: tensors that have a pattern in common go through the oracle together.
# Even, so that a pattern belongs to one of two groups of parameters.
PATTERNS = 4
Samples = dict[tuple[str, float], list[Sample]]


def optimizer_rows(
    table: OptimizerTable,
    candidate: Callable[..., torch.optim.Optimizer] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seeds: int | Sequence[int] = 3,
    steps: int = 30,
    device: str = "cpu",
    own: bool = False,
    state: bool = True,
    time_limit: float | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of each case of an optimizer's table.

    A candidate is equivalent to the builtin if they can go on from each other's checkpoints: state
    of other names or dtypes is a failing row of the quantity "state", and the resumed runs, whose
    second third the builtin does, fail too. The parameters are judged all the same.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.
        dtypes: what candidate and builtin compute in.
        seeds: how many draws of parameters and gradients, or which; n stands for range(n).
        steps: length of a trajectory.
        device: where candidate and builtin compute.
        own: hold it to refnet's own, stricter targets, those of
            `verification.optimizers.trajectories`: in float64 the builtin to 1e-12 and the oracle
            to 1e-11, in the other dtypes 1.25 times the builtin's error; and count the pairs of
            options that the table holds.
        state: without it the parameters alone are judged, and a resumed run goes on from the
            candidate's own state dict.
        time_limit: seconds that a case may take, in all dtypes together; see `limits.time_limit`.

    Returns:
        An iterator over lists of rows, a list per case; `own` adds one for the count.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(optimizer_rows(optimizer_tables()["SGD"], seeds=1, steps=5))
        >>> all(row.passed for row in rows)
        True
    """
    make = table.candidate if candidate is None else candidate
    chosen = tuple(range(seeds) if isinstance(seeds, int) else seeds)
    for case in table.cases:
        rows: list[Row] = []
        kind = "-"
        try:
            with limited(time_limit):
                for dtype in dtypes:
                    kind, place = short(dtype), torch.device(device)
                    rows += _verify(table, case, make, dtype, (chosen, steps), place, own, state)
        except TimeoutError as error:
            rows.append(_failure(table, case, kind, "-", "runs", _first_line(error)))
        yield rows
    if own:
        yield [_coverage(table)]


def _coverage(table: OptimizerTable) -> Row:
    dtypes = table.pairs.values["dtype"]
    held = [{**case.values, "dtype": d} for case in table.cases if case.values for d in dtypes]
    found = coverage(table.pairs, held)
    verdict, note = (INCONCLUSIVE, str(found.missing)) if found.missing else (AS_GOOD, "")
    pairs = f"{len(found.covered)} pairs"
    return Row(table.name, "options", "pairs missing", "all", len(found.missing), math.nan, 0.0,
               pairs, verdict, note)  # fmt: skip


def _failure(
    table: OptimizerTable, case: Case, dtype: str, quantity: str, rule: str, note: str
) -> Row:
    nan = math.nan
    return Row(table.name, case.name, quantity, dtype, nan, nan, nan, rule, ANOTHER, note)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _verify(
    table: OptimizerTable,
    case: Case,
    candidate: Make,
    dtype: torch.dtype,
    size: tuple[tuple[int, ...], int],
    device: torch.device,
    own: bool,
    state: bool,
) -> list[Row]:
    seeds, steps = size
    drawn = () if seeds == tuple(range(len(seeds))) else seeds  # the first ones go by the case
    rng = np.random.default_rng([zlib.crc32(f"{table.name} {case.name}".encode()), *drawn])
    count = (len(seeds), steps)
    try:
        samples, differ = _samples(table, case, candidate, dtype, rng, count, device, state)
    except TimeoutError:
        raise
    except (Exception, SystemExit) as error:  # a candidate that crashes gets a row
        return [_failure(table, case, short(dtype), "-", "runs", _first_line(error))]
    rows = _worst(table, case, dtype, samples, own)
    if state and differ:
        rows.append(_failure(table, case, short(dtype), "state", "builtin's state", differ))
    return rows


@np.errstate(all="ignore")  # NaN and ∞ are among the values
def _samples(
    table: OptimizerTable,
    case: Case,
    candidate: Make,
    dtype: torch.dtype,
    rng: np.random.Generator,
    size: tuple[int, int],
    device: torch.device,
    state: bool,
) -> tuple[Samples, str]:
    """Draw parameters and gradients and run the three parties on them; a sample per seed.

    An optimizer works element by element, so that the draws of all seeds fit into one tensor.

    Returns:
        The samples by quantity and scale of the gradients, and how the state differs.
    """
    seeds, steps = size
    shape, count = (seeds, *case.shape), len(case.scales)
    params = round_to(rng.standard_normal((count, *shape)), dtype)
    patterns = [_pattern(rng, steps, resumed=1 + k // 2) for k in range(PATTERNS)]
    grads = round_to(_gradients(rng, case.scales, patterns, shape), dtype)

    lanes = [
        Lane(
            torch.tensor(params[i], dtype=dtype, device=device),
            torch.tensor(grads[i], dtype=dtype, device=device),
            patterns[i % PATTERNS] != "none",
        )
        for i in range(count)
    ]
    builtin = run(table.builtin, case, lanes)
    ours = run(candidate, case, lanes, candidate if table.own_state or not state else table.builtin)
    if ours is None:
        raise ValueError("expected an optimizer, but got None")
    samples: Samples = {}
    for k in range(min(PATTERNS, count)):
        arguments = {n: _plain(v) for n, v in _arguments(case, k).items()}
        present = patterns[k] != "none"
        oracle = _oracle(
            table, arguments, params[k::PATTERNS], grads[k::PATTERNS], present, dtype, rng
        )
        for quantity in oracle[-1]:
            known = builtin is not None and quantity not in table.own_state
            column = np.stack([step[quantity] for step in oracle])
            for place, i in enumerate(range(k, count, PATTERNS)):
                mine = _values(ours[i], quantity)
                if mine is None or (quantity != "param" and not state):
                    continue
                theirs = _values(builtin[i], quantity) if known else None
                samples[quantity, case.scales[i]] = [
                    _sample(mine, theirs, column, place, seed, shape) for seed in range(seeds)
                ]
    return samples, state_difference(table, ours, builtin) or _missing(samples, ours, oracle)


def _missing(samples: Samples, ours: list[Steps], oracle: Steps) -> str:
    missing = set(oracle[-1]) - {quantity for quantity, _ in samples}
    return f"state {sorted(ours[0][-1])}, without {sorted(missing)}" if missing else ""


def _sample(
    mine: Any, theirs: Any, column: Any, place: int, seed: int, shape: tuple[int, ...]
) -> Sample:
    """Cut a tensor's and a seed's part out; a count of steps, or a wrong shape, is left whole."""

    def of_seed(values: Any) -> Any:
        return values[:, seed] if values is not None and values.shape[1:] == shape else values

    whole = column.ndim == 1  # the oracle's values are (steps, 1 + DRAWS, tensors, seeds, …)
    draws = [column if whole else column[:, draw, place] for draw in range(1 + DRAWS)]
    right, *others = [of_seed(draw) for draw in draws]
    independent = math.prod(shape[1:])
    return Sample(of_seed(mine), of_seed(theirs), right, others, independent=independent)


def _arguments(case: Case, index: int) -> dict[str, Any]:
    """Return what the optimizer is told about a tensor: the second group has every other one."""
    return {**case.arguments, **(case.group if index % 2 else {})}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _oracle(
    table: OptimizerTable,
    arguments: dict[str, Any],
    params: Any,
    grads: Any,
    present: Any,
    dtype: torch.dtype,
    rng: np.random.Generator,
) -> Steps:
    """Run the oracle on inputs as they are, and beside them on some that are changed by ±1 ulp.

    What the changed ones keep from step to step is rounded to the tested dtype.
    """

    def beside(values: Any) -> Any:
        changed = nudge(np.broadcast_to(values, (DRAWS, *values.shape)), dtype, rng)
        return np.concatenate([values[None], changed])

    def store(value: Any) -> Any:
        kept = exact(value)
        if kept.ndim:  # no count of steps
            kept[1:] = round_to(kept[1:].astype(np.float64), dtype)
        return kept

    inputs = np.moveaxis(beside(grads), 2, 0)  # (steps, 1 + DRAWS, tensors, seeds, …)
    chosen = [g if there else None for g, there in zip(inputs, present, strict=True)]
    steps: Steps = table.oracle(beside(params), chosen, store=store, **arguments)
    return steps


def _worst(
    table: OptimizerTable, case: Case, dtype: torch.dtype, samples: Samples, own: bool
) -> list[Row]:
    """Judge every tensor by its own scale; a quantity's row is that of its worst tensor."""
    rows: dict[tuple[str, int], Row] = {}
    for (quantity, _), found in samples.items():
        for i, judged in enumerate(_judge(found, dtype, own)):
            row = Row(table.name, case.name, quantity, short(dtype), **vars(judged))
            used = rows.get((quantity, i))
            if used is None or (row.passed, -_use(row)) < (used.passed, -_use(used)):
                rows[quantity, i] = row
    return list(rows.values())


def _judge(samples: list[Sample], dtype: torch.dtype, own: bool) -> Iterator[Judgement]:
    eps, builtin = torch.finfo(dtype).eps, samples[0].builtin
    if dtype == torch.float64:
        yield beside_oracle(samples) if own else same_algorithm(samples)
        if own and builtin is not None:
            yield beside_builtin(samples)
    elif own and builtin is not None:
        yield own_precision(samples, eps)
    else:
        yield same_precision(samples, eps)


def _use(row: Row) -> float:
    return row.error / row.bound if row.bound else row.error


def _pattern(rng: np.random.Generator, steps: int, resumed: int) -> Any:
    """Draw which gradients are absent or zero; never the first, so that state exists.

    Where a run is resumed, after the first or the second third, two are zero: a maximum that is
    lost there would be found again with the next large gradient.
    """
    kinds = rng.choice(["none", "zero", "some"], steps, p=[0.1, 0.1, 0.8])
    kinds[0] = "zero" if kinds[0] == "none" else kinds[0]
    if steps >= 9:
        place = resumed * steps // 3
        kinds[place - 1 : place + 1] = "zero"
    return kinds


def _gradients(
    rng: np.random.Generator, scales: Sequence[float], patterns: list[Any], shape: tuple[int, ...]
) -> Any:
    """Draw (tensors, steps, …) gradients, of one decade each, of every size within it."""
    whole = (len(scales), len(patterns[0]), *shape)
    one = (1,) * (len(whole) - 1)
    size = np.reshape(scales, (-1, *one)) * 10 ** rng.uniform(-1, 0, whole)
    some = [patterns[i % PATTERNS] == "some" for i in range(len(scales))]
    return size * rng.choice([-1.0, 1.0], whole) * np.reshape(some, (*whole[:2], *one[1:]))


def _values(steps: Steps, quantity: str) -> Any:
    """Return a quantity after each step; None where a step lacks it."""
    if any(quantity not in step for step in steps):
        return None
    found = [step[quantity] for step in steps]
    alike = len({t.shape for t in found}) == 1
    return to_numpy(torch.stack(found)) if alike else np.array(math.nan)
