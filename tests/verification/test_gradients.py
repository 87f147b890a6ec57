"""Difference quotients: right derivatives pass, and each of the four checks can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from verification.cases import op_tables
from verification.gradients import CHECKS, verify_gradients
from verification.mutants import Mutant, planted
from verification.report import Row

TABLES = op_tables()
WITH_PAIRS = [name for name, table in TABLES.items() if table.options is not None]


def run(name: str, candidate: Callable[..., Any] | None = None, cases: int = 2) -> list[Row]:
    """The first few cases that stand for pairs; all of them are part of the whole verification."""
    table = TABLES[name]
    some = tuple(c for c in table.cases if c.values and "float64" in c.dtypes)[:cases]
    lists = verify_gradients(replace(table, cases=some), candidate)
    return [row for rows in lists for row in rows]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WITH_PAIRS)
def test_refnet_passes(name: str) -> None:
    rows = run(name)
    assert {row.quantity for row in rows} == set(CHECKS)
    assert [(row.case, row.quantity, row.note) for row in rows if not row.passed] == []


class Twice(torch.autograd.Function):
    """tanh with a gradient that is twice too large."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return 2 * da * (1 - z.tanh() ** 2)


class Constant(Twice):
    """tanh whose first derivative is right, and a constant to whoever differentiates it again."""

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return da * (1 - z.detach().tanh() ** 2)


def of_tanh(check: str, function: type[Twice]) -> bool:
    rows = run("tanh", lambda input: function.apply(input))  # type: ignore[no-untyped-call]
    return all(row.passed for row in rows if row.quantity == check)


def test_a_wrong_gradient_is_seen() -> None:
    assert not of_tanh("reverse mode", Twice)


def test_a_missing_forward_mode_is_seen() -> None:
    assert not of_tanh("forward mode", Constant)


def test_a_constant_in_the_gradient_is_seen_by_the_second_derivatives_alone() -> None:
    assert of_tanh("reverse mode", Constant)
    assert not of_tanh("reverse over reverse", Constant)
    assert not of_tanh("forward over reverse", Constant)


STATISTICS = "_statistics(z, running_mean, running_var, ctx.training)\n        inv"
SAVED = "logits, target, weight = ctx.saved_tensors"


@pytest.mark.parametrize(
    ("op", "module", "old", "new"),
    [
        ("BatchNorm", "ops.batch_norm", STATISTICS, STATISTICS.replace("z,", "z.detach(),")),
        ("cross_entropy", "ops.cross_entropy", SAVED, f"{SAVED}\n        logits = logits.detach()"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_statistics_kept_as_constants_are_seen(op: str, module: str, old: str, new: str) -> None:
    with planted(Mutant(op, "constants", module, old, new)):
        rows = run(op, cases=6)
    # forward mode differentiates the equations themselves, where nothing is kept
    assert {row.quantity for row in rows if not row.passed} == {"reverse over reverse"}


def test_a_candidate_that_gives_no_number_fails() -> None:
    rows = run("tanh", lambda input: input.tanh() * float("nan"))
    assert rows
    assert not any(row.passed for row in rows)
