"""Difference quotients in extended precision, and functions whose derivatives are known.

Lecture -> code: (f(x + e) - f(x)) / e -> `one_sided`, (f(x + e) - f(x - e)) / 2e -> `two_sided`.
By Taylor their errors are e f''(x) / 2 and e^2 f'''(x) / 6, and what is of higher order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, exact


@dataclass(frozen=True)
class Function:
    """A function of a number, in whatever precision its argument has, and its derivative.

    Attributes:
        f: the function.
        derivative: f', in closed form.
        x: where it is differentiated: where f'' and f''' are not 0.
    """

    f: Callable[..., Exact]
    derivative: Callable[..., Exact]
    x: float


FUNCTIONS = {
    "cube": Function(lambda x: x**3, lambda x: 3 * x**2, 1.0),
    "exp": Function(np.exp, np.exp, 1.0),
    "sigmoid": Function(
        lambda z: 1 / (1 + np.exp(-z)), lambda z: 1 / (2 + np.exp(z) + np.exp(-z)), 0.5
    ),
    "sin": Function(np.sin, np.cos, 1.0),
    "tanh": Function(np.tanh, lambda z: np.cosh(z) ** -2, 0.5),
}


def one_sided(function: Function, eps: npt.ArrayLike) -> Exact:
    """Return (f(x + e) - f(x)) / e.

    Example:
        >>> round(float(one_sided(FUNCTIONS["cube"], 0.01)), 4)
        3.0301
    """
    x, e, f = exact(function.x), exact(eps), function.f
    quotient: Exact = (f(x + e) - f(x)) / e
    return quotient


def two_sided(function: Function, eps: npt.ArrayLike) -> Exact:
    """Return (f(x + e) - f(x - e)) / 2e.

    Example:
        >>> round(float(two_sided(FUNCTIONS["cube"], 0.01)), 4)
        3.0001
    """
    x, e, f = exact(function.x), exact(eps), function.f
    quotient: Exact = (f(x + e) - f(x - e)) / (2 * e)
    return quotient
