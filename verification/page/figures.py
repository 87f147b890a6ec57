"""Figures as a page shows them: numbers in few characters, errors counted in bins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from verification.report import Row

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
# Rules that measure against the oracle; the others compare with the builtin, or count.
ORACLE = re.compile(r"1e-11|eps$|oracle|.*P64|.*½eps|.*·builtin")
LOWEST, HIGHEST = -5, 12  # of the bins, as powers of two


def number(value: float) -> str:
    """Return a figure in few characters.

    Example:
        >>> number(1.25e-7), number(0.0), number(12), number(math.nan), number(math.inf)
        ('1.2e-07', '0', '12', '–', '∞')
    """
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:g}" if value == int(value) and abs(value) < 1e6 else f"{value:.2g}"


def share(used: float) -> str:
    """Return how much of a bound is used up: per cent, and a factor where it is exceeded.

    Example:
        >>> [share(used) for used in (-1.0, 0.0, 1e-5, 0.42, 1.25, math.inf)]
        ['', '0 %', '<1 %', '42 %', '1.25×', '∞×']
    """
    if used < 0:
        return ""
    if used > 1:
        return f"{number(used) if used >= 1000 else f'{used:.3g}'}×"
    return "<1 %" if 0 < used < 0.01 else f"{used:.0%}".replace("%", " %")


@dataclass(frozen=True)
class Histogram:
    """Errors in eps, in bins of a factor of two: how many of ours and of the builtin's.

    Attributes:
        ours: counts: exactly 0, below 2⁻⁵, then up to 2¹² one for each power of two, and above.
        builtin: likewise.
        text: median and maximum of both, in words.
    """

    ours: list[int]
    builtin: list[int]
    text: str


def measures_accuracy(row: Row) -> bool:
    """Return whether a row's error is a number against the oracle.

    Example:
        >>> row = Row("relu", "easy", "output", "float32", 0.0, 0.0, 0.0, "bitwise", "as good")
        >>> measures_accuracy(row)
        False
    """
    return row.dtype in EPS and bool(ORACLE.match(row.rule)) and not math.isnan(row.error)


def histogram(rows: list[Row]) -> Histogram:
    """Count the errors of rows of one dtype, in its eps."""
    eps = EPS[rows[0].dtype]
    ours = [row.error / eps for row in rows]
    builtin = [row.builtin_error / eps for row in rows if not math.isnan(row.builtin_error)]
    text = f"{len(rows)} errors: median {number(median(ours))}, at most {number(max(ours))}"
    if builtin:
        text += f"; builtin {number(median(builtin))}, {number(max(builtin))}"
    return Histogram(_bins(ours), _bins(builtin), text)


def _bins(values: Iterable[float]) -> list[int]:
    """Count values in bins of a factor of two.

    Example:
        >>> _bins([0.0, 1e-9, 1.0, 1.5, math.inf])[:8], _bins([2.0**12, math.inf])[-1]
        ([1, 1, 0, 0, 0, 0, 0, 2], 2)
    """
    counts = [0] * (HIGHEST - LOWEST + 3)
    for value in values:
        if value == 0:
            counts[0] += 1
        elif value >= 2.0**HIGHEST:
            counts[-1] += 1
        else:
            counts[max(math.floor(math.log2(value)) - LOWEST, -1) + 2] += 1
    return counts
