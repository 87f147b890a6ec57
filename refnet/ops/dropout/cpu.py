"""Inverted dropout as a loop that draws the mask as it goes, and again in the backward.

A random number is a function of a key and of where it is used, so nothing has to be kept but the
key, and no thread waits for another.

Legend: a input or cotangent, in the order in which it lies in memory; keep = 1 − p.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from refnet._compile import Ints, Reals, compiled, inlined, unavailable
from refnet._threads import share
from refnet.backend import in_memory

__all__ = ["draw_key", "forward", "unsupported"]

SHARE = 2**16  # pairs of elements that are worth a thread of their own, at least
LOW = 2**32 - 1


@inlined
def _random(counter: int, seed: int, offset: int) -> int:
    """64 random bits: SplitMix64 of Steele et al. 2014, "Fast splittable pseudorandom generators".

    The offset is a second key, inside: so two seeds don't make the same numbers in another place.
    """
    x = seed + counter * -0x61C8864680B583EB  # 2⁶⁴ over the golden ratio
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47 ^ offset
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


@compiled()
def drop(
    a: Reals, y: Reals, key: Ints, n: int, first: int, last: int, keep: float, limit: int
) -> None:
    """a * d / keep, d where 32 random bits are below keep · 2³², for pairs `first` to `last`."""
    real = type(a[0])
    kept, lost = real(1) / real(keep), real(0)
    seed, offset = key[0], key[1]
    for k in range(first, min(last, n // 2)):
        bits = _random(k, seed, offset)
        y[2 * k] = a[2 * k] * (kept if bits & LOW < limit else lost)
        y[2 * k + 1] = a[2 * k + 1] * (kept if (bits >> 32) & LOW < limit else lost)
    if n % 2 == 1 and last > n // 2:
        bits = _random(n // 2, seed, offset)
        y[n - 1] = a[n - 1] * (kept if bits & LOW < limit else lost)


def unsupported(a: Tensor, p: float, mask: Tensor | None = None) -> str:
    """Return why the loop cannot serve a call, or an empty text if it can.

    Whether it is plain (`backend.is_plain`) is not asked.

    Example:
        >>> unsupported(torch.ones(3), 0.5)
        ''
        >>> unsupported(torch.ones(3), 1.0)
        'p of 1.0'
    """
    if mask is not None:
        return "a mask from outside"
    if not in_memory(a):
        return "an input that is no plain tensor on a CPU"
    if a.dtype is not torch.float32 and a.dtype is not torch.float64:
        return f"input of {a.dtype}"
    if not a.numel():
        return f"input of shape {tuple(a.shape)}"
    if not 0 < p < 1:
        return f"p of {p}"
    return "" if drop.get(a.dtype) else unavailable()


def draw_key(generator: torch.Generator | None, device: torch.device | None = None) -> Tensor:
    """Draw seed and offset from torch's generator."""
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
    pairs = (n + 1) // 2
    call: Any = drop.get(a.dtype)
    pointers, numbers = (a.data_ptr(), y.data_ptr(), key.data_ptr(), n), (keep, round(keep * 2**32))
    threads = torch.get_num_threads()
    ranges = min(4 * threads, pairs // SHARE) if threads > 1 else 1
    if ranges < 2:
        call(*pointers, 0, pairs, *numbers)
    else:
        share(
            lambda first, last: call(*pointers, first, last, *numbers),
            [pairs * i // ranges for i in range(ranges + 1)],
        )
    return y
