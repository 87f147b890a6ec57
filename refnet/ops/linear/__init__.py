"""The linear layer: torch's function on hand-written forward and backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from refnet import backend
from refnet.ops import broadcasts_to, require_tensor
from refnet.ops.linear import reference

__all__ = ["linear"]


class Linear(Function):
    """The shell around `reference.forward` and the three backwards."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return reference.forward(a, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        a, weight, bias = inputs
        needs_a, needs_weight, _ = ctx.needs_input_grad
        ctx.weight_shape = weight.shape
        ctx.bias_shape = None if bias is None else bias.shape
        # Each gradient needs the other operand: a frozen weight keeps no activation alive.
        ctx.save_for_backward(a if needs_weight else None, weight if needs_a else None)

    @staticmethod
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        a, weight = ctx.saved_tensors
        needs_a, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            reference.backward_input(dz, weight) if needs_a else None,
            reference.backward_weight(dz, a, ctx.weight_shape) if needs_weight else None,
            reference.backward_bias(dz, ctx.bias_shape) if needs_bias else None,
        )


class PlainLinear(Function):
    """The same without a `setup_context`, which takes longer than a small product."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z = reference.forward(a, weight, bias)
        Linear.setup_context(ctx, (a, weight, bias), z)
        return z

    backward = Linear.backward


_apply_plain = backend.apply_of(PlainLinear)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply by a matrix and add a bias.

    Z = A Wᵀ + b

    Args:
        input: A, shape (*, in), any leading dimensions.
        weight: W, shape (out, in), or (in), which gives a scalar per example.
        bias: b, shape (out), or anything that broadcasts to the result; () for a 1-D weight.

    Returns:
        Z, shape (*, out).

    Raises:
        RuntimeError: shapes or dtypes don't fit.

    Example:
        >>> import torch
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.5]))
        tensor([[11.5000]])

    Source: lecture, notation z = W a + b and "Calculate gradient with batch norm"; the lecture has
    examples in columns, torch and this function in rows.
    """
    input, weight, bias = backend.autocast("linear", input, weight, bias)
    _check(input, weight, bias)
    if backend.is_plain(input, weight, input if bias is None else bias):
        return _apply_plain(input, weight, bias)  # type: ignore[no-any-return]
    if backend.composes():
        return reference.forward(input, weight, bias)
    return Linear.apply(input, weight, bias)  # type: ignore[no-any-return, no-untyped-call]


def _check(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    require_tensor("linear", input)
    require_tensor("linear", weight, "weight")
    if bias is not None:
        require_tensor("linear", bias, "bias")
    if input.dim() == 0 or weight.dim() not in (1, 2):
        raise RuntimeError(
            "linear: input must be at least 1-D and weight 1-D or 2-D, "
            f"but got input {list(input.shape)} and weight {list(weight.shape)}"
        )
    if input.shape[-1] != weight.shape[-1]:
        raise RuntimeError(
            f"linear: the last dimension of input {list(input.shape)} must equal "
            f"that of weight {list(weight.shape)}"
        )
    if weight.dtype != input.dtype or (bias is not None and bias.dtype != input.dtype):
        raise RuntimeError(
            "linear: input, weight and bias must have the same dtype, but got "
            f"{input.dtype}, {weight.dtype} and {None if bias is None else bias.dtype}"
        )
    if bias is not None and weight.dim() == 1 and bias.dim() > 0:
        raise RuntimeError(
            f"linear: with a 1-D weight {list(weight.shape)} bias must be 0-D, "
            f"but got {list(bias.shape)}"
        )
    result = (*input.shape[:-1], *weight.shape[:-1])
    if bias is not None and not broadcasts_to(bias, result):
        raise RuntimeError(
            f"linear: bias {list(bias.shape)} does not broadcast to the result {list(result)}"
        )
