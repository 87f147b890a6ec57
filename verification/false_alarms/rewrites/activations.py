"""Activations: by cases, by factors, by other functions that they can be made of, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from verification.false_alarms.rewrites import wide


def _in_place(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a function the argument `inplace`."""

    def with_inplace(input: Tensor, *args: Any, inplace: bool = False, **options: Any) -> Tensor:
        if inplace:
            return input.copy_(op(input.clone(), *args, **options))
        return op(input, *args, **options)

    return with_inplace


class _Scaled(torch.autograd.Function):
    """g = s z, g' = s."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return z * factors

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (factors,), (da,) = ctx.saved_tensors, cotangents
        return da * factors, None


_scaled: Callable[[Tensor, Tensor], Tensor] = _Scaled.apply


def _slopes(z: Tensor, negative_slope: float) -> Tensor:
    return torch.where(z > 0, torch.ones_like(z), negative_slope)  # of two numbers: float32


class _Tanh(torch.autograd.Function):
    """g' = 1 − g²."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        a = torch.tanh(z)
        ctx.save_for_backward(a)
        return a

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (a,), (da,) = ctx.saved_tensors, cotangents
        dz: Tensor = da * (1 - a * a)
        return dz


def _tanh(z: Tensor) -> Tensor:
    """(e^2z − 1) / (e^2z + 1), of −|z| so that nothing overflows and nothing cancels."""
    less = torch.expm1(2 * torch.where(z > 0, -z, z))
    negative = less / (less + 2)
    return torch.where(z > 0, -negative, negative)


def _sigmoid(z: Tensor) -> Tensor:
    small = torch.exp(torch.where(z >= 0, -z, z))
    above = torch.where(z >= 0, torch.ones_like(small), small)
    return above / (1 + small)


def _of_two_scores(z: Tensor) -> Tensor:
    return torch.softmax(torch.stack([z, torch.zeros_like(z)]), 0)[0]


def _wide(op: Callable[[Tensor], Tensor], inside: torch.dtype | None = None) -> Any:
    """Apply a function in float32 at the least, and round once."""
    return lambda input: op(wide(input).to(inside or wide(input).dtype)).to(input.dtype)


REWRITES: dict[str, dict[str, Callable[..., Tensor]]] = {
    "relu": {
        "filled": _in_place(lambda input: input.masked_fill(input <= 0, 0)),
        "by cases": _in_place(lambda input: torch.where(input > 0, input, 0)),
        "by a factor": _in_place(lambda input: input * (input > 0)),
        "backward by hand": _in_place(lambda input: _scaled(input, _slopes(input, 0.0))),
    },
    "leaky_relu": {
        "by cases": _in_place(
            lambda input, negative_slope=0.01: torch.where(input > 0, input, negative_slope * input)
        ),
        "by a factor": _in_place(
            lambda input, negative_slope=0.01: input * _slopes(input, negative_slope)
        ),
        "float64 inside": _in_place(
            lambda input, negative_slope=0.01: _wide(
                lambda z: z * _slopes(z, negative_slope), torch.float64
            )(input)
        ),
        "backward by hand": _in_place(
            lambda input, negative_slope=0.01: _scaled(input, _slopes(input, negative_slope))
        ),
    },
    "tanh": {
        "by expm1": _wide(_tanh),
        "float64 inside": _wide(_tanh, torch.float64),
        "backward by hand": _wide(_Tanh.apply),
    },
    "sigmoid": {
        "by cases": _wide(_sigmoid),
        "softmax of two scores": _wide(_of_two_scores),
        "by logaddexp": _wide(lambda z: torch.exp(-torch.logaddexp(-z, torch.zeros_like(z)))),
        "float64 inside": _wide(_sigmoid, torch.float64),
    },
}
