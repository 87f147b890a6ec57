"""Activations g and their derivatives g', the lecture's "Calculate gradient with batch norm".

Legend: z input, a = g(z), da = dL/da, dz = da * g'(z). All backwards are written in terms of a, so
that the output is all that has to be kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from refnet.ops import wide


def relu(z: Tensor) -> Tensor:
    """a = max(0, z); NaN stays NaN."""
    return torch.where(z <= 0, torch.zeros_like(z), z)


def relu_backward(da: Tensor, a: Tensor) -> Tensor:
    """g'(z) = 1 where z > 0, else 0 (at 0 too, as torch has it)."""
    return torch.where(a <= 0, torch.zeros_like(da), da)


def leaky_relu(z: Tensor, negative_slope: float) -> Tensor:
    """a = z where z > 0, else slope·z."""
    return torch.where(z > 0, z, z * negative_slope)


def leaky_relu_backward(da: Tensor, z: Tensor, negative_slope: float) -> Tensor:
    """g'(z) = 1 where z > 0, else slope. With slope ≥ 0, a has z's sign and may stand for z."""
    return torch.where(z > 0, da, da * negative_slope)


def tanh(z: Tensor) -> Tensor:
    """a = (e^z − e^−z) / (e^z + e^−z)."""
    return z.tanh()


def tanh_backward(da: Tensor, a: Tensor) -> Tensor:
    """g'(z) = 1 − a²; for complex z its conjugate, torch's convention."""
    da, a = wide(da), wide(a)
    return da * (1 - a * a).conj()


def sigmoid(z: Tensor) -> Tensor:
    """a = 1 / (1 + e^−z), as e^z / (1 + e^z) where z < 0, so that no exponential overflows."""
    if z.is_complex():
        return (1 / (1 + (-wide(z)).exp())).to(z.dtype)
    dtype = z.dtype if z.is_floating_point() else torch.get_default_dtype()
    z = wide(z)
    # −|z| without abs, whose derivative at 0 is 0 in forward mode
    e = torch.where(z >= 0, -z, z).exp()
    return (torch.where(z >= 0, 1, e) / (1 + e)).to(dtype)


def sigmoid_backward(da: Tensor, a: Tensor) -> Tensor:
    """g'(z) = a (1 − a) ≤ 1/4; for complex z its conjugate, torch's convention."""
    da, a = wide(da), wide(a)
    return da * (a * (1 - a)).conj()
