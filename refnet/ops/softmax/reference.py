"""Softmax and its logarithm, the lecture's "Softmax layer".

Legend: z input, a = softmax(z), da = dL/da; sums run over `dim`, with the dimension kept. Results
are contiguous whatever the input is, as the builtins' are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refnet.ops import wide


def shift(z: Tensor, dim: int) -> Tensor:
    """z − max z: leaves softmax as it is and keeps exp from overflowing.

    The maximum is detached, since a shift of all z has derivative 0 in softmax.
    """
    return z - z.amax(dim, keepdim=True).detach() if z.numel() else z


def softmax(z: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """a_i = e^{z_i} / Σ_j e^{z_j}."""
    e = shift(wide(z.to(dtype)), dim).exp()
    return (e / e.sum(dim, keepdim=True)).to(dtype).contiguous()


def softmax_backward(da: Tensor, a: Tensor, dim: int) -> Tensor:
    """dz_i = a_i (da_i − Σ_j da_j a_j), from ∂a_j/∂z_i = a_j (δ_ij − a_i)."""
    da, a = wide(da), wide(a)
    return (a * (da - (da * a).sum(dim, keepdim=True))).contiguous()


def log_softmax(z: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    """log a_i = z_i − log Σ_j e^{z_j}."""
    z = shift(wide(z.to(dtype)), dim)
    return (z - z.exp().sum(dim, keepdim=True).log()).to(dtype).contiguous()


def log_softmax_backward(dlog_a: Tensor, log_a: Tensor, dim: int) -> Tensor:
    """dz_i = dlog_a_i − a_i Σ_j dlog_a_j, from ∂log a_j/∂z_i = δ_ij − a_i."""
    dlog_a, log_a = wide(dlog_a), wide(log_a)
    return (dlog_a - log_a.exp() * dlog_a.sum(dim, keepdim=True)).contiguous()
