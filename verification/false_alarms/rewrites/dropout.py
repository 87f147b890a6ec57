"""Dropout with a given mask: multiplied, gathered, and with a backward by hand.

Bit for bit the builtin's: 1 / keep_prob is rounded to the input's dtype, then multiplied by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Scale = Callable[[Tensor, Tensor, Tensor], Tensor]  # input, mask, 1 / keep_prob


def _multiply(x: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    return x * (mask * factor)


def _gather(x: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    places = mask.nonzero(as_tuple=True)
    return (x * 0).index_put(places, x[places] * factor)


class _Scaled(torch.autograd.Function):
    """y = s x, dx = s dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return x * factors

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (factors,), (dy,) = ctx.saved_tensors, cotangents
        return dy * factors, None


_scaled: Callable[[Tensor, Tensor], Tensor] = _Scaled.apply


def _by_hand(x: Tensor, mask: Tensor, factor: Tensor) -> Tensor:
    return _scaled(x, torch.where(mask, factor, torch.zeros_like(factor)))


def _dropout(scale: Scale, channels_of: int) -> Callable[..., Tensor]:
    """Make a dropout; `channels_of` so many dimensions are dropped as a whole, 0 for elements."""

    def dropout(
        input: Tensor,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
        *,
        mask: Tensor | None = None,
    ) -> Tensor:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        if not training:
            return input
        if mask is None:
            kept = input.shape[: input.dim() - channels_of] + (1,) * channels_of
            mask = torch.rand(kept, device=input.device) >= p
            mask = mask.expand(input.shape)
        one = torch.ones((), dtype=input.dtype, device=input.device)
        factor = one / (1 - p) if p < 1 else one * 0
        if inplace:
            return input.copy_(scale(input.clone(), mask, factor))
        return scale(input, mask, factor)

    return dropout


REWRITES = {
    name: {
        "multiplied": _dropout(_multiply, channels_of),
        "kept ones gathered": _dropout(_gather, channels_of),
        "backward by hand": _dropout(_by_hand, channels_of),
    }
    for name, channels_of in (("dropout", 0), ("dropout1d", 1), ("dropout2d", 2), ("dropout3d", 3))
}
