"""The row of a check that has one number and one bound."""

from __future__ import annotations

import math

from verification.report import ANOTHER, AS_GOOD, Row


def judged(
    subject: str,
    case: str,
    quantity: str,
    error: float,
    rule: str,
    bound: float = 0.0,
    note: str = "",
    *,
    builtin: float = math.nan,
    dtype: str = "-",
) -> Row:
    """Return a row that passes where error ≤ bound.

    Args:
        subject: the part of the suite.
        case: what was looked at.
        quantity: of which property.
        error: how far off it is, or how many are wrong.
        rule: what it should be.
        bound: the largest error that passes.
        note: what a reader has to know beside the numbers.
        builtin: the error of another implementation.
        dtype: what was computed in.

    Example:
        >>> judged("data", "split", "rows", 0, "scikit-learn's very rows").passed
        True
        >>> judged("data", "split", "sizes", 2, "fraction · m, rounded", 1.0).passed
        False
    """
    verdict = AS_GOOD if error <= bound else ANOTHER
    return Row(subject, case, quantity, dtype, float(error), builtin, bound, rule, verdict, note)
