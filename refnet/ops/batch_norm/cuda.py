"""Batch norm as Triton kernels, for a batch in either layout; the formulas of `reference`.

Legend: z (n, channels, length), where channels are last (rows, channels, 1); m = n · length values
in a channel, value j of channel c at (j // length) · channels · length + c · length + j % length;
mean μ, var σ², inverse standard deviation 1/√(σ² + ε); weight γ, bias β; dy, dz, dweight, dbias.

A program works on a tile of `CHANNELS` times `VALUES`, and on so many of them, one after the other,
that the channels are split among enough programs. Each leaves count, mean and Σ (z − mean)² of its
part, two passes over what it has in registers; Chan's formula puts tiles and parts together, in
order. Sums and coefficients are in double.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from refnet._triton import halves, launching
from refnet.backend import is_dense

__all__ = ["backward", "forward", "unsupported"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NUMBERS = 2048  # numbers in a tile
WIDTH = 64  # channels in a tile where they lie side by side, at most
PROGRAMS = 1024  # are enough to fill a device
FAR = 2**30  # numbers from which on addresses have 64 bits; masked ones reach past the last
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@triton.jit
def tile_of(
    tile, m, channels, length,
    CHANNELS: tl.constexpr, VALUES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The channels of this program, where the values of a tile are, and which exist."""
    c, j = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS), tl.arange(0, VALUES)
    if WIDE:
        c, j = c.to(tl.int64), j.to(tl.int64)
    j += tile * tl.full([1], VALUES, j.dtype)  # as wide as j
    place = (j // length) * channels * length + j % length
    at = place[None, :] + (c * length)[:, None]
    return c, at, (c < channels)[:, None] & (j < m)[None, :]


@triton.jit
def chan(count, mean, squares, n, mu, s):
    """Count, mean and Σ (z − mean)² of two sets together: Chan, Golub and LeVeque 1979."""
    total = count + n
    share = tl.where(total > 0, n / tl.maximum(total, 1.0), 0.0)
    delta = mu - mean
    return total, mean + delta * share, squares + s + delta * delta * count * share


@triton.jit
def statistics_kernel(
    z, parts, m, channels, length, tiles,
    CHANNELS: tl.constexpr, VALUES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Count, mean and Σ (z − mean)² of this program's part of each channel."""
    count = tl.zeros([CHANNELS], tl.float64)
    mean, squares = count, count
    split = tl.program_id(1)
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    for tile in range(split * tiles, (split + 1) * tiles):
        _, at, here = tile_of(tile, m, channels, length, CHANNELS, VALUES, WIDE)
        x = tl.load(z + at, mask=here, other=0.0).to(tl.float64)
        n = tl.sum(here.to(tl.float64), 1)
        mu = tl.sum(x, 1) / tl.maximum(n, 1.0)
        off = tl.where(here, x - mu[:, None], 0.0)
        count, mean, squares = chan(count, mean, squares, n, mu, tl.sum(off * off, 1))
    line = parts + 3 * split * channels + c
    tl.store(line, count, mask=c < channels)
    tl.store(line + channels, mean, mask=c < channels)
    tl.store(line + 2 * channels, squares, mask=c < channels)


@triton.jit
def normalize_kernel(
    z, y, weight, bias, running_mean, running_var, parts, kept, momentum, momentum_rest,
    m, channels, length, tiles, splits, eps,
    TRAINING: tl.constexpr, MOVES: tl.constexpr, SCALED: tl.constexpr, SHIFTED: tl.constexpr,
    TENSOR: tl.constexpr,
    CHANNELS: tl.constexpr, VALUES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """y = γ (z − μ) / √(σ² + ε) + β; the first program of a channel moves what is kept of it."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    real, split = c < channels, tl.program_id(1)
    if TRAINING:
        count = tl.zeros([CHANNELS], tl.float64)
        mean, squares = count, count
        for part in range(splits):
            line = parts + 3 * part * channels + c
            n = tl.load(line, mask=real, other=0.0)
            mu = tl.load(line + channels, mask=real, other=0.0)
            s = tl.load(line + 2 * channels, mask=real, other=0.0)
            count, mean, squares = chan(count, mean, squares, n, mu, s)
        var = squares / m
    else:
        mean = tl.load(running_mean + c, mask=real, other=0.0).to(tl.float64)
        var = tl.load(running_var + c, mask=real, other=1.0).to(tl.float64)
    inv_std = 1 / tl.sqrt(var + eps)
    if split == 0:
        tl.store(kept + c, mean, mask=real)
        tl.store(kept + channels + c, inv_std, mask=real)
        if MOVES:
            if TENSOR:
                share = tl.load(momentum).to(tl.float64)
            else:
                share = tl.zeros([1], tl.float64) + momentum + momentum_rest
            old = tl.load(running_mean + c, mask=real, other=0.0).to(tl.float64)
            new = (1 - share) * old + share * mean
            tl.store(running_mean + c, _rounded(new, running_mean), mask=real)
            old = tl.load(running_var + c, mask=real, other=0.0).to(tl.float64)
            new = (1 - share) * old + share * (squares / (m - 1))  # unbiased
            tl.store(running_var + c, _rounded(new, running_var), mask=real)
    scale, shift = inv_std, tl.zeros([CHANNELS], tl.float64)
    if SCALED:
        scale *= tl.load(weight + c, mask=real, other=0.0).to(tl.float64)
    if SHIFTED:
        shift += tl.load(bias + c, mask=real, other=0.0).to(tl.float64)
    for tile in range(split * tiles, (split + 1) * tiles):
        _, at, here = tile_of(tile, m, channels, length, CHANNELS, VALUES, WIDE)
        x = tl.load(z + at, mask=here, other=0.0).to(tl.float64)
        x = (x - mean[:, None]) * scale[:, None] + shift[:, None]
        tl.store(y + at, _rounded(x, y), mask=here)


@triton.jit
def sums_kernel(
    dy, z, kept, parts, m, channels, length, tiles,
    CHANNELS: tl.constexpr, VALUES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Σ dy and Σ dy z_norm of this program's part of each channel."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    real, split = c < channels, tl.program_id(1)
    mean = tl.load(kept + c, mask=real, other=0.0)
    inv_std = tl.load(kept + channels + c, mask=real, other=0.0)
    dbias = tl.zeros([CHANNELS], tl.float64)
    dweight = dbias
    for tile in range(split * tiles, (split + 1) * tiles):
        _, at, here = tile_of(tile, m, channels, length, CHANNELS, VALUES, WIDE)
        d = tl.load(dy + at, mask=here, other=0.0).to(tl.float64)
        x = tl.load(z + at, mask=here, other=0.0).to(tl.float64)
        dbias += tl.sum(d, 1)
        dweight += tl.sum(tl.where(here, d * ((x - mean[:, None]) * inv_std[:, None]), 0.0), 1)
    tl.store(parts + 2 * split * channels + c, dbias, mask=real)
    tl.store(parts + (2 * split + 1) * channels + c, dweight, mask=real)


@triton.jit
def backward_kernel(
    dy, z, dz, weight, dweights, dbiases, kept, parts, m, channels, length, tiles, splits,
    TRAINING: tl.constexpr, SCALED: tl.constexpr, WANTS_Z: tl.constexpr,
    CHANNELS: tl.constexpr, VALUES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dβ = Σ dy, dγ = Σ dy z_norm, dz = γ inv_std (dy − dβ/m − z_norm dγ/m); see `reference`."""
    c = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    real, split = c < channels, tl.program_id(1)
    mean = tl.load(kept + c, mask=real, other=0.0)
    inv_std = tl.load(kept + channels + c, mask=real, other=0.0)
    dbias = tl.zeros([CHANNELS], tl.float64)
    dweight = dbias
    for part in range(splits):
        dbias += tl.load(parts + 2 * part * channels + c, mask=real, other=0.0)
        dweight += tl.load(parts + (2 * part + 1) * channels + c, mask=real, other=0.0)
    if split == 0:
        tl.store(dbiases + c, _rounded(dbias, dbiases), mask=real)
        tl.store(dweights + c, _rounded(dweight, dweights), mask=real)
    if WANTS_Z:
        scale = inv_std
        if SCALED:
            scale *= tl.load(weight + c, mask=real, other=0.0).to(tl.float64)
        for tile in range(split * tiles, (split + 1) * tiles):
            _, at, here = tile_of(tile, m, channels, length, CHANNELS, VALUES, WIDE)
            d = tl.load(dy + at, mask=here, other=0.0).to(tl.float64)
            if TRAINING:
                x = tl.load(z + at, mask=here, other=0.0).to(tl.float64)
                z_norm = (x - mean[:, None]) * inv_std[:, None]
                d = d - (dbias / m)[:, None] - z_norm * (dweight / m)[:, None]
            d *= scale[:, None]
            tl.store(dz + at, _rounded(d, dz), mask=here)


@triton.jit
def _rounded(x, pointer):
    """A double as what a pointer points to."""
    return x.to(tl.float32).to(pointer.dtype.element_ty)


def unsupported(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
) -> str:
    """Return why the kernels cannot serve a call, or an empty text if they can.

    They can serve no call that is an error. Whether it is plain (`backend.is_plain`) is not asked.
    """
    if not is_dense(z) or z.is_neg():
        return f"a {type(z).__name__} that is not plain memory"
    if z.dtype not in DTYPES:
        return f"input of {z.dtype}"
    size, channels = z.numel(), z.shape[1:2]
    if not size or not channels:
        return f"input of shape {tuple(z.shape)}"
    vectors = [t for t in (weight, bias, running_mean, running_var) if t is not None]
    for tensor in vectors:
        if not (
            is_dense(tensor)
            and tensor.dtype in (z.dtype, torch.float32)
            and tensor.dtype == vectors[0].dtype
            and tensor.shape == channels
            and tensor.device == z.device
            and tensor.is_contiguous()
            and not tensor.is_neg()
        ):
            return "a parameter or statistic that is no plain vector of the input's dtype"
    if running_mean is None or running_var is None:
        if not training or running_mean is not running_var:
            return "one running statistic, or none to evaluate by"
    elif running_mean.requires_grad or running_var.requires_grad:
        return "a statistic that requires a gradient"
    elif running_mean.is_inference() or running_var.is_inference():
        return "a statistic that is an inference tensor"
    if isinstance(momentum, Tensor) and momentum.device != z.device:
        return f"momentum on {momentum.device}"
    if type(training) is not bool or eps < 0 or (training and (eps == 0 or size == channels[0])):
        return f"training {training} with eps {eps} and an input of shape {tuple(z.shape)}"
    return ""


class _Cut(NamedTuple):
    """A batch, and how it is cut into tiles and splits."""

    grid: tuple[int, int]
    sizes: tuple[int, int, int, int]  # m, channels, length, tiles of a split
    options: dict[str, int]


def _cut(n: int, channels: int, length: int) -> _Cut:
    m = n * length
    width = 1 if length > 1 else min(triton.next_power_of_2(channels), WIDTH)
    numbers = NUMBERS if width == 1 else NUMBERS // 4  # sums across threads want registers
    values = min(triton.next_power_of_2(m), max(numbers // width, 1))
    blocks, tiles = triton.cdiv(channels, width), triton.cdiv(m, values)
    each = triton.cdiv(tiles, max(1, PROGRAMS // blocks))
    options = {
        "CHANNELS": width,
        "VALUES": values,
        "WIDE": m * channels >= FAR,
        "num_warps": 8 if width * values > 512 else 4,
    }
    return _Cut((blocks, triton.cdiv(tiles, each)), (m, channels, length, each), options)


def _arranged(z: Tensor) -> tuple[Tensor, int, int, int]:
    """Return z as it lies densely in either layout, rows, channels, and 1 if they are last."""
    rows, channels = z.shape[:2]
    length = z.numel() // (rows * channels)
    form = _LAST.get(z.dim())
    if z.is_contiguous() or form is None or not z.is_contiguous(memory_format=form):
        return z.contiguous(), rows, channels, length
    return z, rows * length, channels, 1


def forward(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return y, and mean and inverse standard deviation in float64, shape (2, C)."""
    z, *shape = _arranged(z)
    cut, y = _cut(*shape), torch.empty_like(z)
    channels, splits = cut.sizes[1], cut.grid[1]
    kept = z.new_empty(2, channels, dtype=torch.float64)
    parts = kept
    moves = training and running_mean is not None
    momenta = (momentum, 0.0) if isinstance(momentum, Tensor) else halves(momentum)
    with launching(z):
        if training:
            parts = z.new_empty(3 * splits * channels, dtype=torch.float64)
            statistics_kernel[cut.grid](z, parts, *cut.sizes, **cut.options)
        normalize_kernel[cut.grid](
            z, y, weight, bias, running_mean, running_var, parts, kept, *momenta,
            *cut.sizes, splits, eps,
            TRAINING=training, MOVES=moves, SCALED=weight is not None, SHIFTED=bias is not None,
            TENSOR=isinstance(momentum, Tensor), **cut.options,
        )  # fmt: skip
    if moves:
        torch.autograd.graph.increment_version([running_mean, running_var])  # type: ignore[list-item]
    return y, kept


def backward(
    dy: Tensor, z: Tensor, weight: Tensor | None, kept: Tensor, training: bool, wants_z: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return dz if it is wanted, dγ and dβ.

    Args:
        dy: cotangent.
        z: input.
        weight: γ.
        kept: mean and inverse standard deviation, as `forward` returns them.
        training: whether they are those of z.
        wants_z: whether dz is wanted.
    """
    z, *shape = _arranged(z)
    if dy.is_neg() or dy.stride() != z.stride():
        dy = torch.empty_like(z).copy_(dy)
    cut, dz = _cut(*shape), torch.empty_like(z) if wants_z else None
    channels, splits = cut.sizes[1], cut.grid[1]
    like: Any = z if weight is None else weight
    dweight, dbias = like.new_empty(channels), like.new_empty(channels)
    parts = z.new_empty(2 * splits * channels, dtype=torch.float64)
    with launching(z):
        sums_kernel[cut.grid](dy, z, kept, parts, *cut.sizes, **cut.options)
        backward_kernel[cut.grid if wants_z else (cut.grid[0], 1)](
            dy, z, dz, weight, dweight, dbias, kept, parts, *cut.sizes, splits,
            TRAINING=training, SCALED=weight is not None, WANTS_Z=wants_z, **cut.options,
        )  # fmt: skip
    return dz, dweight, dbias
