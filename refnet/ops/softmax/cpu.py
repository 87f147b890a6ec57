"""Softmax and log-softmax as loops: the same formulas as in `reference`.

Legend: z input, a result, da its cotangent, dz as there; top the largest z, Σ = Σ_j e^{z_j − top}.

Where the numbers of `dim` lie next to each other, a row is worked through after the other. Else the
input is (N, C, inner), and a tile of positions in `inner` is worked through class after class.
"""

from __future__ import annotations

import functools
import math
from math import log
from typing import Any

import torch
from torch import Tensor

from refnet._compile import ELEMENTS, SUMS, Doubles, Kernel, Reals, compiled, inlined, unavailable
from refnet._threads import share_blocks
from refnet.backend import in_memory
from refnet.ops._elementary import exp, largest, largest_of_each

__all__ = ["backward", "forward", "unsupported"]

BLOCK = 2**12  # numbers in a block of rows, about: what a thread takes at a time
PART = 2**9  # numbers that are summed in their own dtype, lane by lane; beyond, in double
SHORT = 64  # rows of fewer numbers are not worth the vector units' full width: all in double
TILE = 2**8  # positions that are worked through together, at most


@inlined(ELEMENTS)
def log_of(z: Any, top: Any, log_sum: Any) -> Any:
    """log a = (z − top) − log Σ, in this order: top + log Σ may be top."""
    return (z - top) - log_sum


@compiled(SUMS)
def rows_forward(
    z: Reals, a: Reals, first: int, last: int,
    n: int, classes: int, block: int, logarithm: bool,
) -> None:  # fmt: skip
    """a_i = e^{z_i − top} / Σ, or its logarithm z_i − top − log Σ; a block is a number of rows."""
    real = type(z[0])
    for row in range(first * block, min(last * block, n)):
        start, stop = row * classes, (row + 1) * classes
        top = largest(z, start, classes)
        total = 0.0
        for at in range(start, stop, PART):
            part = real(0)
            for i in range(at, min(at + PART, stop)):
                e = exp(z[i] - top)
                if not logarithm:
                    a[i] = e
                part += e
            total += part
        if logarithm:
            log_sum = real(log(total))
            for i in range(start, stop):
                a[i] = log_of(z[i], top, log_sum)
        else:
            factor = real(1 / total)
            for i in range(start, stop):
                a[i] *= factor


@compiled(SUMS)
def rows_backward(
    da: Reals, a: Reals, dz: Reals, first: int, last: int,
    n: int, classes: int, block: int, logarithm: bool,
) -> None:  # fmt: skip
    """dz_i = a_i (da_i − Σ_j da_j a_j), or with the logarithm dz_i = da_i − e^{a_i} Σ_j da_j."""
    real = type(a[0])
    for row in range(first * block, min(last * block, n)):
        start, stop = row * classes, (row + 1) * classes
        total = 0.0
        if logarithm:
            for i in range(start, stop):
                total += da[i]
        else:
            for i in range(start, stop):
                total += float(da[i]) * a[i]
        summed = real(total)
        if logarithm:
            for i in range(start, stop):
                dz[i] = da[i] - exp(a[i]) * summed
        elif classes < SHORT:
            for i in range(start, stop):
                dz[i] = real(a[i] * (float(da[i]) - total))
        else:
            for i in range(start, stop):
                dz[i] = a[i] * (da[i] - summed)


@compiled(SUMS)
def tiles_forward(
    z: Reals, a: Reals, first: int, last: int,
    classes: int, tile: int, inner: int, totals: Doubles, tops: Reals, factors: Reals,
    logarithm: bool,
) -> None:  # fmt: skip
    """The same for (N, C, inner); a block is a tile of positions of one example."""
    real = type(z[0])
    tiles = (inner + tile - 1) // tile
    for b in range(first, last):
        example, column = b // tiles, b % tiles * tile
        width = min(tile, inner - column)
        start, at = example * classes * inner + column, example * inner + column
        largest_of_each(z, start, inner, classes, tops, at, width)
        for j in range(at, at + width):
            totals[j] = 0.0
        for c in range(classes):
            row = start + c * inner
            for j in range(width):
                a[row + j] = exp(z[row + j] - tops[at + j])
            for j in range(width):
                totals[at + j] += a[row + j]
        for j in range(at, at + width):
            factors[j] = real(log(totals[j]) if logarithm else 1 / totals[j])
        for c in range(classes):
            row = start + c * inner
            if logarithm:
                for j in range(width):
                    a[row + j] = log_of(z[row + j], tops[at + j], factors[at + j])
            else:
                for j in range(width):
                    a[row + j] *= factors[at + j]


