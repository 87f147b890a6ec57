"""Inverted dropout as a Triton kernel that draws the mask as it goes, and again in the backward.

A random number is a function of a key and of where it is used, Philox of Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3", so nothing has to be kept but the key. It stays on
the device: a CUDA graph draws another one with every replay, and nothing waits.

Legend: a input or cotangent, in the order in which it lies in memory; keep = 1 − p.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from refnet._triton import launching
from refnet.backend import is_dense

__all__ = ["draw_key", "forward", "unsupported"]

BLOCK = 512  # elements per word of Philox: a program works on four times as many
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@triton.jit(do_not_specialize=["limit"])
def drop_kernel(a, y, key, n, factor, limit, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """a * d / keep, d where 32 random bits are below keep · 2³²; factor = 1 / keep."""
    program = tl.program_id(0).to(tl.int64)
    seed, offset = tl.load(key), tl.load(key + 1)
    block = program * BLOCK + tl.arange(0, BLOCK)
    words = tl.philox(
        seed, block.to(tl.uint32), (block >> 32).to(tl.uint32),
        offset.to(tl.uint32), (offset >> 32).to(tl.uint32),
    )  # fmt: skip
    i = program * (4 * BLOCK) + tl.arange(0, BLOCK)
    if not WIDE:
        i = i.to(tl.int32)
    for word in tl.static_range(4):
        at = i + word * BLOCK
        x = tl.load(a + at, mask=at < n).to(tl.float32)
        kept = words[word].to(tl.uint32).to(tl.int64) < limit
        x *= tl.where(kept, factor, 0.0)  # not selected: ∞ · 0 is NaN, as in the reference
        tl.store(y + at, x.to(y.dtype.element_ty), mask=at < n)


def unsupported(a: Tensor, p: float, mask: Tensor | None = None) -> str:
    """Return why the kernel cannot serve a call whose arguments are right; empty if it can."""
    if mask is not None:
        return "a mask from outside"
    if not is_dense(a) or a.is_neg():
        return f"a {type(a).__name__} of layout {a.layout}, which is not plain memory"
    if a.dtype not in DTYPES:
        return f"input of {a.dtype}"
    if not a.numel():
        return f"input of shape {tuple(a.shape)}"
    return "" if 0 < p < 1 else f"p of {p}"


def draw_key(generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Draw seed and offset from torch's generator, on its device."""
    return torch.empty(2, dtype=torch.int64, device=device).random_(generator=generator)


def forward(a: Tensor, key: Tensor, p: float, strides: tuple[int, ...] | None = None) -> Tensor:
    """Return a * d / keep.

    Args:
        a: input or cotangent.
        key: seed and offset.
        p: 1 − keep.
        strides: of the result, whose memory is dense; None: those of a, as torch would have them.
            They decide where a random number goes.
    """
    y = torch.empty_like(a) if strides is None else a.new_empty_strided(a.shape, strides)
    if a.is_neg() or a.stride() != y.stride():
        a = torch.empty_like(y).copy_(a)
    n, keep = a.numel(), 1 - p
    with launching(a):
        drop_kernel[(triton.cdiv(n, 4 * BLOCK),)](
            a, y, key, n, 1 / keep, round(keep * 2**32), BLOCK=BLOCK, WIDE=n + 4 * BLOCK >= 2**31
        )
    return y
