"""The linear layer, z = W a + b in the lecture, with examples in rows: Z = A Wᵀ + b.

Legend: A input (*, in), W weight (out, in), b bias (out), dZ = dL/dZ (*, out);
* is any leading shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def forward(a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Z = A Wᵀ + b."""
    if a.dim() == 1:  # as a batch of one: vmap of torch's vector times matrix fails in forward mode
        return forward(a.unsqueeze(0), weight, bias).squeeze(0)
    z = a.matmul(weight.t())  # (*, out)
    return z if bias is None else z + bias


def backward_input(dz: Tensor, weight: Tensor) -> Tensor:
    """dA = dZ W (the lecture's da = Wᵀ dz, transposed); W conjugated where it is complex."""
    matrix = weight if weight.dim() == 2 else weight.unsqueeze(0)  # (out, in)
    da = _rows(dz, weight.shape).matmul(matrix.conj())
    shape = (*_leading(dz, weight.shape), weight.shape[-1])
    return da if da.shape == shape else da.reshape(shape)


def backward_weight(dz: Tensor, a: Tensor, shape: torch.Size) -> Tensor:
    """dW = dZᵀ A (the lecture's dW = dz aᵀ, summed over the examples)."""
    rows = _rows(dz, shape)  # (examples, out)
    a = a if a.dim() == 2 else a.reshape(rows.shape[0], shape[-1])
    a = a.conj()  # (examples, in)
    if len(shape) == 1:  # Aᵀ dz, summed in the builtin's order
        return a.t().matmul(rows.squeeze(1))
    return rows.t().matmul(a)


def backward_bias(dz: Tensor, shape: torch.Size) -> Tensor:
    """db = Σ_i dz_i over the examples."""
    return dz.sum_to_size(shape)


def _rows(dz: Tensor, weight_shape: torch.Size) -> Tensor:
    """dZ as (examples, out), whatever the leading shape; a 1-D weight has out = 1."""
    if dz.dim() == 2 == len(weight_shape):
        return dz
    out = weight_shape[0] if len(weight_shape) == 2 else 1
    return dz.reshape(math.prod(_leading(dz, weight_shape)), out)


def _leading(dz: Tensor, weight_shape: torch.Size) -> torch.Size:
    return dz.shape[:-1] if len(weight_shape) == 2 else dz.shape
