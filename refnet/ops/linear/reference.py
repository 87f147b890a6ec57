"""The linear layer, z = W a + b in the lecture, with examples in rows: Z = A Wᵀ + b.

Legend: A input (*, in), W weight (out, in), b bias (out), dZ = dL/dZ (*, out);
* is any leading shape.
"""

from __future__ import annotations

import math

from torch import Tensor


def forward(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Z = A Wᵀ + b."""
    z = a.matmul(weight.t())  # (*, out)
    return z if bias is None else z + bias


def backward_input(dz: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """dA = dZ W (the lecture's da = Wᵀ dz, transposed); W conjugated where it is complex."""
    return _rows(dz, weight).matmul(_matrix(weight).conj()).reshape(a.shape)


def backward_weight(dz: Tensor, a: Tensor, weight: Tensor) -> Tensor:
    """dW = dZᵀ A (the lecture's dW = dz aᵀ, summed over the examples)."""
    rows = _rows(dz, weight)  # (examples, out)
    a = a.reshape(rows.shape[0], weight.shape[-1])  # (examples, in)
    return rows.t().matmul(a.conj()).reshape(weight.shape)


def backward_bias(dz: Tensor, bias: Tensor) -> Tensor:
    """db = Σ_i dz_i over the examples."""
    return dz.sum_to_size(bias.shape)


def _matrix(weight: Tensor) -> Tensor:
    """W as (out, in); a 1-D weight has out = 1."""
    return weight if weight.dim() == 2 else weight.unsqueeze(0)


def _rows(dz: Tensor, weight: Tensor) -> Tensor:
    """dZ as (examples, out), whatever the leading shape."""
    leading = dz.shape[:-1] if weight.dim() == 2 else dz.shape
    return dz.reshape(math.prod(leading), _matrix(weight).shape[0])
