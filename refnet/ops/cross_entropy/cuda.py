"""Softmax cross-entropy as Triton kernels, for class indices: the same formulas as in `reference`.

Legend: z logits, y labels, w weights, dz as there; e = e^{z − top} with top the largest z of a row,
Σ = Σ_c e_c, so a = e / Σ; s label smoothing; q_c = w_c ((1 − s) [c = y] + s/C) the soft targets.

The loss of a row is L = −Σ_c q_c log a_c = (1 − s) w_y (log Σ − (z_y − top))
+ s/C Σ_c w_c (log Σ − (z_c − top)), and dz_c = g (a_c Σ_k q_k − q_c). top and Σ are all that is
kept of a row, in place of their log-sum-exp, which may be top; and what the mean divides by.

Programs leave their part of the loss and of the weights; one more adds them up, in order. Nothing
waits for the device: a label out of range ends in an assertion there, and is never read with.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from refnet._triton import ASSERTING, launching
from refnet.backend import is_dense
from refnet.ops._tiles import chunk, exp, rows_of, tiles
from refnet.ops.cross_entropy.reference import Options, class_dim

__all__ = ["backward", "forward", "unsupported"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit
def label_of(y, w, row, there, classes, ignore_index, WEIGHTED: tl.constexpr):
    """y of each row, whether it counts, and w_y."""
    own = tl.load(y + row, mask=there, other=0).to(tl.int64)
    kept = there & (own != ignore_index)
    known = (own >= 0) & (own < classes)
    tl.device_assert(known | ~kept, "cross_entropy: a target is out of bounds")
    kept = kept & known
    w_own = kept.to(tl.float64)
    if WEIGHTED:
        w_own = tl.load(w + own, mask=kept, other=0.0).to(tl.float64)
    return own, kept, w_own


@triton.jit
def weight_of(w, first, classes, WEIGHTED: tl.constexpr, CLASSES: tl.constexpr):
    """w_c of a chunk of classes, 0 beyond."""
    c = first + tl.arange(0, CLASSES)
    w_c = (c < classes).to(tl.float64)
    if WEIGHTED:
        w_c = tl.load(w + c, mask=c < classes, other=0.0).to(tl.float64)
    return w_c[None, :]


@triton.jit
def finish(loss, weight, losses, divisor, MEAN: tl.constexpr):
    """The loss of all rows, and what it was divided by."""
    if not MEAN:
        weight = weight * 0 + 1
    tl.store(losses, (loss / weight).to(tl.float32).to(losses.dtype.element_ty))
    tl.store(divisor, weight.to(tl.float32))


@triton.jit
def forward_kernel(
    z, y, w, kept_of, losses, parts, length, step, stride, classes, rows, ignore_index,
    s_own, s_each,
    WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, EACH: tl.constexpr, MEAN: tl.constexpr,
    POSITIONS: tl.constexpr, CLASSES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """top and Σ of each row; L of each, or their sum and that of w_y."""
    start, row, there = rows_of(length, step, classes, POSITIONS, WIDE)
    own, kept, w_own = label_of(y, w, row, there, classes, ignore_index, WEIGHTED)
    top = tl.full([POSITIONS], -float("inf"), tl.float32)
    total = tl.zeros([POSITIONS], tl.float64)
    for first in range(0, classes, CLASSES):
        at, here = chunk(start, kept, first, classes, stride, CLASSES, WIDE)
        x = tl.load(z + at, mask=here, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, 1))
        base = tl.where(higher == -float("inf"), 0.0, higher)  # −∞ − −∞ is NaN
        total = total * exp(top - base) + tl.sum(exp(x - base[:, None]), 1)
        top = higher
    log_sum = tl.log(total)
    z_own = tl.load(z + start + own * stride, mask=kept, other=0.0).to(tl.float64)
    loss = s_own * w_own * (log_sum - (z_own - top))  # in this order: top + log Σ may be top
    if SMOOTH:
        even = tl.zeros([POSITIONS], tl.float64)
        for first in range(0, classes, CLASSES):
            at, here = chunk(start, kept, first, classes, stride, CLASSES, WIDE)
            x = tl.load(z + at, mask=here, other=0.0).to(tl.float64)
            w_c = weight_of(w, first, classes, WEIGHTED, CLASSES)
            each = w_c * (log_sum[:, None] - (x - top[:, None]))
            even += tl.sum(tl.where(here, each, 0.0), 1)
        loss += s_each * even
    loss = tl.where(kept, loss, 0.0)
    tl.store(kept_of + row, top, mask=there)
    tl.store(kept_of + rows + row, total.to(tl.float32), mask=there)
    if EACH:
        tl.store(losses + row, loss.to(tl.float32).to(losses.dtype.element_ty), mask=there)
    elif tl.num_programs(0) == 1:
        finish(tl.sum(loss, 0), tl.sum(w_own, 0), losses, kept_of + rows + rows, MEAN)
    else:
        tl.store(parts + tl.program_id(0), tl.sum(loss, 0))
        tl.store(parts + tl.num_programs(0) + tl.program_id(0), tl.sum(w_own, 0))


@triton.jit
def add_up_kernel(parts, losses, divisor, count, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """The loss of all programs."""
    loss, weight = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    for first in range(0, count, BLOCK):
        k = first + tl.arange(0, BLOCK)
        loss += tl.load(parts + k, mask=k < count, other=0.0)
        weight += tl.load(parts + count + k, mask=k < count, other=0.0)
    finish(tl.sum(loss, 0), tl.sum(weight, 0), losses, divisor, MEAN)


@triton.jit
def backward_kernel(
    g, z, y, w, kept_of, dz, length, step, stride, classes, rows, ignore_index, s_own, s_each,
    WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, EACH: tl.constexpr,
    POSITIONS: tl.constexpr, CLASSES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """dz, of which the reference's name is dZ = A − Y."""
    start, row, there = rows_of(length, step, classes, POSITIONS, WIDE)
    own, kept, w_own = label_of(y, w, row, there, classes, ignore_index, WEIGHTED)
    top = tl.load(kept_of + row, mask=kept, other=0.0)
    total = tl.load(kept_of + rows + row, mask=kept, other=1.0).to(tl.float64)
    if EACH:
        up = tl.load(g + row, mask=kept, other=0.0).to(tl.float64)
    else:
        up = tl.load(g).to(tl.float64) / tl.load(kept_of + rows + rows).to(tl.float64)
        up = tl.where(kept, up, 0.0)
    q_own = s_own * w_own
    q_all = q_own
    if SMOOTH:
        w_all = tl.zeros([1, CLASSES], tl.float64)
        for first in range(0, classes, CLASSES):
            w_all += weight_of(w, first, classes, WEIGHTED, CLASSES)
        q_all = q_own + s_each * tl.sum(w_all, 1)
    a_up, q_own, s_each = up * q_all / total, up * q_own, up * s_each
    for first in range(0, classes, CLASSES):
        at, here = chunk(start, there, first, classes, stride, CLASSES, WIDE)
        x = tl.load(z + at, mask=here, other=0.0).to(tl.float32)
        c = first + tl.arange(0, CLASSES)
        q = tl.where(c[None, :] == own[:, None], q_own[:, None], 0.0)
        if SMOOTH:
            q += s_each[:, None] * weight_of(w, first, classes, WEIGHTED, CLASSES)
        dx = a_up[:, None] * exp(x - top[:, None]) - q
        dx = tl.where(kept[:, None], dx, 0.0)
        tl.store(dz + at, dx.to(tl.float32).to(dz.dtype.element_ty), mask=here)


