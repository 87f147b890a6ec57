"""The linear layer: products summed by torch, by einsum, in float64, and block by block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verification.false_alarms.rewrites import wide

Product = Callable[[Tensor, Tensor], Tensor]  # (…, in), (out, in) -> (…, out)


def _products(a: Tensor, w: Tensor) -> Tensor:
    return (a.unsqueeze(-2) * w).sum(-1)


def _blocks_from_the_end(a: Tensor, w: Tensor) -> Tensor:
    z = a.new_zeros(*a.shape[:-1], len(w))
    for first in reversed(range(0, w.shape[1], 7)):
        block = slice(first, first + 7)
        z = z + a[..., block] @ w[:, block].T
    return z


def _linear(product: Product, inside: torch.dtype | None = None) -> Callable[..., Tensor]:
    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        dtype = inside or wide(input).dtype
        z = product(input.to(dtype), weight.reshape(-1, weight.shape[-1]).to(dtype))
        z = z if weight.dim() == 2 else z.squeeze(-1)
        return (z if bias is None else z + bias.to(dtype)).to(input.dtype)

    return linear


REWRITES = {
    "linear": {
        "products summed": _linear(_products),
        "einsum": _linear(lambda a, w: torch.einsum("...i,oi->...o", a, w)),
        "float64 inside": _linear(lambda a, w: a @ w.T, torch.float64),
        "blocks from the end": _linear(_blocks_from_the_end),
    }
}
