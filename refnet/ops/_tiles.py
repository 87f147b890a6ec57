"""What the kernels over classes share: how scores are cut into tiles, and the exponential.

Scores (N, C, inner) are N · inner rows of C classes. A program works on a tile of `POSITIONS` rows
that lie side by side in memory and, one chunk after the other, `CLASSES` of their classes. The
rows are cut without crossing an example, or where inner is 1 as if all were of one example:

    address = example · length · classes + j · step + c · stride,  j < length

with (length, step, stride) = (inner, 1, inner), or (N, C, 1). Triton knows an argument that is 1.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import triton
import triton.language as tl

__all__ = ["Tiles", "chunk", "exp", "rows_of", "tiles"]

NUMBERS = 2048  # numbers in a tile, at most
ROW = 2048  # classes in a chunk where they lie side by side, at most
COLUMNS = 64  # positions in a tile where those lie side by side, at most
MANY = 1024  # numbers in a tile from which on it gets twice as many warps
FAR = 2**30  # numbers from which on addresses have 64 bits; masked ones reach past the last


class Tiles(NamedTuple):
    """How scores are cut."""

    programs: int
    rows: int
    sizes: tuple[int, int, int, int]  # length, step, stride, classes
    options: dict[str, int]  # constants, and the number of warps


@functools.lru_cache(maxsize=256)
def tiles(shape: tuple[int, ...], dim: int) -> Tiles:
    """Cut scores of a shape whose classes are in dimension `dim`."""
    shape = shape or (1,)
    n, classes, inner = math.prod(shape[:dim]), shape[dim], math.prod(shape[dim + 1 :])
    if inner == 1:
        n, length, step, stride = 1, n, classes, 1
        chunk = min(triton.next_power_of_2(classes), ROW)
        positions = min(triton.next_power_of_2(length), NUMBERS // chunk, 64)
    else:  # the sums over classes cross more threads, and want more registers
        length, step, stride = inner, 1, inner
        positions = min(triton.next_power_of_2(length), COLUMNS)
        chunk = min(triton.next_power_of_2(classes), max(NUMBERS // 2 // positions, 1))
    options = {
        "POSITIONS": positions,
        "CLASSES": chunk,
        "WIDE": math.prod(shape) >= FAR,
        "num_warps": 8 if positions * chunk >= MANY else 4,
    }
    programs = n * triton.cdiv(length, positions)
    return Tiles(programs, n * length, (length, step, stride, classes), options)


@triton.jit
def rows_of(length, step, classes, POSITIONS: tl.constexpr, WIDE: tl.constexpr):
    """Where the rows of this program begin, which they are, and whether they are there at all."""
    program, j = tl.program_id(0), tl.arange(0, POSITIONS)
    if WIDE:
        program, j = program.to(tl.int64), j.to(tl.int64)
    blocks = tl.cdiv(length, POSITIONS)
    example = program // blocks
    j += program % blocks * POSITIONS
    return example * length * classes + j * step, example * length + j, j < length


@triton.jit
def chunk(start, there, first, classes, stride, CLASSES: tl.constexpr, WIDE: tl.constexpr):
    """Where the scores of the chunk of classes that begins with `first` are, and which exist."""
    c = first + tl.arange(0, CLASSES)
    if WIDE:
        c = c.to(tl.int64)
    return start[:, None] + (c * stride)[None, :], there[:, None] & (c < classes)[None, :]


@triton.jit
def exp(x):
    """e^x in float64 of a float32 x ≤ 0, to less than a unit in float32's last place.

    e^x = 2^k e^r, r = x − k log 2, |r| ≤ log 2 / 2, e^r by a polynomial. The device's own
    exponential errs with |x|. NaN stays NaN. Double holds what float32 rounds twice, or calls 0.
    """
    x = tl.where(x < -350, -350.0, x)  # which gives 0 in float32, whatever scales the loss
    k = tl.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.693145751953125) - k * 1.428606765330187e-06  # log 2 in two parts
    p = 1.98527617612853646e-04 * r + 1.39304355252534151e-03
    p = p * r + 8.33336077630519867e-03
    p = p * r + 4.16664853692054749e-02
    p = p * r + 1.66666671633720398e-01
    p = p * r + 0.5
    p = p * (r * r) + r + 1
    power = ((k.to(tl.int32).to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    return p.to(tl.float64) * power