def unsupported(logits: Tensor, target: Tensor, weight: Tensor | None) -> str:
    """Return why the kernels cannot serve a call whose arguments are right; empty if they can."""
    if logits.dtype not in DTYPES:
        return f"dtype {logits.dtype}"
    if target.is_floating_point():
        return "a target of probabilities"
    for tensor in (logits, target) if weight is None else (logits, target, weight):
        if not is_dense(tensor) or tensor.device != logits.device or tensor.is_neg():
            kind = f"{type(tensor).__name__} of layout {tensor.layout} on {tensor.device}"
            return f"a {kind}, which is not plain memory on {logits.device}"
    return "" if logits.numel() else "no scores"


def forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Return the loss, and what `backward` needs besides the arguments: 2N + 1 numbers."""
    cut = tiles(logits.shape, class_dim(logits))
    each, mean = options.reduction == "none", options.reduction == "mean"
    z, y, w = _prepare(logits, target, weight)
    kept = z.new_empty(2 * cut.rows + 1, dtype=torch.float32)
    losses = z.new_empty(target.shape if each else ())
    parts = z.new_empty(0 if each else 2 * cut.programs, dtype=torch.float64)
    numbers = _numbers(logits, options, cut.rows)
    with launching(z):
        forward_kernel[(cut.programs,)](
            z, y, w, kept, losses, parts, *cut.sizes, *numbers,
            WEIGHTED=weight is not None, SMOOTH=options.label_smoothing != 0, EACH=each, MEAN=mean,
            **cut.options, **ASSERTING,
        )  # fmt: skip
        if not each and cut.programs > 1:
            add_up_kernel[(1,)](parts, losses, kept[-1:], cut.programs, MEAN=mean, BLOCK=1024)
    return losses, kept


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, kept: Tensor,
    options: Options,
) -> Tensor:  # fmt: skip
    """Return dz, contiguous as the reference's is."""
    cut = tiles(logits.shape, class_dim(logits))
    z, y, w = _prepare(logits, target, weight)
    g, dz = grad.contiguous(), z.new_empty(logits.shape)
    with launching(z):
        backward_kernel[(cut.programs,)](
            g, z, y, w, kept, dz, *cut.sizes, *_numbers(logits, options, cut.rows),
            WEIGHTED=weight is not None, SMOOTH=options.label_smoothing != 0,
            EACH=options.reduction == "none", **cut.options, **ASSERTING,
        )  # fmt: skip
    return dz


def _prepare(
    logits: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tensors as the kernels read them; without a weight scores stand for it."""
    z = logits.contiguous()
    return z, target.contiguous(), z if weight is None else weight.contiguous()


def _numbers(logits: Tensor, options: Options, rows: int) -> tuple[float, ...]:
    """Rows, the index to ignore, 1 − s and s/C."""
    s = options.label_smoothing
    return rows, options.ignore_index, 1 - s, s / logits.shape[class_dim(logits)]
