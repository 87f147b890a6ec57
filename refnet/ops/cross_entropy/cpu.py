"""Softmax cross-entropy as loops, for class indices: the same formulas as in `reference`.

Legend: z logits, y labels, w weights, dz as there; e = e^{z − top} with top the largest z of a row,
Σ = Σ_c e_c, so a = e / Σ; s label smoothing; q_c = w_c ((1 − s) [c = y] + s/C) the soft targets.

The loss of a row is L = −Σ_c q_c log a_c = (1 − s) w_y (log Σ − (z_y − top))
+ s/C Σ_c w_c (log Σ − (z_c − top)), and dz_c = g (a_c Σ_k q_k − q_c). Σ is all that is kept of a
row, and what the mean divides by.

Where the classes lie next to each other, a row is worked through after the other. Else (N, C, d1,
…) is (N, C, inner), and a tile of positions in `inner` is worked through class after class.
"""

from __future__ import annotations

import functools
import math
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refnet._compile import ELEMENTS, SUMS, Doubles, Ints, Reals, compiled, inlined, unavailable
from refnet._threads import share_blocks
from refnet.backend import in_memory
from refnet.ops._elementary import exp, largest, largest_of_each
from refnet.ops.cross_entropy.reference import Options

__all__ = ["backward", "forward", "unsupported"]

BLOCK = 2**12  # scores in a block, about: what a thread takes at a time, whose losses are one sum
PART = 2**9  # numbers that are summed in their own dtype, lane by lane; beyond, in double
TILE = 2**8  # positions that are worked through together, at most
RUN = 16  # classes of a position that are summed in their own dtype


@inlined
def sum_of(w: Any, classes: int, weighted: bool) -> float:
    """Σ_c w_c."""
    if not weighted:
        return float(classes)
    total = 0.0
    for c in range(classes):
        total += w[c]
    return total


@inlined(ELEMENTS)
def loss_of(own: float, even: float, log_sum: float, w_own: float, w_all: float, s_each: float,
            s: float) -> float:  # fmt: skip
    """L of a row, from own = z_y − top, even = Σ_c w_c (z_c − top) and w_all = Σ_c w_c.

    In this order: top + log Σ may be top.
    """
    loss = (1 - s) * w_own * (log_sum - own)
    if s != 0:
        loss += s_each * (w_all * log_sum - even)
    return loss


@inlined
def finish(loss: float, weight: float, losses: Any, sums: Any, n: int, mean: bool) -> None:
    """The loss of all rows, and behind the Σ of the rows what it was divided by."""
    real = type(losses[0])
    divisor = weight if mean else 1.0
    losses[0], sums[n] = real(loss / divisor), real(divisor)


@compiled(SUMS)
def rows_forward(
    z: Reals, y: Ints, w: Reals, sums: Reals, losses: Reals, totals: Doubles, first: int, last: int,
    n: int, classes: int, block: int, blocks: int,
    ignore_index: int, s: float, weighted: bool, each: bool, mean: bool,
) -> int:  # fmt: skip
    """Σ of each row; L of each, or the sums of L and w_y. Returns the first row with a wrong y."""
    real, wrong = type(z[0]), -1
    w_all = sum_of(w, classes, weighted)
    for b in range(first, last):
        loss, weight = 0.0, 0.0
        for i in range(b * block, min((b + 1) * block, n)):
            start, own, here, total = i * classes, y[i], 0.0, 1.0
            if 0 <= own < classes and own != ignore_index:
                top = largest(z, start, classes)
                total, even = 0.0, 0.0
                for at in range(start, start + classes, PART):
                    part = real(0)
                    for k in range(at, min(at + PART, start + classes)):
                        part += exp(z[k] - top)
                    total += part
                if s != 0:
                    for c in range(classes):
                        even += (w[c] if weighted else real(1)) * (float(z[start + c]) - top)
                w_own = float(w[own]) if weighted else 1.0
                here = loss_of(float(z[start + own]) - top, even, log(total), w_own, w_all,
                               s / classes, s)  # fmt: skip
                loss += here
                weight += w_own
            elif own != ignore_index and wrong < 0:
                wrong = i
            sums[i] = real(total)
            if each:
                losses[i] = real(here)
        if blocks > 1:
            totals[2 * b], totals[2 * b + 1] = loss, weight
        elif not each:
            finish(loss, weight, losses, sums, n, mean)
    return wrong


