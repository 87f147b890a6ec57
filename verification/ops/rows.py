"""Run an op's case table: candidate, builtin and oracle on the same inputs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from verification.cases import Arrays, Case, OpTable
from verification.limits import time_limit as limited
from verification.ops.calls import different_layout, run, torchs_way
from verification.ops.masks import with_own_masks
from verification.ops.small_values import small_values
from verification.ops.ways import way_row
from verification.oracles import Result
from verification.report import ANOTHER, AS_GOOD, PASSING, Row
from verification.tensors import as_tensors, lay_out, nudge, repeated, round_to, short, to_numpy
from verification.tolerance import (
    DRAWS,
    Judgement,
    Sample,
    beside_builtin,
    own_target,
    same_algorithm,
    same_bits,
    same_precision,
    same_zeros,
    well_conditioned,
)

__all__ = [
    "as_tensors", "lay_out", "nudge", "op_rows", "prepared", "repeated", "round_to", "short",
    "to_numpy",
]  # fmt: skip
LAYOUT = "builtin's strides"
ONLY_SPECIAL = (
    "only where inputs are infinite or NaN; special_values=False, --no-special-values leaves such "
    "cases out"
)


def op_rows(
    table: OpTable,
    candidate: Callable[..., Any] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seeds: int | Sequence[int] = 5,
    device: str = "cpu",
    own: bool = False,
    time_limit: float | None = None,
) -> Iterator[list[Row]]:
    """Yield the rows of each case of an op's table.

    float64 answers whether the candidate is the oracle's function, any other dtype whether it is as
    accurate as the builtin; where bits are due, they are compared in every dtype. What crashes,
    returns anything else than such a tensor as the builtin's, changes its arguments, or returns
    their memory, has a failing row of the rule "runs" that says so. An output that lies otherwise
    in memory than the builtin's has a row with both strides, which fails with `own` alone: any
    layout is a valid one. Each case has a row about other ways of making its call in float64; see
    `ways.way_row`.

    Args:
        table: the op.
        candidate: a function with the signature of torch's builtin. A dropout may take a keyword
            `mask`, a boolean keep-mask, as refnet's does; one that doesn't is asked for the mask
            that it draws for ones under the same seed, and builtin and oracle get that.
        dtypes: what candidate and builtin compute in, each where a case's values fit into it.
        seeds: how many draws of each case, or which.
        device: where candidate and builtin compute.
        own: hold it to refnet's own, stricter targets: in float64 the builtin to 1e-12 as well, in
            the other dtypes `tolerance.own_target` in place of `tolerance.same_precision`.
        time_limit: seconds that a case may take, in all dtypes together; see `limits.time_limit`.

    Returns:
        An iterator over lists of rows, a list per case.

    Example:
        >>> from verification.cases import op_tables
        >>> rows = next(op_rows(op_tables()["relu"], seeds=1))
        >>> sorted({row.quantity for row in rows}), all(row.passed for row in rows)
        (['grad input', 'other calls', 'output'], True)
    """
    table, function = prepared(table, candidate)
    draws = range(seeds) if isinstance(seeds, int) else seeds
    for case in table.cases:
        rows: list[Row] = []
        kind = "-"
        try:
            with limited(time_limit):
                for dtype in dtypes:
                    kind = short(dtype)
                    if kind in case.dtypes and (own or not case.hard or dtype == torch.float64):
                        where = torch.device(device)
                        rows += _verify_case(table, case, function, dtype, draws, where, own)
        except TimeoutError as error:
            rows.append(_crash(table, case, kind, error))
        yield rows


def prepared(
    table: OpTable, candidate: Callable[..., Any] | None
) -> tuple[OpTable, Callable[..., Any]]:
    """Return a table for a candidate, and the candidate as a function of a case's names."""
    if candidate is None:
        return table, table.adapt(table.candidate)
    table = with_own_masks(table, candidate)
    return table, torchs_way(table, table.adapt(candidate))


def _verify_case(
    table: OpTable,
    case: Case,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    seeds: Sequence[int],
    device: torch.device,
    own: bool,
) -> list[Row]:
    samples: dict[str, list[Sample]] = {}
    special = False
    kinds: dict[str, torch.dtype] = {}
    layout = ""
    others: list[Row] = []
    for seed in seeds:
        try:
            drawn, strides, tensors = _samples(table, case, candidate, dtype, seed, device, kinds)
            special = special or _is_special(tensors)
            if dtype == torch.float64 and not others:  # one draw tells another function
                others.append(way_row(table, case, candidate, tensors, drawn))
        except TimeoutError:
            raise
        except (Exception, SystemExit) as error:  # a candidate that crashes gets a row
            return [_crash(table, case, short(dtype), error, seed)]
        layout = layout or strides
        for quantity, sample in drawn.items():
            samples.setdefault(quantity, []).append(sample)
    beside = own and dtype == torch.float64 and well_conditioned(samples.values())
    rows = []
    for quantity, found in samples.items():
        judge = partial(
            _judge,
            quantity,
            dtype=kinds[quantity],
            table=table,
            own=own,
            beside=beside,
            terms=case.terms,
        )
        for judged in judge(found):
            if special and judged.verdict not in PASSING and _is_right_elsewhere(judge, found):
                judged = replace(judged, note=ONLY_SPECIAL)
            drawn_by = None if judged.seed is None else seeds[judged.seed]
            given = {**vars(judged), "seed": drawn_by}
            rows.append(Row(table.name, case.name, quantity, short(dtype), **given))
    if layout:
        nan, verdict = float("nan"), ANOTHER if own else AS_GOOD
        rows.append(
            Row(table.name, case.name, "layout", short(dtype), nan, nan, nan, LAYOUT, verdict,
                layout)
        )  # fmt: skip
    return rows + others


