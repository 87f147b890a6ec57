"""Activations as loops: the same formulas as in `reference`. The tanh itself is torch's there too.

Legend: z input, a result, da its cotangent, dz = da * g'(z), written in terms of a, but of leaky
ReLU in terms of z. All have the same arguments; the slope is leaky ReLU's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from refnet._compile import Kernel, Reals, compiled, unavailable
from refnet._threads import share_blocks
from refnet.backend import in_memory
from refnet.ops._elementary import exp

__all__ = ["backward", "forward", "unsupported"]

BLOCK = 2**12  # numbers that a thread takes at a time


@compiled()
def relu(z: Reals, a: Reals, first: int, last: int, slope: float) -> None:
    """a = max(0, z); NaN stays NaN."""
    real = type(z[0])
    for i in range(first, last):
        a[i] = real(0) if z[i] <= 0 else z[i]


@compiled()
def relu_backward(da: Reals, a: Reals, dz: Reals, first: int, last: int, slope: float) -> None:
    """g'(z) = 1 where z > 0, else 0."""
    real = type(a[0])
    for i in range(first, last):
        d = da[i]
        dz[i] = real(0) if a[i] <= 0 else d


@compiled()
def leaky_relu(z: Reals, a: Reals, first: int, last: int, slope: float) -> None:
    """a = z where z > 0, else slope·z."""
    rate = type(z[0])(slope)
    for i in range(first, last):
        a[i] = z[i] if z[i] > 0 else z[i] * rate


@compiled()
def leaky_relu_backward(da: Reals, z: Reals, dz: Reals, first: int, last: int, slope: float
                        ) -> None:  # fmt: skip
    """g'(z) = 1 where z > 0, else slope."""
    rate = type(z[0])(slope)
    for i in range(first, last):
        d = da[i]
        dz[i] = d if z[i] > 0 else d * rate


@compiled()
def tanh_backward(da: Reals, a: Reals, dz: Reals, first: int, last: int, slope: float) -> None:
    """g'(z) = 1 − a²."""
    real = type(a[0])
    for i in range(first, last):
        dz[i] = da[i] * (real(1) - a[i] * a[i])


@compiled()
def sigmoid(z: Reals, a: Reals, first: int, last: int, slope: float) -> None:
    """a = 1 / (1 + e^−z), as e^z / (1 + e^z) where z < 0, so that no exponential overflows."""
    real = type(z[0])
    for i in range(first, last):
        e = exp(-abs(z[i]))
        a[i] = (real(1) if z[i] >= 0 else e) / (real(1) + e)


@compiled()
def sigmoid_backward(da: Reals, a: Reals, dz: Reals, first: int, last: int, slope: float) -> None:
    """g'(z) = a (1 − a)."""
    real = type(a[0])
    for i in range(first, last):
        dz[i] = da[i] * (a[i] * (real(1) - a[i]))


KERNELS: dict[str, tuple[Kernel | None, Kernel]] = {
    "relu": (relu, relu_backward),
    "leaky_relu": (leaky_relu, leaky_relu_backward),
    "tanh": (None, tanh_backward),
    "sigmoid": (sigmoid, sigmoid_backward),
}


def unsupported(z: Tensor, inplace: bool = False) -> str:
    """Return why the loops cannot serve a call, or an empty text if they can.

    Example:
        >>> unsupported(torch.ones(3))
        ''
        >>> unsupported(torch.ones(3).half())
        'input of torch.float16'
    """
    if not in_memory(z):
        return "an input that is no plain tensor on a CPU"
    if z.dtype is not torch.float32 and z.dtype is not torch.float64:
        return f"input of {z.dtype}"
    if inplace:
        return "an in-place call"
    return "" if relu.get(z.dtype) else unavailable()


def forward(name: str, z: Tensor, slope: float) -> Tensor:
    """Return a."""
    kernel = KERNELS[name][0]
    if kernel is None:
        return z.tanh()
    a = torch.empty_like(z)
    if z.stride() != a.stride():
        z = torch.empty_like(a).copy_(z)
    _call(kernel, (z, a), slope)
    return a


def backward(name: str, da: Tensor, kept: Tensor, slope: float) -> Tensor:
    """Return dz, from a or, of leaky ReLU, z."""
    dz = torch.empty_like(kept)
    da, kept = (t if t.stride() == dz.stride() else torch.empty_like(dz).copy_(t)
                for t in (da, kept))  # fmt: skip
    _call(KERNELS[name][1], (da, kept, dz), slope)
    return dz


def _call(kernel: Kernel, tensors: tuple[Tensor, ...], slope: float) -> None:
    count = tensors[0].numel()
    call: Any = kernel.get(tensors[0].dtype)
    addresses = [tensor.data_ptr() for tensor in tensors]
    share_blocks(
        lambda first, last: call(*addresses, first * BLOCK, min(last * BLOCK, count), slope),
        -(-count // BLOCK), count,
    )  # fmt: skip
