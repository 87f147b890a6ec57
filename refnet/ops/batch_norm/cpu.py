"""Batch norm as loops, for a batch in either layout; the formulas of `reference`.

Legend: z (n, channels, length) with channels first, (rows, channels) with channels last; mean μ,
var σ², m values in a channel; weight γ, bias β; dy, dz, dweight, dbias gradients of the loss.

Sums and coefficients are in double. A batch is read from memory as seldom as can be: twice forward
and twice backward. So σ² is taken block by block, in two passes over what the first has brought
into the cache, and Chan's formula puts the blocks together; and the backward, which is told μ,
takes σ² again beside the sums that it needs anyway.
"""

from __future__ import annotations

import functools
import math
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refnet._compile import SUMS, Doubles, Kernel, Reals, compiled, inlined, unavailable
from refnet._threads import scratch, share
from refnet.backend import PLAIN, in_memory

__all__ = ["backward", "forward", "unsupported"]

BLOCK = 2**13  # values of a channel, channels first
CHUNK = 2**15  # values of all channels, channels last
ROWS = 4  # that are summed at once
SHARE = 2**17  # values that are worth a thread of their own, at least
ALL, FIRST, SECOND, THIRD = range(4)  # stages, where channels are last
_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@inlined
def _sum(z: Any, start: int, stop: int, step: int, rows: int) -> float:
    """Σ z of a few rows at once, which the compiler unrolls: short rows have no loops to speak of.

    From `start` to `stop` in the first row; the next one is `step` further.
    """
    total = 0.0
    for j in range(start, stop):
        for i in range(rows):
            total += z[j + i * step]
    return total


@inlined
def _sum_squares(z: Any, mean: float, start: int, stop: int, step: int, rows: int) -> float:
    """Σ (z − μ)², likewise."""
    total = 0.0
    for j in range(start, stop):
        for i in range(rows):
            total += (z[j + i * step] - mean) ** 2
    return total


