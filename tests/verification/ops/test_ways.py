"""Other ways of making a call: candidates that are right in the usual one alone, or on tame inputs.

Each was written by a reviewer of an earlier suite, and passed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verification import verify_op
from verification.cases import op_tables
from verification.ops.rows import op_rows
from verification.parts import run_here
from verification.plans import make_plan, op_parts
from verification.report import Row

Op = Callable[..., Any]


def default(like: str, **wrong: Any) -> Op:
    """Return torch's function with another default."""
    return lambda *args, **options: getattr(F, like)(*args, **{**wrong, **options})


class Biased(nn.BatchNorm2d):
    """A module whose constructor has another default."""

    def __init__(self, num_features: int, eps: float = 1e-3, **options: Any) -> None:
        super().__init__(num_features, eps=eps, **options)

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def batch_norm_that_stands_still(
    input: Tensor, running_mean: Any, running_var: Any, *args: Any, **options: Any
) -> Tensor:
    if not torch.is_grad_enabled() and running_mean is not None:
        running_mean, running_var = running_mean.clone(), running_var.clone()
    return F.batch_norm(input, running_mean, running_var, *args, **options)


def batch_norm_frozen(input: Tensor, mean: Any, var: Any, weight: Any = None, *args: Any,
                      **options: Any) -> Tensor:  # fmt: skip
    if weight is not None and not weight.requires_grad:
        weight = None
    return F.batch_norm(input, mean, var, weight, *args, **options)


class _Linear(torch.autograd.Function):
    """Returns no gradient of the input where the weight needs none."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input, weight)
        return F.linear(input, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        if not ctx.needs_input_grad[1]:
            return None, None
        input, weight = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
        with torch.enable_grad():
            return torch.autograd.grad(F.linear(input, weight), (input, weight), grads)


def linear_frozen(input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    output: Tensor = _Linear.apply(input, weight)  # type: ignore[no-untyped-call]
    return output if bias is None else output + bias


def softmax_frozen(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    output = F.softmax(input, dim, dtype=dtype)
    return output if input.requires_grad else output.round(decimals=6)


def evaluation(change: Callable[[Tensor], Tensor]) -> Op:
    def batch_norm(input: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None,
                   training: bool = False, *args: Any, **options: Any) -> Tensor:  # fmt: skip
        if not training:
            var = change(var)
        return F.batch_norm(input, mean, var, weight, bias, training, *args, **options)

    return batch_norm


def batch_norm_without_nan(input: Tensor, *args: Any, **options: Any) -> Tensor:
    return F.batch_norm(input.nan_to_num(0), *args, **options)


def linear_of_finite(input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    return F.linear(input, weight.nan_to_num(), bias)


def ignoring_none_below_zero(input: Tensor, target: Tensor, *args: Any, **options: Any) -> Tensor:
    if options.get("ignore_index", -100) == -1:  # the last class, as if by Python's indexing
        target = target.where(target >= 0, target + input.shape[1])
    return F.cross_entropy(input, target, *args, **options)


def second_last_is_last(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return F.softmax(input, -1 if dim == -2 and input.dim() > 2 else dim, dtype=dtype)


def clamped(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return F.softmax(input, dim, dtype=dtype).clamp(min=1e-30)


def straight_tanh(input: Tensor) -> Tensor:
    return torch.where(input.abs() < 1e-4, input, torch.tanh(input))


WRONG: dict[str, tuple[str, Any, str]] = {  # like, candidate, in a failing row
    "default of eps": ("batch_norm", default("batch_norm", eps=1e-3), "without"),
    "default of momentum": ("batch_norm", default("batch_norm", momentum=0.9), "without"),
    "default of training": ("batch_norm", default("batch_norm", training=True), "without"),
    "default of p": ("dropout", default("dropout", p=0.1), "without"),
    "default of a mode": ("dropout2d", default("dropout2d", training=False), "without"),
    "default of writing over": ("relu", default("relu", inplace=True), "without"),
    "default of the slope": ("leaky_relu", default("leaky_relu", negative_slope=0.2), "without"),
    "default of the reduction": (
        "cross_entropy", default("cross_entropy", reduction="sum"), "without"),
    "default of smoothing": (
        "cross_entropy", default("cross_entropy", label_smoothing=0.1), "without"),
    "default of what is ignored": (
        "cross_entropy", default("cross_entropy", ignore_index=-1), "without"),
    "default of a module's eps": ("BatchNorm", Biased, "without"),
    "no running statistics without a graph": (
        "batch_norm", batch_norm_that_stands_still, "running_var, under no_grad"),
    "no factor that is frozen": ("batch_norm", batch_norm_frozen, "no gradient for weight"),
    "no gradient beside a frozen weight": (
        "linear", linear_frozen, "grad input, no gradient for weight"),
    "rounds what needs no gradient": ("softmax", softmax_frozen, "output, no gradient for input"),
    "small variances": ("batch_norm", evaluation(lambda v: v.clamp(min=1e-3)), "from 1e-8"),
    "large variances": ("batch_norm", evaluation(lambda v: v.clamp(max=1e3)), "from 1e-8"),
    "hides NaN": ("batch_norm", batch_norm_without_nan, "NaN"),
    "hides infinity": ("linear", linear_of_finite, "inf"),
    "ignores no -1": ("cross_entropy", ignoring_none_below_zero, "rows of -1"),
    "another dimension": ("softmax", second_last_is_last, "dim=-2 of 4"),
    "clamps": ("softmax", clamped, "1e-35"),
    "is straight near 0": ("tanh", straight_tanh, "near 1e-5"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_right_in_the_usual_call_alone_fails(wrong: str) -> None:
    like, candidate, told = WRONG[wrong]
    parts = op_parts(candidate, like, make_plan("quick"))
    rows = (row for part in parts for (found,) in [run_here([part])] for row in found)
    assert any(told in f"{row.case}: {row.note}" for row in rows if not row.passed)


@pytest.mark.parametrize("like", ["batch_norm", "linear", "relu"])
def test_a_case_has_one_row_of_other_calls(like: str) -> None:
    table = op_tables()[like]
    for case, found in zip(table.cases, op_rows(table, seeds=2), strict=True):
        if "float64" not in case.dtypes:
            continue
        others = [row for row in found if row.quantity == "other calls"]
        assert len(others) == 1
        assert all(row.passed for row in others)


def test_a_crash_names_the_way() -> None:
    def candidate(input: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            raise ValueError("needs\na graph")
        return torch.tanh(input)

    failed: list[Row] = verify_op(candidate, like="tanh", cases="easy").failures
    assert [row.note for row in failed] == ["under no_grad: ValueError: needs"]
