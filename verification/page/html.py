"""A report as a page: one HTML file for a browser, a phone or paper, and no network.

Here the rows are counted and sorted into what the templates draw; `templates/` has the page, its
style, and the script that filters the table of all rows.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from verification.page.figures import Histogram, histogram, measures_accuracy, number, share
from verification.report import (
    ANOTHER,
    AS_GOOD,
    BETTER,
    INCONCLUSIVE,
    NULL,
    WORSE,
    Kill,
    KillMatrix,
    Report,
    Row,
    environment,
)

MARKS = {ANOTHER: "✗", WORSE: "▼", INCONCLUSIVE: "?", AS_GOOD: "✓", BETTER: "▲", NULL: "○"}
SEVERITY = list(MARKS)
# What a quantity belongs to: the pattern that matches its beginning.
CHECKS = {
    "values": r"output|values|param|loss$",
    "gradients": r"grad",
    "derivatives": r"(forward|reverse) (mode|over)|Taylor",
    "state": r"(global )?state|buffer|running_|num_batches|step|entry|momentum_|"
    r"(max_)?(exp|square|grad)_avg",
    "randomness": r"(p = \d|evaluation): |kept |keep |number kept|nothing to draw|neighbouring |"
    r"whole |successive |same |other |random |∞",
    "layout": r"layout|in place",
    "memory": r"bytes",
    "errors": r"error",
    "options": r"options|pairs missing|attribute",
    "transforms": r"support",
    "training": r"loss, |\w+(\.\w+)+$",  # a tensor of a net has a dot in its name
    "runs": r"-$",
    "other": r"",
}
LISTED = 200  # failures that are shown in full; the table has them all

T = TypeVar("T")


def render(report: Report) -> str:
    """Return a report as one HTML page that needs nothing else.

    Args:
        report: the rows, and what is known beside them: the kill matrix; of two models in lockstep
            the first difference, the layers without a counterpart, the null directions.

    Returns:
        The text of the page; its style, script and data are in it.

    Example:
        >>> row = Row("relu", "easy", "output", "float64", 0.0, 0.0, 1e-11, "oracle", "as good")
        >>> page = render(Report([row], "relu <mine>"))
        >>> page.startswith("<!doctype html>"), "relu &lt;mine&gt;" in page
        (True, True)
    """
    templates = Environment(
        loader=PackageLoader("verification.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    templates.filters |= {"number": number, "share": share}
    return templates.get_template("page.html.jinja").render(
        report=report,
        title=report.title or "refnet verification",
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        outcome=_outcome(report),
        counts=Counter(row.verdict for row in report.rows),
        marks=MARKS,
        listed=LISTED,
        first=_facts(getattr(report, "first_difference", None)),
        unmatched=[str(item) for item in getattr(report, "unmatched", None) or ()],
        null=_null_directions(report),
        checks=sorted(set(map(check_of, report.rows)), key=list(CHECKS).index),
        subjects={s: _subject(rows) for s, rows in _by(report.rows, _subject_of).items()},
        accuracy=_accuracy(report.rows),
        training=_training(report),
        kills=_kills(report.kills),
        environment=environment(),
        table=_table(report.rows),
    )


def check_of(row: Row) -> str:
    """Return what kind of check a row comes from.

    Example:
        >>> check_of(Row("relu", "easy", "grad input", "float64", 0, 0, 1, "eps", "as good"))
        'gradients'
    """
    return next(name for name, pattern in CHECKS.items() if re.match(pattern, row.quantity))


@dataclass(frozen=True)
class Cell:
    """Several rows, shown as one: the verdict of the worst and the row that is the tightest."""

    rows: list[Row]

    @property
    def verdict(self) -> str:
        """The worst one."""
        return min((row.verdict for row in self.rows), key=SEVERITY.index)

    @property
    def tightest(self) -> Row:
        """The row that uses most of its bound; of failures, if there are any."""
        return max(self.rows, key=lambda row: (not row.passed, row.used))

    @property
    def failed(self) -> int:
        """How many rows don't pass."""
        return sum(not row.passed for row in self.rows)


def _outcome(report: Report) -> tuple[str, str, str]:
    """Return the verdict's class and word, and a sentence."""
    total, failures, kills = len(report.rows), report.failures, report.kills
    if not total and kills is not None:
        left = len(kills.survivors)
        if left:
            return "bad", "Failed", f"Of {len(kills.kills)} planted bugs, {left} not caught."
        return "good", "Passed", f"All {len(kills.kills)} planted bugs are caught or explained."
    if not total:
        return "unsure", "Nothing was checked", "A report without rows shows nothing."
    if not failures:
        return "good", "Passed", f"All {total} rows are within their bounds."
    counts = Counter(row.verdict for row in failures)
    listed = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    if set(counts) == {INCONCLUSIVE}:
        return "unsure", "Inconclusive", f"Of {total} rows: {listed}."
    return "bad", "Failed", f"Of {total} rows: {listed}."