@compiled(SUMS)
def rows_backward(
    g: Reals, z: Reals, y: Ints, w: Reals, sums: Reals, dz: Reals, first: int, last: int,
    n: int, classes: int, block: int, ignore_index: int, s: float, weighted: bool, each: bool,
) -> None:  # fmt: skip
    """dz, of which the reference's name is dZ = A − Y."""
    real, s_each = type(z[0]), s / classes
    w_all = sum_of(w, classes, weighted)
    for i in range(first * block, min(last * block, n)):
        start, own = i * classes, y[i]
        if own == ignore_index:
            for c in range(classes):
                dz[start + c] = real(0)
            continue
        up = float(g[i]) if each else float(g[0]) / sums[n]
        w_own = float(w[own]) if weighted else 1.0
        a_up = up * ((1 - s) * w_own + s_each * w_all) / sums[i]
        factor, even, top = real(a_up), real(up * s_each), largest(z, start, classes)
        if s == 0:
            for k in range(start, start + classes):
                dz[k] = factor * exp(z[k] - top)
        else:
            for c in range(classes):
                q = even * w[c] if weighted else even
                dz[start + c] = factor * exp(z[start + c] - top) - q
        q_own = (1 - s) * w_own + s_each * w_own
        dz[start + own] = real(a_up * exp(z[start + own] - top) - up * q_own)


@compiled(SUMS)
def tiles_forward(
    z: Reals, y: Ints, w: Reals, sums: Reals, losses: Reals, totals: Doubles, first: int, last: int,
    n: int, classes: int, tile: int, blocks: int, inner: int, tops: Reals, parts: Reals,
    ignore_index: int, s: float, weighted: bool, each: bool, mean: bool,
) -> int:  # fmt: skip
    """The same for (N, C, inner); a block is a tile of positions of one example."""
    real, wrong = type(z[0]), -1
    w_all = sum_of(w, classes, weighted)
    tiles = (inner + tile - 1) // tile
    for b in range(first, last):
        example, column = b // tiles, b % tiles * tile
        width = min(tile, inner - column)
        start, at = example * classes * inner + column, example * inner + column
        largest_of_each(z, start, inner, classes, tops, at, width)
        for j in range(at, at + width):
            sums[j] = real(0)
        for run in range(0, classes, RUN):
            for j in range(width):
                parts[at + j] = real(0)
            for c in range(run, min(run + RUN, classes)):
                row = start + c * inner
                for j in range(width):
                    parts[at + j] += exp(z[row + j] - tops[at + j])
            for j in range(at, at + width):
                sums[j] += parts[j]
        loss, weight = 0.0, 0.0
        for j in range(width):
            i, here = at + j, 0.0
            own, top = y[i], float(tops[i])
            if 0 <= own < classes and own != ignore_index:
                even = 0.0
                if s != 0:
                    for c in range(classes):
                        shifted = float(z[start + c * inner + j]) - top
                        even += (w[c] if weighted else real(1)) * shifted
                w_own = float(w[own]) if weighted else 1.0
                here = loss_of(float(z[start + own * inner + j]) - top, even, log(sums[i]), w_own,
                               w_all, s / classes, s)  # fmt: skip
                loss += here
                weight += w_own
            elif own != ignore_index and wrong < 0:
                wrong = i
            if each:
                losses[i] = real(here)
        if blocks > 1:
            totals[2 * b], totals[2 * b + 1] = loss, weight
        elif not each:
            finish(loss, weight, losses, sums, n, mean)
    return wrong


@compiled(SUMS)
def tiles_backward(
    g: Reals, z: Reals, y: Ints, w: Reals, sums: Reals, dz: Reals, first: int, last: int,
    n: int, classes: int, tile: int, inner: int, tops: Reals, factors: Reals, evens: Reals,
    ignore_index: int, s: float, weighted: bool, each: bool,
) -> None:  # fmt: skip
    """dz for (N, C, inner): a_up e − up s/C w_c everywhere, and the true class put right."""
    real, s_each = type(z[0]), s / classes
    w_all = sum_of(w, classes, weighted)
    tiles = (inner + tile - 1) // tile
    for b in range(first, last):
        example, column = b // tiles, b % tiles * tile
        width = min(tile, inner - column)
        start, at = example * classes * inner + column, example * inner + column
        largest_of_each(z, start, inner, classes, tops, at, width)
        for i in range(at, at + width):
            own = y[i]
            up = float(g[i]) if each else float(g[0]) / sums[n]
            w_own = float(w[own]) if weighted and own != ignore_index else 1.0
            factors[i] = real(up * ((1 - s) * w_own + s_each * w_all) / sums[i])
            evens[i] = real(up * s_each)
        for c in range(classes):
            row, w_c = start + c * inner, w[c] if weighted else real(1)
            for j in range(width):
                e = exp(z[row + j] - tops[at + j])
                dz[row + j] = factors[at + j] * e - evens[at + j] * w_c
        for j in range(width):
            i = at + j
            own = y[i]
            if own == ignore_index:
                for c in range(classes):
                    dz[start + c * inner + j] = real(0)
                continue
            k, up = start + own * inner + j, float(g[i]) if each else float(g[0]) / sums[n]
            w_own = float(w[own]) if weighted else 1.0
            a_up = up * ((1 - s) * w_own + s_each * w_all) / sums[i]
            dz[k] = real(a_up * exp(z[k] - tops[i]) - up * ((1 - s) * w_own + s_each * w_own))


