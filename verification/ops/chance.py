"""What independent random bits do by chance, and what they do not.

Every bound is one that holds for any number of bits: a right mask is beyond it with a probability
below α = 1e-12, so that not one of a thousand runs of all rows is a false alarm by more than one in
a million.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ALPHA = 1e-12
LIMIT = math.log(2 / ALPHA)
Chance = tuple[float, float, str, str]  # error, bound, rule, note


def counted(events: Tensor, q: float) -> Chance:
    """Judge how often events happened that are independent and of probability q each."""
    n, k = events.numel(), int(events.sum())
    note = f"{k} of {n}, expected {q * n:.0f}"
    return divergence(k, n, q), LIMIT, "n·KL, 1e-12", note


def divergence(k: int, n: int, q: float) -> float:
    """Return n·KL(k/n ‖ q), k of n events having the probability q.

    P(n·KL > ln(2/α)) < α, by Chernoff's bound on either side.

    Example:
        >>> divergence(50, 100, 0.5), round(divergence(100, 100, 0.5) / math.log(2))
        (0.0, 100)
    """
    parts = ((k, q), (n - k, 1 - q))
    return sum(count * math.log(count / (n * share)) for count, share in parts if count)


def correlated(bits: Tensor, q: float) -> Chance:
    """Judge whether bits of probability q tell of others, any distance away.

    S_d = Σ (b_i − q)(b_{i+d} − q) over the n − d pairs of each distance d, by one FFT. Every other
    pair of a chain i, i + d, i + 2d, … shares no bit with the next, so that S_d is two sums of
    independent terms of variance v = q²(1 − q)², none above c = max(q, 1 − q)². Bernstein's
    inequality for both, at α over four times the number of distances, gives
    |S_d| ≤ √(4(n − d)vL) + 4cL/3 with L = ln(4(n − 1)/α).

    Args:
        bits: boolean, any shape, in the order of memory.
        q: the probability of each.

    Returns:
        The largest S_d over its bound, the bound of that, the rule, and the distance.

    Example:
        >>> half = torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.5
        >>> correlated(half, 0.5)[0] < 1 < correlated(torch.cat([half, half]), 0.5)[0]
        True
    """
    n = bits.numel()
    sums = torch.fft.irfft(torch.fft.rfft(bits.flatten().double() - q, 2 * n).abs().square())
    pairs = torch.arange(n - 1, 0, -1)
    variance, largest, size = (q * (1 - q)) ** 2, max(q, 1 - q) ** 2, math.log(4 * (n - 1) / ALPHA)
    used = sums[1:n].abs() / ((4 * pairs * variance * size).sqrt() + 4 / 3 * largest * size)
    worst = int(used.argmax())
    found = sums[1 + worst] / pairs[worst] / (q * (1 - q))
    note = f"a correlation of {found:.2g} at a distance of {1 + worst}"
    return float(used[worst]), 1.0, "Bernstein over all distances, 1e-12", note
