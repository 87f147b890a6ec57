"""Other ways of making a call, which have to leave what the usual one leaves.

Without the arguments that are torch's defaults anyway, under `torch.no_grad`, and with inputs that
require no gradient: code has branches of its own for each of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.nn import functional as builtins

from verification.cases import Arrays, Case, OpTable
from verification.ops.calls import run
from verification.report import ANOTHER, PASSING, Row
from verification.tensors import to_numpy
from verification.tolerance import Sample, same_algorithm, worst

QUANTITY, RULE = "other calls", "as the usual call"


def way_row(
    table: OpTable,
    case: Case,
    candidate: Callable[..., Any],
    tensors: Arrays,
    usual: Mapping[str, Sample],
) -> Row:
    """Return a row about a case that is called in every other way, in float64.

    What has other bits than after the usual call, which is judged elsewhere, is held against the
    oracle. The row is that of the worst quantity; its note says which, and what was called how.

    Args:
        table: the op.
        case: of it.
        candidate: takes the case's names.
        tensors: of the case.
        usual: what the usual call left, by quantity.
    """
    judged = []
    dtype, nan = "float64", float("nan")
    for way, given, changed, how in _ways(table, tensors, case.options):
        try:
            found = run(table, case, candidate, given, changed, **how).values
        except TimeoutError:
            raise
        except (Exception, SystemExit) as error:
            note = f"{way}: {type(error).__name__}: {error}".splitlines()[0]
            return Row(table.name, case.name, QUANTITY, dtype, nan, nan, nan, RULE, ANOTHER, note)
        for quantity, value in found.items():
            if quantity not in usual:
                continue
            sample, values = usual[quantity], to_numpy(value)
            if values is None:  # a missing gradient
                values = np.full_like(sample.candidate, nan)
            if not np.array_equal(values, sample.candidate, equal_nan=values.dtype.kind == "f"):
                judgement = same_algorithm([replace(sample, candidate=values)])
                judged.append(replace(judgement, note=f"{quantity}, {way}"))
    if not judged:
        return Row(table.name, case.name, QUANTITY, dtype, 0.0, 0.0, 0.0, RULE, PASSING[0])
    found_worst = worst(judged)
    return Row(table.name, case.name, QUANTITY, dtype, **{**vars(found_worst), "seed": None})


def _ways(
    table: OpTable, tensors: Arrays, options: Mapping[str, Any]
) -> Iterator[tuple[str, Arrays, Mapping[str, Any], dict[str, Any]]]:
    """Yield in words how a call is made, its tensors and options, and arguments of `run`."""
    known = _defaults(table)
    left = {n: v for n, v in options.items() if n not in known or v != known[n]}
    given = {n: t for n, t in tensors.items() if t is not None or known.get(n, 0) is not None}
    omitted = sorted({*options, *tensors} - {*left, *given})
    if omitted:
        yield f"without {', '.join(omitted)}", given, left, {}
    yield "under no_grad", tensors, options, {"grad": False}
    for name in table.differentiable:
        tensor = tensors[name]
        if tensor is not None and tensor.is_floating_point():
            yield f"no gradient for {name}", tensors, options, {"frozen": {name}}


@cache
def _signature(name: str) -> inspect.Signature:
    builtin = torch.nn.BatchNorm2d if name == "BatchNorm" else getattr(builtins, name)
    return inspect.signature(builtin)


def _defaults(table: OpTable) -> dict[str, Any]:
    """Return what torch takes for the arguments that may be left out."""
    try:
        signature = _signature(table.name)
    except ValueError:  # compiled; only tensors can be left out
        signature = inspect.signature(table.candidate)
    return {
        name: parameter.default
        for name, parameter in signature.parameters.items()
        if parameter.default is not parameter.empty
    }