@compiled()
def add_up(totals: Doubles, blocks: int, losses: Reals, sums: Reals, n: int, mean: bool) -> None:
    """The loss of all blocks."""
    loss, weight = 0.0, 0.0
    for b in range(blocks):
        loss += totals[2 * b]
        weight += totals[2 * b + 1]
    finish(loss, weight, losses, sums, n, mean)


def unsupported(logits: Tensor, target: Tensor, weight: Tensor | None) -> str:
    """Return why the loops cannot serve a call whose arguments are right; empty if they can.

    Example:
        >>> unsupported(torch.zeros(2, 3), torch.tensor([0, 1]), None)
        ''
        >>> unsupported(torch.zeros(2, 3), torch.zeros(2, 3), None)
        'a target of probabilities'
    """
    if logits.dtype not in (torch.float32, torch.float64):
        return f"dtype {logits.dtype}"
    if target.is_floating_point():
        return "a target of probabilities"
    for tensor in (logits, target) if weight is None else (logits, target, weight):
        if not in_memory(tensor):
            kind = f"{type(tensor).__name__} of layout {tensor.layout} on {tensor.device}"
            return f"a {kind}, which is not plain memory"
    if not logits.numel():
        return "no scores"
    return "" if add_up.get(logits.dtype) else unavailable()


class _Layout(NamedTuple):
    """Scores (N, C, inner), and the blocks that they are cut into."""

    n: int  # N · inner, how many rows
    classes: int
    block: int  # so many rows, or one tile of an example
    blocks: int
    inner: int


@functools.lru_cache(maxsize=256)
def _layout(shape: tuple[int, ...]) -> _Layout:
    examples, classes, *others = shape if len(shape) > 1 else (1, *shape)
    inner = math.prod(others)
    if inner == 1:
        block = max(BLOCK // classes, 1)
        return _Layout(examples, classes, block, -(-examples // block), 1)
    return _Layout(examples * inner, classes, TILE, examples * -(-inner // TILE), inner)


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Return the loss, and what `backward` needs besides the arguments: N + 1 numbers.

    Raises:
        IndexError: a class index is out of range.
    """
    z, y, w = _prepare(logits, target, weight)
    n, classes, block, blocks, inner = _layout(logits.shape)
    ignore_index, s, reduction = options
    each = reduction == "none"
    sums, losses = z.new_empty(n + 1), z.new_empty(target.shape) if each else z.new_empty(())
    totals = z.new_empty(2 * blocks, dtype=torch.float64) if blocks > 1 else sums
    read = z.data_ptr(), y.data_ptr(), w.data_ptr()
    write = sums.data_ptr(), losses.data_ptr(), totals.data_ptr()
    rest = ignore_index, s, weight is not None, each, reduction == "mean"
    sizes: tuple[int, ...] = n, classes, block, blocks
    kernel = rows_forward
    if inner > 1:
        kernel = tiles_forward
        scratch = z.new_empty(2, n)
        sizes += inner, scratch.data_ptr(), scratch[1].data_ptr()
    call: Any = kernel.get(z.dtype)
    wrong = []
    share_blocks(
        lambda first, last: wrong.append(call(*read, *write, first, last, *sizes, *rest)),
        blocks, z.numel(),
    )  # fmt: skip
    if max(wrong) >= 0:
        row = min(row for row in wrong if row >= 0)
        raise IndexError(f"Target {y.flatten()[row]} is out of bounds for {classes} classes.")
    if blocks > 1 and not each:
        call = add_up.get(z.dtype)
        call(totals.data_ptr(), blocks, losses.data_ptr(), sums.data_ptr(), n, reduction == "mean")
    return losses, sums


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, sums: Tensor,
    options: Options,
) -> Tensor:  # fmt: skip
    """Return dz, contiguous as the reference's is."""
    z, y, w = _prepare(logits, target, weight)
    n, classes, block, blocks, inner = _layout(logits.shape)
    ignore_index, s, reduction = options
    g, dz = grad.contiguous(), torch.empty_like(z)
    tensors = (
        g.data_ptr(), z.data_ptr(), y.data_ptr(), w.data_ptr(), sums.data_ptr(), dz.data_ptr()
    )  # fmt: skip
    rest = ignore_index, s, weight is not None, reduction == "none"
    sizes: tuple[int, ...] = n, classes, block
    kernel = rows_backward
    if inner > 1:
        kernel = tiles_backward
        scratch = z.new_empty(3, n)
        sizes += inner, *(part.data_ptr() for part in scratch)
    call: Any = kernel.get(z.dtype)
    share_blocks(lambda first, last: call(*tensors, first, last, *sizes, *rest), blocks, z.numel())
    return dz


def _prepare(
    logits: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tensors as the loops read them; where there is no weight, scores stand for it."""
    z = logits.contiguous()
    return z, target.long().contiguous(), z if weight is None else weight.contiguous()