@compiled(SUMS)
def tiles_backward(
    da: Reals, a: Reals, dz: Reals, first: int, last: int,
    classes: int, tile: int, inner: int, totals: Doubles, sums: Reals, logarithm: bool,
) -> None:  # fmt: skip
    """The same for (N, C, inner)."""
    real = type(a[0])
    tiles = (inner + tile - 1) // tile
    for b in range(first, last):
        example, column = b // tiles, b % tiles * tile
        width = min(tile, inner - column)
        start, at = example * classes * inner + column, example * inner + column
        for j in range(at, at + width):
            totals[j] = 0.0
        for c in range(classes):
            row = start + c * inner
            if logarithm:
                for j in range(width):
                    totals[at + j] += da[row + j]
            else:
                for j in range(width):
                    totals[at + j] += da[row + j] * a[row + j]
        for j in range(at, at + width):
            sums[j] = real(totals[j])
        for c in range(classes):
            row = start + c * inner
            if logarithm:
                for j in range(width):
                    dz[row + j] = da[row + j] - exp(a[row + j]) * sums[at + j]
            else:
                for j in range(width):
                    dz[row + j] = a[row + j] * (da[row + j] - sums[at + j])


def unsupported(z: Tensor, dim: int, dtype: torch.dtype) -> str:
    """Return why the loops cannot serve a call whose arguments are right; empty if they can.

    Example:
        >>> unsupported(torch.zeros(2, 3), 1, torch.float32)
        ''
        >>> unsupported(torch.zeros(2, 3), 1, torch.float64)
        'torch.float64 of torch.float32'
    """
    if z.dtype not in (torch.float32, torch.float64):
        return f"dtype {z.dtype}"
    if z.dtype != dtype:
        return f"{dtype} of {z.dtype}"
    if not in_memory(z):
        kind = f"{type(z).__name__} of layout {z.layout} on {z.device}"
        return f"a {kind}, which is not plain memory"
    if not z.numel():
        return "no numbers"
    return "" if rows_forward.get(dtype) else unavailable()


@functools.lru_cache(maxsize=256)
def _layout(shape: tuple[int, ...], dim: int) -> tuple[int, int, int, int, int]:
    """(N, C, inner), how many rows or positions a block has, and how many blocks there are."""
    shape = shape or (1,)
    dim %= len(shape)
    n, inner = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    if inner == 1:
        block = max(BLOCK // shape[dim], 1)
        return n, shape[dim], inner, block, -(-n // block)
    return n, shape[dim], inner, TILE, n * -(-inner // TILE)


def forward(z: Tensor, dim: int, logarithm: bool) -> Tensor:
    """Return softmax or its logarithm, contiguous as the reference's is."""
    n, classes, inner, block, blocks = _layout(z.shape, dim)
    z, a = z.contiguous(), torch.empty_like(z, memory_format=torch.contiguous_format)
    sizes: tuple[Any, ...] = n, classes, block
    kernel: Kernel = rows_forward
    if inner > 1:
        scratch = (*z.new_empty(2, n * inner), z.new_empty(n * inner, dtype=torch.float64))
        sizes = classes, block, inner, *(part.data_ptr() for part in reversed(scratch))
        kernel = tiles_forward
    call: Any = kernel.get(z.dtype)
    tensors = z.data_ptr(), a.data_ptr()
    share_blocks(
        lambda first, last: call(*tensors, first, last, *sizes, logarithm), blocks, z.numel()
    )
    return a


def backward(da: Tensor, a: Tensor, dim: int, logarithm: bool) -> Tensor:
    """Return dz, contiguous as the reference's is."""
    n, classes, inner, block, blocks = _layout(a.shape, dim)
    da, dz = da.contiguous(), torch.empty_like(a)
    sizes: tuple[Any, ...] = n, classes, block
    kernel: Kernel = rows_backward
    if inner > 1:
        totals, sums = a.new_empty(n * inner, dtype=torch.float64), a.new_empty(n * inner)
        sizes = classes, block, inner, totals.data_ptr(), sums.data_ptr()
        kernel = tiles_backward
    call: Any = kernel.get(a.dtype)
    tensors = da.data_ptr(), a.data_ptr(), dz.data_ptr()
    share_blocks(
        lambda first, last: call(*tensors, first, last, *sizes, logarithm), blocks, a.numel()
    )
    return dz
