"""A sum of thousands of classes: in float32 a right one passes, a wrong end of it does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from verification.cases import op_tables
from verification.false_alarms.rewrites import rewrites
from verification.ops.rows import op_rows
from verification.report import Report, collect

ONE_BY_ONE = {
    "softmax": "score by score",
    "log_softmax": "score by score",
    "cross_entropy": "class by class",
}
WIDE = 4096


def verify(name: str, candidate: Callable[..., Any], part: str, seeds: int = 5) -> Report:
    table = op_tables()[name]
    table = replace(table, cases=tuple(c for c in table.cases if part in c.name))
    return collect(op_rows(table, candidate, dtypes=[torch.float32], seeds=seeds))


def with_a_wrong_tail(builtin: Callable[..., Any], dim: int) -> Callable[..., Any]:
    """Make the last class's probability 1 % larger, in float32 beyond 4096 classes."""

    def candidate(input: Tensor, *args: Any, **options: Any) -> Any:
        axis = options.get("dim", dim)
        if input.dtype == torch.float32 and input.shape[axis] > WIDE:
            input = input.clone()
            input.select(axis, -1).add_(math.log(1.01))
        return builtin(input, *args, **options)

    return candidate


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_wrong_tail_fails(name: str) -> None:
    candidate = with_a_wrong_tail(op_tables()[name].builtin, 1)
    failed = {row.case for row in verify(name, candidate, "4097").failures}
    assert failed == {case.name for case in op_tables()[name].cases if "4097" in case.name}
    verify(name, candidate, "1000").raise_if_failed()


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_sum_one_by_one_passes(name: str) -> None:
    table, candidate = op_tables()[name], rewrites()[name][ONE_BY_ONE[name]]
    table = replace(table, cases=tuple(case for case in table.cases if case.terms > WIDE)[:1])
    for seed in range(3):
        rows = op_rows(table, candidate, dtypes=[torch.float32], seeds=[seed])
        collect(rows).raise_if_failed()