@inlined
def _moments(z: Any, n: int, channels: int, length: int, c: int) -> Any:
    """μ and σ² of a channel; a block is a part of a row, or several rows if they are short."""
    per_block, step = max(1, BLOCK // length), channels * length
    if per_block > ROWS:
        per_block -= per_block % ROWS
    total, squares, m = 0.0, 0.0, 0
    for row in range(0, n, per_block):
        rows = min(per_block, n - row)
        several = row + rows - rows % ROWS
        for start in range(0, length, BLOCK):
            stop = min(start + BLOCK, length)
            first, last = c * length + start, c * length + stop
            part = 0.0
            for i in range(row, several, ROWS):
                part += _sum(z, i * step + first, i * step + last, step, ROWS)
            for i in range(several, row + rows):
                part += _sum(z, i * step + first, i * step + last, step, 1)
            size = rows * (stop - start)
            mean = part / size
            if m > 0:
                squares += (mean - total / m) ** 2 * (m * (size / (m + size)))
            for i in range(row, several, ROWS):
                squares += _sum_squares(z, mean, i * step + first, i * step + last, step, ROWS)
            for i in range(several, row + rows):
                squares += _sum_squares(z, mean, i * step + first, i * step + last, step, 1)
            total += part
            m += size
    return total / m, squares / m


@inlined
def _move(running_mean: Any, running_var: Any, c: int, mean: float, var: float, m: int,
          momentum: float) -> None:  # fmt: skip
    """V ← (1 − momentum) V + momentum θ; of the unbiased variance."""
    running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean
    running_var[c] = (1 - momentum) * running_var[c] + momentum * (var * (m / (m - 1)))


@compiled(SUMS)
def forward_first(
    z: Reals, y: Reals, weight: Reals, bias: Reals, running_mean: Reals, running_var: Reals,
    means: Doubles, n: int, channels: int, length: int, first: int, last: int,
    training: bool, moves: bool, has_weight: bool, has_bias: bool, momentum: float, eps: float,
) -> None:  # fmt: skip
    """γ (z − μ) / √(σ² + ε) + β, channels first."""
    real, m = type(z[0]), n * length
    for c in range(first, last):
        if training:
            mean, var = _moments(z, n, channels, length, c)
            means[c] = mean
            if moves:
                _move(running_mean, running_var, c, mean, var, m, momentum)
        else:
            mean, var = float(running_mean[c]), float(running_var[c])
        wide = (float(weight[c]) if has_weight else 1.0) / sqrt(var + eps)
        center, scale = real(mean), real(wide)
        shift = real((center - mean) * wide + (float(bias[c]) if has_bias else 0.0))
        for i in range(n):
            at = (i * channels + c) * length
            for j in range(at, at + length):
                y[j] = (z[j] - center) * scale + shift


@inlined
def _sum_products(dy: Any, z: Any, mean: float, at: int, length: int, step: int, rows: int) -> Any:
    """Σ dy, Σ dy (z − μ) and Σ (z − μ)², likewise."""
    sum_dy, sum_dy_z, squares = 0.0, 0.0, 0.0
    for j in range(at, at + length):
        for i in range(rows):
            d = float(dy[j + i * step])
            centered = z[j + i * step] - mean
            sum_dy += d
            sum_dy_z += d * centered
            squares += centered * centered
    return sum_dy, sum_dy_z, squares


@compiled(SUMS)
def backward_first(
    dy: Reals, z: Reals, dz: Reals, weight: Reals, dweight: Reals, dbias: Reals,
    running_var: Reals, means: Doubles, n: int, channels: int, length: int, first: int, last: int,
    training: bool, has_weight: bool, wants_z: bool, wants_sums: bool, eps: float,
) -> None:  # fmt: skip
    """dβ = Σ dy, dγ = Σ dy z_norm, dz = γ inv_std (dy − dβ/m − z_norm dγ/m); see `reference`."""
    real, m = type(z[0]), n * length
    for c in range(first, last):
        mean = means[c]
        sum_dy, sum_dy_z, squares = 0.0, 0.0, 0.0
        if training or wants_sums:
            step, several = channels * length, n - n % ROWS
            for i in range(0, several, ROWS):
                part = _sum_products(dy, z, mean, i * step + c * length, length, step, ROWS)
                sum_dy, sum_dy_z = sum_dy + part[0], sum_dy_z + part[1]
                squares += part[2]
            for i in range(several, n):
                part = _sum_products(dy, z, mean, i * step + c * length, length, step, 1)
                sum_dy, sum_dy_z = sum_dy + part[0], sum_dy_z + part[1]
                squares += part[2]
        inv_std = 1 / sqrt((squares / m if training else float(running_var[c])) + eps)
        if wants_sums:
            dweight[c] = sum_dy_z * inv_std
            dbias[c] = sum_dy
        scale = real(inv_std * (float(weight[c]) if has_weight else 1.0))
        if wants_z:
            wide = sum_dy_z * inv_std * inv_std / m
            center, slope = real(mean), real(wide)
            mean_dy = real(sum_dy / m + (center - mean) * wide)
            for i in range(n):
                at = (i * channels + c) * length
                if training:
                    for j in range(at, at + length):
                        dz[j] = scale * (dy[j] - mean_dy - (z[j] - center) * slope)
                else:
                    for j in range(at, at + length):
                        dz[j] = scale * dy[j]


@inlined
def _add(z: Any, table: Any, to: int, channels: int, row: int, rows: int) -> None:
    """Σ z, row by row: a few at a time, which the compiler unrolls, save going over the sums."""
    for c in range(channels):
        total = table[to + c]
        for i in range(rows):
            total += z[(row + i) * channels + c]
        table[to + c] = total


@inlined
def _add_squares(z: Any, table: Any, means: int, to: int, channels: int, row: int, rows: int
                 ) -> None:  # fmt: skip
    """Σ (z − μ)², likewise."""
    for c in range(channels):
        total = table[to + c]
        for i in range(rows):
            total += (z[(row + i) * channels + c] - table[means + c]) ** 2
        table[to + c] = total


@inlined
def _join(table: Any, channels: int, k: int, m: int, size: int) -> None:
    """Add chunk k, its μ and Σ (z − μ)², to Σ z and Σ (z − μ)² of the m rows before it."""
    both = m * (size / (m + size))
    mean, var = 2 * k * channels, (2 * k + 1) * channels
    for c in range(channels):
        gap = table[mean + c] - table[c] / m
        table[c] += table[mean + c] * size
        table[channels + c] += table[var + c] + gap * gap * both


@compiled(SUMS)
def forward_last(
    z: Reals, y: Reals, weight: Reals, bias: Reals, running_mean: Reals, running_var: Reals,
    means: Doubles, lines: Reals, table: Doubles, rows: int, channels: int, chunk: int,
    first: int, last: int, stage: int,
    training: bool, moves: bool, has_weight: bool, has_bias: bool,
    momentum: float, eps: float,
) -> None:  # fmt: skip
    """γ (z − μ) / √(σ² + ε) + β, channels last, for chunks `first` to `last` of rows.

    Stages, which threads share but for the second: the moments of chunks, for the table; those of
    all, and with them lines of μ, scale and shift; y.
    """
    real = type(z[0])
    if training and stage in (ALL, FIRST):
        for k in range(first, last):
            sums, squares = 2 * k * channels, (2 * k + 1) * channels
            start, stop = k * chunk, min((k + 1) * chunk, rows)
            several = stop - (stop - start) % ROWS
            for c in range(2 * channels):
                table[sums + c] = 0.0
            for row in range(start, several, ROWS):
                _add(z, table, sums, channels, row, ROWS)
            for row in range(several, stop):
                _add(z, table, sums, channels, row, 1)
            for c in range(channels):
                table[sums + c] /= stop - start
            for row in range(start, several, ROWS):
                _add_squares(z, table, sums, squares, channels, row, ROWS)
            for row in range(several, stop):
                _add_squares(z, table, sums, squares, channels, row, 1)
    if stage in (ALL, SECOND):
        if training:
            for c in range(channels):
                table[c] *= min(chunk, rows)
            for k in range(1, -(-rows // chunk)):
                _join(table, channels, k, k * chunk, min(chunk, rows - k * chunk))
        for c in range(channels):
            if training:
                mean, var = table[c] / rows, table[channels + c] / rows
                if moves:
                    _move(running_mean, running_var, c, mean, var, rows, momentum)
            else:
                mean, var = float(running_mean[c]), float(running_var[c])
            means[c] = mean
            wide = (float(weight[c]) if has_weight else 1.0) / sqrt(var + eps)
            lines[c], lines[channels + c] = mean, wide
            lines[2 * channels + c] = (real(mean) - mean) * wide + (
                float(bias[c]) if has_bias else 0.0
            )
    if stage in (ALL, THIRD):
        for row in range(first * chunk, min(last * chunk, rows)):
            at = row * channels
            for c in range(channels):
                centered = z[at + c] - lines[c]
                y[at + c] = centered * lines[channels + c] + lines[2 * channels + c]


@inlined
def _add_products(dy: Any, z: Any, means: Any, table: Any, to: int, channels: int, row: int,
                  rows: int) -> None:  # fmt: skip
    """Σ dy, Σ dy (z − μ) and Σ (z − μ)²."""
    for c in range(channels):
        sum_dy = table[to + c]
        sum_dy_z = table[to + channels + c]
        squares = table[to + 2 * channels + c]
        for i in range(rows):
            d = float(dy[(row + i) * channels + c])
            centered = z[(row + i) * channels + c] - means[c]
            sum_dy += d
            sum_dy_z += d * centered
            squares += centered * centered
        table[to + c] = sum_dy
        table[to + channels + c] = sum_dy_z
        table[to + 2 * channels + c] = squares


@compiled(SUMS)
def backward_last(
    dy: Reals, z: Reals, dz: Reals, weight: Reals, dweight: Reals, dbias: Reals,
    running_var: Reals, means: Doubles, lines: Reals, table: Doubles,
    rows: int, channels: int, chunk: int, first: int, last: int, stage: int,
    training: bool, has_weight: bool, wants_z: bool, wants_sums: bool, eps: float,
) -> None:  # fmt: skip
    """As `backward_first`, in stages: the sums of chunks; those of all, and coefficients; dz."""
    real = type(z[0])
    if (training or wants_sums) and stage in (ALL, FIRST):
        for k in range(first, last):
            to = 3 * k * channels
            start, stop = k * chunk, min((k + 1) * chunk, rows)
            several = stop - (stop - start) % ROWS
            for c in range(3 * channels):
                table[to + c] = 0.0
            for row in range(start, several, ROWS):
                _add_products(dy, z, means, table, to, channels, row, ROWS)
            for row in range(several, stop):
                _add_products(dy, z, means, table, to, channels, row, 1)
    if stage in (ALL, SECOND):
        if training or wants_sums:
            for k in range(1, -(-rows // chunk)):
                for c in range(3 * channels):
                    table[c] += table[3 * k * channels + c]
        for c in range(channels):
            sum_dy, sum_dy_z, squares = 0.0, 0.0, 0.0
            if training or wants_sums:
                sum_dy, sum_dy_z = table[c], table[channels + c]
                squares = table[2 * channels + c]
            inv_std = 1 / sqrt((squares / rows if training else float(running_var[c])) + eps)
            if wants_sums:
                dweight[c] = sum_dy_z * inv_std
                dbias[c] = sum_dy
            wide = sum_dy_z * inv_std * inv_std / rows
            lines[c] = means[c]
            lines[channels + c] = inv_std * (float(weight[c]) if has_weight else 1.0)
            lines[2 * channels + c] = sum_dy / rows + (real(means[c]) - means[c]) * wide
            lines[3 * channels + c] = wide
    if wants_z and stage in (ALL, THIRD):
        for row in range(first * chunk, min(last * chunk, rows)):
            at = row * channels
            if training:
                for c in range(channels):
                    slope = (z[at + c] - lines[c]) * lines[3 * channels + c]
                    centered = dy[at + c] - lines[2 * channels + c] - slope
                    dz[at + c] = lines[channels + c] * centered
            else:
                for c in range(channels):
                    dz[at + c] = lines[channels + c] * dy[at + c]


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
    """Return why the loops cannot serve a call, or an empty text if they can.

    They can serve no call that is an error. Whether it is plain (`backend.is_plain`) is not asked.

    Example:
        >>> z, one = torch.ones(4, 3), torch.ones(3)
        >>> unsupported(z, one, one, None, None, True, 0.1, 1e-5)
        ''
        >>> unsupported(z.half(), one, one, None, None, True, 0.1, 1e-5)
        'input of torch.float16'
    """
    if not in_memory(z):
        return "an input that is no plain tensor on a CPU"
    dtype = z.dtype
    if dtype is not torch.float32 and dtype is not torch.float64:
        return f"input of {dtype}"
    size, channels = z.numel(), z.shape[1:2]
    if not size or not channels:
        return f"input of shape {tuple(z.shape)}"
    for tensor in (weight, bias, running_mean, running_var):
        if tensor is not None and not (
            type(tensor) in PLAIN
            and tensor.dtype is dtype
            and tensor.shape == channels
            and tensor.is_cpu
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
    if type(training) is not bool or eps < 0 or (training and (eps == 0 or size == channels[0])):
        return f"training {training} with eps {eps} and an input of shape {tuple(z.shape)}"
    last = _layout(z.shape, z.stride()).length == 1
    forward, backward = (forward_last, backward_last) if last else (forward_first, backward_first)
    return "" if forward.get(dtype) and backward.get(dtype) else unavailable()


class _Layout(NamedTuple):
    """A batch as it lies in memory."""

    dense: bool  # else it is copied, channels first
    rows: int
    channels: int
    length: int  # of what lies between two channels; 1 where they are last
    chunk: int  # so many rows are worked through at once, where channels are last
    chunks: int


@functools.lru_cache(maxsize=256)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> _Layout:
    z = torch.empty_strided(shape, strides, device="meta")
    (rows, channels), last = shape[:2], _LAST.get(len(shape))
    length, dense = math.prod(shape[2:]), z.is_contiguous()
    if not dense and last is not None and z.is_contiguous(memory_format=last):
        rows, length, dense = rows * length, 1, True
    chunk = 4 * max(4, CHUNK // (4 * channels))
    return _Layout(dense, rows, channels, length, chunk, -(-rows // chunk))


def forward(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
) -> tuple[Tensor, Tensor | None]:
    """Return y, and in training μ in float64."""
    layout = _layout(z.shape, z.stride())
    z = z if layout.dense else z.contiguous()
    y = torch.empty_like(z)
    means = torch.empty(layout.channels, dtype=torch.float64)
    moves = training and running_mean is not None
    vectors = weight, bias, running_mean, running_var
    pointers = (
        z.data_ptr(), y.data_ptr(), *[0 if v is None else v.data_ptr() for v in vectors],
        means.data_ptr(),
    )  # fmt: skip
    numbers = (
        training, moves, weight is not None, bias is not None, float(momentum), eps,
    )  # fmt: skip
    _call((forward_first, forward_last), layout, z.dtype, pointers, numbers)
    if moves:
        torch.autograd.graph.increment_version([running_mean, running_var])  # type: ignore[list-item]
    return y, means if training else None


def backward(
    dy: Tensor,
    z: Tensor,
    weight: Tensor | None,
    means: Tensor,
    running_var: Tensor | None,
    eps: float,
    wants_z: bool,
    wants_sums: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return dz, dγ and dβ, as far as they are wanted.

    Args:
        dy: cotangent.
        z: input.
        weight: γ.
        means: μ, in float64.
        running_var: σ² in evaluation, None in training.
        eps: ε.
        wants_z: whether dz is wanted.
        wants_sums: whether dγ or dβ is.
    """
    layout = _layout(z.shape, z.stride())
    z = z if layout.dense else z.contiguous()
    if dy.is_neg() or dy.stride() != z.stride():
        dy = torch.empty_like(z).copy_(dy)
    dz = torch.empty_like(z) if wants_z else None
    dweight = z.new_empty(layout.channels) if wants_sums else None
    dbias = z.new_empty(layout.channels) if wants_sums else None
    wanted = dz, weight, dweight, dbias, running_var
    pointers = (
        dy.data_ptr(), z.data_ptr(), *[0 if v is None else v.data_ptr() for v in wanted],
        means.data_ptr(),
    )  # fmt: skip
    numbers = (running_var is None, weight is not None, wants_z, wants_sums, eps)
    _call((backward_first, backward_last), layout, z.dtype, pointers, numbers)
    return dz, dweight, dbias


def _call(kernels: tuple[Kernel, Kernel], layout: _Layout, dtype: torch.dtype,
          pointers: tuple[int, ...], numbers: tuple[Any, ...]) -> None:  # fmt: skip
    """Call the first kernel for channels first, the second for channels last."""
    _, rows, channels, length, chunk, chunks = layout
    alone = rows * channels * length < 2 * SHARE or torch.get_num_threads() == 1
    call: Any = kernels[length == 1].get(dtype)
    if length > 1:
        sizes: tuple[int, ...] = rows, channels, length
        if alone:
            call(*pointers, *sizes, 0, channels, *numbers)
        else:
            share(
                lambda first, last: call(*pointers, *sizes, first, last, *numbers),
                _cut(channels, rows * length),
            )
        return
    memory = scratch((4 + 3 * chunks) * channels)
    lines = memory.data_ptr()
    sizes = (lines, lines + 32 * channels, rows, channels, chunk)
    if alone:
        call(*pointers, *sizes, 0, chunks, ALL, *numbers)
        return
    bounds = _cut(chunks, chunk * channels)
    for stage in (FIRST, SECOND, THIRD):
        share(
            lambda first, last: call(*pointers, *sizes, first, last, stage, *numbers),  # noqa: B023
            [0, chunks] if stage == SECOND else bounds,
        )


def _cut(count: int, size: int) -> list[int]:
    """Return bounds of ranges of things of a size that threads can share evenly."""
    ranges = max(1, min(count, 4 * torch.get_num_threads(), count * size // SHARE))
    return [count * i // ranges for i in range(ranges + 1)]
