"""Batch norm, the lecture's "Implement Batch Normalization" and "Batch norm derivation".

Legend: z input (N, C, *); m = number of values per channel; mean μ and inv_std = 1/√(σ² + ε), (C);
weight γ and bias β, (C); dy = dL/d(γ z_norm + β). Everything is evaluated in float64 (`wide`).
In the lecture examples are columns; here the batch is dimension 0 and channels are dimension 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from refnet.ops import wide

Count = int | Tensor  # m: known from the shape, or summed over processes


def count(z: Tensor) -> int:
    """m, the number of values per channel."""
    return z.shape[0] * math.prod(z.shape[2:])


def statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """μ = 1/m Σ z, σ² = 1/m Σ (z − μ)² per channel: two passes, and the biased variance."""
    z = wide(z)
    mean = z.mean(_but_channels(z))
    var = (z - _per_channel(mean, z)).square().mean(_but_channels(z))
    return mean, var


def inverse_std(var: Tensor, eps: float) -> Tensor:
    """1 / √(σ² + ε)."""
    return (wide(var) + eps).rsqrt()


def move(average: Tensor, value: Tensor, momentum: float | Tensor) -> None:
    """V ← β V + (1 − β) θ in place: the lecture's average with β = 1 − momentum."""
    average.copy_((1 - momentum) * wide(average) + momentum * value)


def move_running(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    m: Count,
    momentum: float | Tensor,
) -> None:
    """Move the statistics that are used at test time.

    The variance kept is the unbiased one, σ² m/(m − 1), torch's convention.
    """
    move(running_mean, mean, momentum)
    move(running_var, var * (m / (m - 1)), momentum)


def forward(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inv_std: Tensor
) -> Tensor:
    """γ (z − μ) / √(σ² + ε) + β."""
    y = (wide(z) - _per_channel(mean, z)) * _per_channel(inv_std, z)
    if weight is not None:
        y = y * _per_channel(wide(weight), z)
    if bias is not None:
        y = y + _per_channel(wide(bias), z)
    return _in_layout(y.to(z.dtype), z)


def backward(
    dy: Tensor,
    z: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    inv_std: Tensor,
    m: Count | None,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> tuple[Tensor, Tensor, Tensor]:
    """dz, dγ and dβ, the lecture's chain collapsed (`lecture_backward` has it step by step).

    dβ = Σ dy,  dγ = Σ dy z_norm,  and in training, where μ and σ² depend on z,
    dz = γ inv_std (dy − dβ/m − z_norm dγ/m); in evaluation they don't: dz = γ inv_std dy.

    Args:
        dy: cotangent, shape of z.
        z: input.
        weight: γ, or None for 1.
        mean: μ.
        inv_std: 1 / √(σ² + ε).
        m: how many values μ and σ² are those of; None in evaluation.
        total: adds up (dβ, dγ), shape (2, C), over all processes that share the statistics. The
            dγ and dβ returned stay those of this process.

    Returns:
        dz, dγ and dβ in float64.
    """
    dy = wide(dy)
    z_norm = (wide(z) - _per_channel(mean, z)) * _per_channel(inv_std, z)
    dbias = dy.sum(_but_channels(z))
    dweight = (dy * z_norm).sum(_but_channels(z))
    if m is not None:
        mean_dy, mean_dy_z = total(torch.stack([dbias, dweight])) / m
        dy = dy - _per_channel(mean_dy, z) - z_norm * _per_channel(mean_dy_z, z)
    scale = inv_std if weight is None else inv_std * wide(weight)
    return _in_layout(dy * _per_channel(scale, z), z), dweight, dbias


def lecture_backward(
    dy: Tensor, z: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """dz, dγ and dβ in training, line by line as the lecture derives them; not used, but tested."""
    dims, m = _but_channels(z), count(z)
    mean, var = statistics(z)
    centered = wide(z) - _per_channel(mean, z)
    z_norm = centered * _per_channel(inverse_std(var, eps), z)

    dz_norm = wide(dy) * _per_channel(wide(weight), z)
    dvar = (dz_norm * centered).sum(dims) * (-1 / 2) * (var + eps) ** (-3 / 2)
    dmean = -dz_norm.sum(dims) * inverse_std(var, eps) + dvar * (-2 * centered).sum(dims) / m
    dz = (
        dz_norm * _per_channel(inverse_std(var, eps), z)
        + _per_channel(dvar, z) * 2 * centered / m
        + _per_channel(dmean, z) / m
    )
    return dz, (wide(dy) * z_norm).sum(dims), wide(dy).sum(dims)


def _but_channels(z: Tensor) -> list[int]:
    return [d for d in range(z.dim()) if d != 1]


def _per_channel(values: Tensor, z: Tensor) -> Tensor:
    """(C) as (1, C, 1, …), to go with z."""
    return values.reshape(1, -1, *[1] * (z.dim() - 2))


def _in_layout(result: Tensor, z: Tensor) -> Tensor:
    """Channels-last where images or volumes are, else contiguous: as the builtin leaves it."""
    if z.dim() in (4, 5) and _is_channels_last(z) and not z.is_contiguous():
        if _is_channels_last(result):
            return result
        return result.movedim(1, -1).contiguous().movedim(-1, 1)
    return result.contiguous()


def _is_channels_last(z: Tensor) -> bool:
    return z.movedim(1, -1).is_contiguous()  # vmap knows this form of the question alone
