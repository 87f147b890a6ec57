"""The diagnosis' part of the suite: `python -m verification diagnosis`."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import product

from lightning_modules.bias_variance import RECIPE, THRESHOLD, diagnose
from lightning_modules.checks.rows import judged
from verification.report import Row

# Train and dev error in percent, human error 0: whether bias, whether variance is high.
LECTURE: dict[tuple[int | Fraction, int], tuple[int, int]] = {
    (1, 11): (0, 1),
    (15, 16): (1, 0),
    (15, 30): (1, 1),
    (Fraction(1, 2), 1): (0, 0),
}
# In units of the threshold: below it, on it, above it.
GAPS = [Fraction(n, 4) for n in (-8, -2, 0, 3, 4, 5, 8)]


def diagnosis(*, quick: bool = False, device: str = "cpu") -> Iterator[list[Row]]:
    """Yield the rows of the lecture's four examples, and of gaps all around the threshold.

    Args:
        quick: has no effect: it takes no time.
        device: has no effect.

    Example:
        >>> rows = next(diagnosis())
        >>> rows[0].case, all(row.passed for row in rows)
        ('train 1 %, dev 11 %', True)
    """
    yield [
        judged("diagnosis", f"train {float(train):g} %, dev {dev} %", "verdict",
               found != expected, "lecture", note=f"found {found}")
        for (train, dev), expected in LECTURE.items()
        for found in [_found(Fraction(train, 100), Fraction(dev, 100), Fraction(0))]
    ]  # fmt: skip
    wrong = known = 0
    for human, bias, variance in product((Fraction(10, 100), None), GAPS, GAPS):
        threshold = Fraction(THRESHOLD).limit_denominator(1000)
        train = (human or 0) + bias * threshold
        dev = train + variance * threshold
        if min(train, dev) < 0:
            continue
        known += 1
        high = bias > 1
        expected = (None if human is None and high else int(high), int(variance > 1))
        wrong += _found(train, dev, human) != expected
    case, note = "gaps around the threshold", f"{known} of them"
    off = wrong if known else 1  # without any there is nothing to see
    yield [judged("diagnosis", case, "verdicts", off, "exact fractions", note=note)]


def _found(train: Fraction, dev: Fraction, human: Fraction | None) -> tuple[int | None, int] | str:
    """Which of bias and variance is called high, where flags, words and advice say the same."""
    found = diagnose(float(train), float(dev), None if human is None else float(human))
    words = {None: "unknown", False: "low", True: "high"}
    says = f"{words[found.high_bias]} bias, {words[found.high_variance]} variance"
    advised = {line.partition(":")[0] for line in found.next_to_try}
    due = {
        what
        for part, high in (("bias", found.high_bias), ("variance", found.high_variance))
        for what, _ in RECIPE[part]
        if high
    }
    if found.verdict != says or advised - {"to find out how well people do"} != due:
        return f"{found.verdict}: {sorted(advised)}"
    high = found.high_bias
    return (None if high is None else int(high)), int(found.high_variance)
