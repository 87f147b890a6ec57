"""Exponentially weighted averages beside the sum written out, and beside pandas."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from refnet.averages import ExponentialAverage, corrected_beta, exponential_average
from verification.oracles import Exact, exact
from verification.oracles.averages import averages as oracle
from verification.report import ANOTHER, AS_GOOD, Row
from verification.tolerance import DRAWS, Sample, beside_builtin, same_algorithm, worst

SUBJECT = "averages"
BETAS = (0.0, 0.5, 0.9, 0.98, 0.999)
WINDOWS = {0.5: 2, 0.9: 10, 0.98: 50}  # the lecture's: over so many values
COUNT = 200


def average_rows(*, quick: bool = False) -> Iterator[list[Row]]:
    """Yield the rows of each β: averages without and with bias correction, and the window.

    Args:
        quick: has no effect: all of it takes no time.

    Example:
        >>> rows = next(average_rows())
        >>> rows[0].case, rows[0].quantity, all(row.passed for row in rows)
        ('β = 0', 'average', True)
    """
    for beta in BETAS:
        case = f"β = {beta:g}"
        try:
            yield list(_rows(case, beta))
        except Exception as error:  # code that crashes gets a row
            nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
            yield [Row(SUBJECT, case, "-", "float64", nan, nan, nan, "runs", ANOTHER, note)]


def _rows(case: str, beta: float) -> Iterator[Row]:
    import pandas as pd  # not with the package: most never need it

    rng = np.random.default_rng(3)
    values = 5 + rng.normal(size=COUNT)  # no mean of 0: it would hide a wrong start

    def ulp() -> Exact:
        return exact(exact(values) + np.spacing(values) * rng.choice([-1, 1], COUNT))

    right = oracle(values, beta).values
    responses = [oracle(ulp(), beta).values for _ in range(DRAWS)]
    # pandas starts from the first value, the lecture from 0
    from_zero = pd.Series([0.0, *values]).ewm(alpha=1 - beta, adjust=False).mean().to_numpy()[1:]
    adjusted = pd.Series(values).ewm(alpha=1 - beta, adjust=True).mean().to_numpy()
    plain, kept = ExponentialAverage(beta), ExponentialAverage(beta, bias_correction=True)
    ways = ("average", "corrected", "corrected, as kept", "corrected, at once", "corrected, by β̂")
    found: dict[str, list[float]] = {way: [] for way in ways}
    v, v_hat = 0.0, 0.0
    for t, value in enumerate(values.tolist(), start=1):
        once = exponential_average(v, value, beta, count=t)
        v_hat = exponential_average(v_hat, value, corrected_beta(beta, t))
        v = plain.update(value)
        numbers = (v, plain.corrected, kept.update(value), once, v_hat)
        for way, number in zip(ways, numbers, strict=True):
            found[way].append(number)
    for name, ours in found.items():
        of = name.partition(",")[0]
        theirs = from_zero if of == "average" else adjusted
        sample = Sample(np.array(ours), theirs, right[of], [r[of] for r in responses])
        judged = worst([same_algorithm([sample]), beside_builtin([sample])])
        yield Row(SUBJECT, case, name, "float64", **vars(judged) | {"seed": None})
    if beta in WINDOWS:
        error = abs(plain.window - WINDOWS[beta])
        verdict = AS_GOOD if error <= 1e-12 * WINDOWS[beta] else ANOTHER
        yield Row(SUBJECT, case, "window", "float64", error, math.nan, 1e-12 * WINDOWS[beta],
                  "the lecture's 1/(1 − β)", verdict, f"{WINDOWS[beta]} values")  # fmt: skip
