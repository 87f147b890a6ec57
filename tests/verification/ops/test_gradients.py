"""Difference quotients: right derivatives pass, and each of the four checks can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from verification.cases import op_tables
from verification.mutants import Mutant, planted
from verification.ops.gradients import CHECKS, REVERSE, verify_gradients
from verification.report import Row

TABLES = op_tables()
WITH_PAIRS = [name for name, table in TABLES.items() if table.options is not None]


def run(
    name: str, candidate: Callable[..., Any] | None = None, cases: int = 2, own: bool = True
) -> list[Row]:
    """The first few cases that stand for pairs; all of them are part of the whole verification."""
    table = TABLES[name]
    some = tuple(c for c in table.cases if c.values and "float64" in c.dtypes)[:cases]
    lists = verify_gradients(replace(table, cases=some), candidate, own=own)
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


STATISTICS = "_statistics(z, running_mean, running_var, ctx.training)\n    inv"
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


# Of anybody


@pytest.mark.parametrize("name", WITH_PAIRS)
def test_the_builtins_pass_as_anybodys(name: str) -> None:
    """A dropout without a mask is run under a seed."""
    builtin = getattr(functional, name, TABLES[name].builtin)
    rows = run(name, builtin, own=False)
    assert {row.quantity for row in rows} == set(REVERSE)
    assert [(row.case, row.quantity, row.note) for row in rows if not row.passed] == []


def test_nobody_is_asked_for_forward_mode_or_vmap() -> None:
    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            ctx.save_for_backward(z)
            return z.tanh()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            (z,) = ctx.saved_tensors
            return grads[0] * (1 - z.tanh() ** 2)

    assert all(row.passed for row in run("tanh", Plain.apply, own=False))
    assert not all(row.passed for row in run("tanh", Plain.apply))


class Once(torch.autograd.Function):
    """tanh that can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.tanh()

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grads[0] * (1 - z.tanh() ** 2)


class Numbers(Once):
    """tanh whose gradient has no graph at all."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return torch.from_numpy(grads[0].detach().numpy() * (1 - z.detach().tanh().numpy() ** 2))


@pytest.mark.parametrize("function", [Constant, Once, Numbers])
def test_a_backward_without_a_derivative_is_a_row(function: Any) -> None:
    rows = run("tanh", function.apply, own=False)
    assert {row.quantity for row in rows if not row.passed} == {"reverse over reverse"}


class Statistics(torch.autograd.Function):
    """Batch norm in training; mean and inv_std are constants to the second derivative."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        mean = z.mean(0)
        inv_std = ((z - mean) ** 2).mean(0).add(eps).rsqrt()
        ctx.save_for_backward(z, weight, mean, inv_std)
        return (z - mean) * inv_std * weight + bias

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        z, weight, mean, inv_std = ctx.saved_tensors
        normal = (z - mean) * inv_std
        dnormal = grads[0] * weight
        dz = inv_std * (dnormal - dnormal.mean(0) - normal * (dnormal * normal).mean(0))
        return dz, (grads[0] * normal).sum(0), grads[0].sum(0), None


def test_statistics_kept_as_constants_are_seen_in_anybodys_batch_norm() -> None:
    table = TABLES["batch_norm"]
    easy = next(case for case in table.cases if case.name == "N=3")
    table = replace(table, cases=(replace(easy, values={"case": "N=3"}),))

    def candidate(
        input: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, training: bool,
        momentum: float, eps: float,
    ) -> Tensor:  # fmt: skip
        return Statistics.apply(input, weight, bias, eps)  # type: ignore[no-any-return,no-untyped-call]

    rows = [row for rows in verify_gradients(table, candidate) for row in rows]
    assert {row.quantity for row in rows if not row.passed} == {"reverse over reverse"}
    rows = [row for rows in verify_gradients(table, functional.batch_norm) for row in rows]
    assert len(rows) == 2
    assert all(row.passed for row in rows)


@pytest.mark.parametrize("name", ["tanh", "dropout"])
def test_a_crash_is_a_row(name: str) -> None:
    rows = run(name, lambda *args, **options: 1 / 0, own=False)
    assert {row.note for row in rows} == {"ZeroDivisionError: division by zero"}
    assert len(rows) == 4


def test_a_candidate_that_hangs_is_a_row() -> None:
    def candidate(input: Tensor) -> Tensor:
        while True:
            pass

    table = replace(TABLES["tanh"], cases=tuple(c for c in TABLES["tanh"].cases if c.values)[:1])
    rows = [r for rs in verify_gradients(table, candidate, time_limit=0.05) for r in rs]
    assert {row.note for row in rows} == {"TimeLimitExceeded: more than 0.05 s"}