def _is_special(tensors: Arrays) -> bool:
    return any(
        not tensor.isfinite().all()
        for tensor in tensors.values()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
    )


def _is_right_elsewhere(
    judge: Callable[[list[Sample]], Iterator[Judgement]], samples: list[Sample]
) -> bool:
    """Tell whether values pass where neither the candidate nor the oracle is infinite or NaN."""
    if any(sample.candidate.shape != sample.oracle.shape for sample in samples):
        return False
    return all(judged.verdict in PASSING for judged in judge([_finite(s) for s in samples]))


def _finite(sample: Sample) -> Sample:
    finite = np.isfinite(sample.candidate.astype(np.float64)) & np.isfinite(sample.oracle)
    return replace(
        sample,
        candidate=np.where(finite, sample.candidate, 0),
        builtin=None if sample.builtin is None else np.where(finite, sample.builtin, 0),
        oracle=np.where(finite, sample.oracle, 0),
        responses=[np.where(finite, response, 0) for response in sample.responses],
    )


def _judge(
    quantity: str, samples: list[Sample], dtype: torch.dtype, table: OpTable, own: bool,
    beside: bool, terms: int,
) -> Iterator[Judgement]:  # fmt: skip
    """Put the questions that a quantity of a dtype is asked."""
    if table.bitwise or not dtype.is_floating_point:
        yield same_bits(samples)
    if not dtype.is_floating_point:
        return
    eps = torch.finfo(dtype).eps
    if dtype == torch.float64:
        yield same_algorithm(samples)
        if beside:
            yield beside_builtin(samples)
    else:
        yield own_target(samples, eps) if own else same_precision(samples, eps, terms)
    if quantity in table.zeros:
        zeros = same_zeros(samples, torch.finfo(dtype).tiny)
        yield from () if zeros is None else (zeros,)
    if quantity in table.every_size:
        small = small_values(samples, eps, torch.finfo(dtype).tiny)
        yield from () if small is None else (small,)


def _samples(
    table: OpTable,
    case: Case,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    seed: int,
    device: torch.device,
    kinds: dict[str, torch.dtype],
) -> tuple[dict[str, Sample], str, Arrays]:
    """Draw a case once and run the three parties on it; note the dtypes of what comes back.

    Returns:
        The samples, how the output lies otherwise in memory than the builtin's, and the tensors.
    """
    rng = np.random.default_rng([seed, zlib.crc32(f"{table.name} {case.name}".encode())])
    arrays = {name: round_to(value, dtype) for name, value in case.draw(rng).items()}
    arrays = {n: repeated(n, a, case.layout, table.expanded) for n, a in arrays.items()}
    options = dict(case.options)
    tensors = as_tensors(table, case, arrays, dtype, device)
    laid_out = {name: lay_out(name, t, case, table) for name, t in tensors.items()}
    tensors = table.complete(laid_out, options) | tensors
    arrays = {**arrays, **{n: to_numpy(t) for n, t in tensors.items() if n not in arrays}}

    expected = table.oracle(**arrays, **options)
    of_64 = table.rounded and dtype == torch.float64  # below, whoever wants may compute in double
    rounded = {table.rounded: np.finfo(np.float64).eps / 2} if of_64 else {}
    responses = [
        table.oracle(**{n: nudge(a, dtype, rng) for n, a in arrays.items()}, **options, **rounded)
        for _ in range(DRAWS)
    ]
    builtin = run(table, case, table.builtin, tensors, options)
    ours = run(table, case, candidate, tensors, options, builtin)
    kinds |= {quantity: value.dtype for quantity, value in builtin.values.items()}
    samples = {
        quantity: Sample(
            candidate=to_numpy(ours.values[quantity]),
            builtin=to_numpy(builtin.values[quantity]),
            oracle=value,
            responses=[response.values[quantity] for response in responses],
            scale=expected.scales.get(quantity),
            shut=np.isneginf(arrays["input"]) if quantity in table.zeros else None,
        )
        for quantity, value in _wanted(expected, table).items()
    }
    return samples, different_layout(ours, builtin), tensors


def _wanted(expected: Result, table: OpTable) -> dict[str, Any]:
    names = {"output", *table.buffers, *(f"grad {name}" for name in table.differentiable)}
    return {name: value for name, value in expected.values.items() if name in names}


def _crash(
    table: OpTable, case: Case, dtype: str, error: BaseException, seed: int | None = None
) -> Row:
    note = f"{type(error).__name__}: {error}".splitlines()[0]
    nan = float("nan")
    return Row(table.name, case.name, "-", dtype, nan, nan, nan, "runs", ANOTHER, note, seed=seed)
