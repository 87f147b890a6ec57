"""Numerical gradients: the orders of the errors of difference quotients, and where rounding wins.

|(f(x + ε) − f(x)) / ε − f'(x)| = O(ε),  |(f(x + ε) − f(x − ε)) / 2ε − f'(x)| = O(ε²)

On a log-log plot these are lines of slope 1 and 2. What rounding does to f, about u |f(x)|, is
divided by ε too: below ε ≈ √u (one-sided) and ∛u (two-sided) the error grows again, with slope −1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from verification.functions import quotients
from verification.oracles import quotients as oracles
from verification.oracles.quotients import FUNCTIONS
from verification.report import ANOTHER, AS_GOOD, Row

__all__ = ["EPS", "FUNCTIONS", "QUOTIENTS", "errors", "numerical_gradient_rows", "order", "slope"]

Floats = npt.NDArray[np.float64]
SUBJECT = "numerical_gradients"
EPS: Floats = np.logspace(-1, -15, 57)  # four to a decade
TOLERANCE = 0.05  # of a slope: the next term of Taylor's is a few percent at the largest ε
UNIT = 2.0**-53  # u, half a unit in the last place of 1


@dataclass(frozen=True)
class Quotient:
    """A difference quotient, and what is known of its error.

    Attributes:
        formula: of f, x and ε, in float64.
        exact: the same in extended precision, of a function and ε.
        order: of the error.
        window: smallest and largest ε between which the error is that of the formula: above, terms
            of higher order count; below, rounding does.
        width: between the two points, in ε.
    """

    formula: Callable[..., Any]
    exact: Callable[..., Any]
    order: int
    window: tuple[float, float]
    width: int


QUOTIENTS = {
    "one-sided": Quotient(quotients.one_sided, oracles.one_sided, 1, (1e-5, 1e-2), 1),
    "two-sided": Quotient(quotients.two_sided, oracles.two_sided, 2, (1e-3, 1e-1), 2),
}


def quotient(function: str, name: str, eps: npt.ArrayLike) -> Floats:
    """Return a difference quotient of a function, in float64, for each ε."""
    of, formula = FUNCTIONS[function], QUOTIENTS[name].formula
    return np.array([float(formula(of.f, of.x, float(e))) for e in np.ravel(eps)])


def errors(function: str, name: str, eps: npt.ArrayLike = EPS) -> Floats:
    """Return |quotient − f'(x)| for each ε.

    Args:
        function: one of `FUNCTIONS`.
        name: "one-sided" or "two-sided".
        eps: any number of ε.

    Example:
        >>> [float(e) for e in errors("cube", "one-sided", [0.1, 0.01]).round(6)]
        [0.31, 0.0301]
    """
    of = FUNCTIONS[function]
    right = of.derivative(np.longdouble(of.x))
    found: Floats = np.abs(quotient(function, name, eps) - right).astype(float)
    return found


def slope(eps: npt.ArrayLike, errors: npt.ArrayLike) -> float:
    """Return the slope of log error against log ε: the order of the error.

    Args:
        eps: two ε or more.
        errors: that belong to them; those that are 0 have no logarithm, and are left out.

    Returns:
        That of the least-squares line; NaN with fewer than two.

    Example:
        >>> round(slope([0.1, 0.01], [3e-2, 3e-4]), 6)
        2.0
    """
    eps, errors = np.asarray(eps, dtype=float), np.asarray(errors, dtype=float)
    there = errors > 0
    if there.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log10(eps[there]), np.log10(errors[there]), 1)[0])


def order(function: str, name: str) -> float:
    """Return the measured order of the error, in the quotient's window.

    Example:
        >>> round(order("sin", "one-sided"), 1), round(order("sin", "two-sided"), 1)
        (1.0, 2.0)
    """
    low, high = QUOTIENTS[name].window
    eps = np.logspace(np.log10(low), np.log10(high), 25)
    return slope(eps, errors(function, name, eps))


def numerical_gradient_rows(*, quick: bool = False) -> Iterator[list[Row]]:
    """Yield the rows of each function: both quotients beside exact ones, and their orders.

    Args:
        quick: has no effect: all of it takes no time.

    Example:
        >>> rows = next(numerical_gradient_rows())
        >>> rows[0].case, rows[0].quantity, all(row.passed for row in rows)
        ('cube, one-sided', 'quotient', True)
    """
    for function in FUNCTIONS:
        rows: list[Row] = []
        for name in QUOTIENTS:
            case = f"{function}, {name}"
            try:
                rows += [_value(case, function, name), _order(case, function, name)]
            except Exception as error:  # code that crashes gets a row
                nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
                rows.append(
                    Row(SUBJECT, case, "-", "float64", nan, nan, nan, "runs", ANOTHER, note)
                )
        yield rows


def _value(case: str, function: str, name: str) -> Row:
    """For every ε: off by what rounding does, and by nothing else.

    Two values of f are off by 1 ulp each, 2 u |f|, and x ± ε by half of one.
    """
    of, q = FUNCTIONS[function], QUOTIENTS[name]
    ends = np.array([of.x, of.x + EPS[0]])  # f and f' are monotonous in between
    f, slopes = (float(np.abs(values(ends)).max()) for values in (of.f, of.derivative))
    rounding = UNIT * (4 * f + q.width * ends[1] * slopes) / (q.width * EPS)
    gap = np.abs(quotient(function, name, EPS) - q.exact(of, EPS)).astype(float)
    largest = float((gap / rounding).max())
    verdict = AS_GOOD if largest <= 1 else ANOTHER
    note = f"ε from {EPS[-1]:.0e} to {EPS[0]:.0e}, in units of what rounding may do"
    return Row(SUBJECT, case, "quotient", "float64", largest, math.nan, 1.0,
               "u (4 |f| + width |x f'|) / width", verdict, note)  # fmt: skip


def _order(case: str, function: str, name: str) -> Row:
    found, right = order(function, name), QUOTIENTS[name].order
    error = abs(found - right)
    verdict = AS_GOOD if error <= TOLERANCE else ANOTHER
    return Row(SUBJECT, case, "order", "float64", error, math.nan, TOLERANCE,
               f"slope {right} ± {TOLERANCE}", verdict, f"slope {found:.4f}")  # fmt: skip
