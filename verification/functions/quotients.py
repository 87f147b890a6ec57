"""Difference quotients, and points where they show that there is no derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


def one_sided(f: Callable[[Number], Number], x: Number, eps: float = 1e-7) -> Number:
    """Return the one-sided difference quotient, whose error is O(ε).

    f'(x) ≈ (f(x + ε) − f(x)) / ε

    Args:
        f: a function of a number, or one that acts on each element of a tensor by itself.
        x: where.
        eps: ε; a negative one looks to the other side.

    Returns:
        The quotient, of the shape of `x`.

    Example:
        >>> round(one_sided(lambda x: x**3, 1.0, eps=0.01), 4)
        3.0301

    Source: lecture, "Numerical Approximations of Gradients".
    """
    return (f(x + eps) - f(x)) / eps


def two_sided(f: Callable[[Number], Number], x: Number, eps: float = 1e-7) -> Number:
    """Return the two-sided difference quotient, whose error is O(ε²).

    f'(x) ≈ (f(x + ε) − f(x − ε)) / 2ε

    Args:
        f: a function of a number, or one that acts on each element of a tensor by itself.
        x: where.
        eps: ε.

    Returns:
        The quotient, of the shape of `x`.

    Example:
        >>> round(two_sided(lambda x: x**3, 1.0, eps=0.01), 4)
        3.0001

    Source: lecture, "Numerical Approximations of Gradients".
    """
    return (f(x + eps) - f(x - eps)) / (2 * eps)


def bends(
    f: Callable[[float], float], x: float, eps: float, least: float, noise: float = 0.0
) -> bool:
    """Return whether a function has a kink or a jump at a point, or within ε of it.

    There the one-sided quotients of the two sides differ by the same for every small ε. If it is
    curvature by which they differ, that grows with ε.

    Args:
        f: a function of a number.
        x: the point.
        eps: ε.
        least: smaller differences of the quotients don't matter.
        noise: what rounding makes of a quotient.

    Example:
        >>> bends(abs, 0.0, 1e-7, 1e-3), bends(lambda x: x**2, 0.0, 1e-7, 1e-10)
        (True, False)
    """
    gap = abs(one_sided(f, x, eps) - one_sided(f, x, -eps))
    if gap <= max(least, 4 * noise):
        return False
    wider = [abs(one_sided(f, x, h) - one_sided(f, x, -h)) for h in (4 * eps, 16 * eps)]
    return not all(1.7 * a < b < 10 * a for a, b in zip([gap, wider[0]], wider, strict=True))