def _by(rows: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _subject_of(row: Row) -> str:
    return row.subject


def _dtype(row: Row) -> str:
    return row.dtype


def _quantity(row: Row) -> str:
    return row.quantity


def _tensor(row: Row) -> str:
    return f"{row.case}: {row.quantity}"


def _subject(rows: list[Row]) -> dict[str, Any]:
    """Return a subject's verdicts per check and per option that a case's name holds."""
    options: dict[str, list[Row]] = {}
    cases = [row for row in rows if check_of(row) not in ("options", "transforms", "training")]
    for row in cases:
        # "pairs, dims 5, p 1" and "lr=0.1 betas=(0.9, 0.99)"
        for option in re.split(r",? (?=\w+=)|, (?![^(]*\))", row.case):
            options.setdefault(option, []).append(row)
    return {
        "all": Cell(cases),
        "checks": {check: Cell(found) for check, found in _by(rows, check_of).items()},
        "options": {option: Cell(found) for option, found in options.items()},
    }


def _accuracy(rows: Iterable[Row]) -> dict[str, dict[str, Histogram]]:
    """Return for each subject and dtype how the errors against the oracle are distributed."""
    subjects = _by(filter(measures_accuracy, rows), _subject_of)
    return {
        subject: {dtype: histogram(some) for dtype, some in _by(of, _dtype).items()}
        for subject, of in subjects.items()
    }


def _training(report: Report) -> dict[str, dict[str, dict[str, Cell]]]:
    """Return for each optimizer, and each net's run, the cells of quantities and dtypes."""
    rows = [row for row in report.rows if row.verdict != NULL]
    optimizers = {row.subject for row in rows if row.quantity == "param"}
    steps = [r for r in rows if r.subject in optimizers and measures_accuracy(r)]
    runs = [row for row in rows if check_of(row) == "training"]
    groups = _by(steps, _subject_of) | _by(runs, lambda row: f"{row.subject}: {row.case}")
    models = hasattr(report, "first_difference")  # two of them: each case is a layer
    groups = _by(rows, _subject_of) if models else groups
    return {
        name: {
            quantity: {dtype: Cell(some) for dtype, some in _by(of, _dtype).items()}
            for quantity, of in _by(group, _tensor if models else _quantity).items()
        }
        for name, group in groups.items()
    }


def _null_directions(report: Report) -> list[str]:
    """Return what a training run moves at random: from the rows, or as the report lists it."""
    told = [str(item) for item in getattr(report, "null_directions", None) or ()]
    rows = [row for row in report.rows if row.verdict == NULL]
    return told or [f"{row.subject}, {row.case}: {row.quantity}, {row.note}" for row in rows]


def _kills(matrix: KillMatrix | None) -> dict[str, Any] | None:
    """Return the picture: a line for each bug, a column for each check that caught any."""
    if matrix is None:
        return None
    kills = matrix.kills
    caught = [{check_of(row) for row in kill.caught} for kill in kills]
    lines = list(zip(kills, caught, strict=True))
    return {
        "settings": matrix.settings,
        "survivors": matrix.survivors,
        "explained": sum(bool(kill.note) and not kill.caught for kill in kills),
        "columns": sorted(set(chain(*caught)), key=list(CHECKS).index),
        "subjects": _by(lines, lambda line: line[0].subject),
        "rates": {
            "these checks": _rate(bool(kill.caught) for kill in kills),
            "gradcheck": _rate(kill.gradcheck for kill in kills),
            "assert_close": _rate(kill.assert_close for kill in kills),
            "either of the two": _rate(map(_either, kills)),
        },
    }


def _either(kill: Kill) -> bool | None:
    answers = [a for a in (kill.gradcheck, kill.assert_close) if a is not None]
    return any(answers) if answers else None


def _rate(answers: Iterable[bool | None]) -> tuple[int, int]:
    """Return how many say yes, of how many that could be asked."""
    asked = [answer for answer in answers if answer is not None]
    return sum(asked), len(asked)


def _facts(finding: Any) -> list[tuple[str, str]]:
    """Return the fields of a finding, a dataclass, as text."""
    found = asdict(finding) if finding is not None else {}
    return [(k, number(v) if isinstance(v, float) else str(v)) for k, v in found.items() if v != ""]


def _table(rows: list[Row]) -> dict[str, Any]:
    """Return all rows column by column, each text once: thousands of them have to fit."""
    lines = [{**vars(row), "check": check_of(row), "used": row.used} for row in rows]
    columns: dict[str, Any] = {"count": len(rows), "marks": MARKS}
    for name in lines[0] if lines else ():
        values = [line[name] for line in lines]
        if any(isinstance(value, str) for value in values):
            words = {word: i for i, word in enumerate(dict.fromkeys(values))}
            columns[name] = {"words": list(words), "at": [words[value] for value in values]}
        else:
            columns[name] = [_plain(value) for value in values]
    return columns


def _plain(value: float | None) -> float | str | None:
    """JSON has no NaN and no infinity; four digits are enough."""
    if value is None or math.isnan(value):
        return None
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)
