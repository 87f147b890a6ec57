"""Softmax and log-softmax as Triton kernels: the same formulas as in `reference`.

Legend: z input, a result, da its cotangent, dz as there; top the largest z, Σ = Σ_j e^{z_j − top}.

The forward is the online softmax of Milakov and Gimelshein 2018: one reading of a row, in chunks,
gives top and Σ; the second, from the cache where the row is short, writes a. Sums, and differences
of what may nearly cancel, are in double; memory is slower still.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from refnet._triton import launching
from refnet.backend import is_dense
from refnet.ops._tiles import chunk, exp, rows_of, tiles

__all__ = ["backward", "forward", "unsupported"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def forward_kernel(
    z, a, length, step, stride, classes,
    LOGARITHM: tl.constexpr, POSITIONS: tl.constexpr, CLASSES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """a_i = e^{z_i − top} / Σ, or its logarithm z_i − top − log Σ."""
    start, _, there = rows_of(length, step, classes, POSITIONS, WIDE)
    top = tl.full([POSITIONS, 1], -float("inf"), tl.float32)
    total = tl.zeros([POSITIONS, 1], tl.float64)
    for first in range(0, classes, CLASSES):
        at, here = chunk(start, there, first, classes, stride, CLASSES, WIDE)
        x = tl.load(z + at, mask=here, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, 1)[:, None])
        base = tl.where(higher == -float("inf"), 0.0, higher)  # −∞ − −∞ is NaN
        total = total * exp(top - base) + tl.sum(exp(x - base), 1)[:, None]
        top = higher
    factor, log_sum = 1 / total, tl.log(total)
    for first in range(0, classes, CLASSES):
        at, here = chunk(start, there, first, classes, stride, CLASSES, WIDE)
        x = tl.load(z + at, mask=here, other=-float("inf")).to(tl.float32)
        if LOGARITHM:  # noqa: SIM108
            y = (x - top).to(tl.float64) - log_sum  # in this order: top + log Σ may be top
        else:
            y = exp(x - top) * factor
        tl.store(a + at, y.to(tl.float32).to(a.dtype.element_ty), mask=here)


@triton.jit
def backward_kernel(
    da, a, dz, length, step, stride, classes,
    LOGARITHM: tl.constexpr, POSITIONS: tl.constexpr, CLASSES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dz_i = a_i (da_i − Σ_j da_j a_j), or with the logarithm dz_i = da_i − e^{a_i} Σ_j da_j."""
    start, _, there = rows_of(length, step, classes, POSITIONS, WIDE)
    total = tl.zeros([POSITIONS, 1], tl.float64)
    for first in range(0, classes, CLASSES):
        at, here = chunk(start, there, first, classes, stride, CLASSES, WIDE)
        x = tl.load(da + at, mask=here, other=0.0).to(tl.float64)
        if not LOGARITHM:
            x *= tl.load(a + at, mask=here, other=0.0).to(tl.float64)
        total += tl.sum(x, 1)[:, None]
    for first in range(0, classes, CLASSES):
        at, here = chunk(start, there, first, classes, stride, CLASSES, WIDE)
        x = tl.load(da + at, mask=here, other=0.0).to(tl.float64)
        y = tl.load(a + at, mask=here, other=0.0).to(tl.float32)
        if LOGARITHM:
            x -= exp(y) * total
        else:
            x = y * (x - total)
        tl.store(dz + at, x.to(tl.float32).to(dz.dtype.element_ty), mask=here)


def unsupported(z: Tensor, dim: int, dtype: torch.dtype) -> str:
    """Return why the kernels cannot serve a call whose arguments are right; empty if they can.

    Args:
        z: input, which the caller casts to `dtype`.
        dim: the dimension of the classes.
        dtype: of the result.
    """
    if dtype not in DTYPES:
        return f"dtype {dtype}"
    if not is_dense(z) or z.is_neg():
        return f"a {type(z).__name__} of layout {z.layout}, which is not plain memory"
    return "" if z.numel() else "no numbers"


def forward(z: Tensor, dim: int, logarithm: bool) -> Tensor:
    """Return softmax or its logarithm, contiguous as the reference's is."""
    z, a = z.contiguous(), z.new_empty(z.shape)
    _launch(forward_kernel, z, a, dim=dim, logarithm=logarithm)
    return a


def backward(da: Tensor, a: Tensor, dim: int, logarithm: bool) -> Tensor:
    """Return dz, contiguous as the reference's is."""
    da, dz = da.contiguous(), a.new_empty(a.shape)
    _launch(backward_kernel, da, a, dz, dim=dim, logarithm=logarithm)
    return dz


def _launch(kernel: Any, *tensors: Tensor, dim: int, logarithm: bool) -> None:
    shape = tensors[0].shape
    cut = tiles(shape, dim % max(len(shape), 1))
    with launching(tensors[0]):
        kernel[(cut.programs,)](*tensors, *cut.sizes, LOGARITHM=logarithm, **cut.options)
