"""What a check found: rows of data first, then a table or JSON made of them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rich.console import Console

from verification.environment import environment
from verification.rows import (
    ANOTHER,
    AS_GOOD,
    BETTER,
    INCONCLUSIVE,
    NULL,
    PASSING,
    WORSE,
    Kill,
    KillMatrix,
    Row,
)
from verification.texts import HEADINGS, cells_of, line, sentence, shortened, table_of

__all__ = [
    "ANOTHER", "AS_GOOD", "BETTER", "INCONCLUSIVE", "NULL", "PASSING", "WORSE",
    "Kill", "KillMatrix", "Report", "Row", "collect", "environment",
]  # fmt: skip

FEW = 100  # rows, that a table may show
PRINTED = 10  # failures of a report that is a line of text


@dataclass(frozen=True, repr=False)
class Report:
    """The rows of a run.

    Attributes:
        rows: what was checked.
        title: of what.
        kills: which planted bugs the same settings catch; None where that is not known.
        settings: what was asked for: profile, dtypes, seeds, …

    Example:
        >>> row = Row("relu", "easy", "output", "float64", 0.0, 0.0, 1e-11, "oracle", "as good")
        >>> Report([row]).passed, Report([]).passed
        (True, False)
    """

    rows: list[Row] = field(default_factory=list)
    title: str = ""
    kills: KillMatrix | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether there are rows and all of them pass: nothing checked is nothing shown."""
        return bool(self.rows) and not self.failures

    @property
    def failures(self) -> list[Row]:
        """The rows that don't pass."""
        return [row for row in self.rows if not row.passed]

    def __str__(self) -> str:
        """Return the counts, and below them the failures, the first of a kind where many are alike.

        Example:
            >>> row = Row("relu", "easy", "output", "float64", 1.0, 0.0, 1e-11, "1e-11", ANOTHER)
            >>> print(Report([row], "my relu"))
            my relu: failed, 1 rows: 1 another function
              relu easy, output float64: another function, error 1.00e+00, bound 1.00e-11 (1e-11)
        """
        verdict = "passed" if self.passed else "failed"
        first = f"{self.title}: {verdict}, {self.summary()}".removeprefix(": ")
        failures = shortened(self.failures)
        lines = [f"  {sentence(row)}" for row in failures[:PRINTED]]
        more = len(failures) - len(lines)
        return "\n".join([first, *lines, *([f"  and {more} more: see failures"] if more else [])])

    __repr__ = __str__

    def raise_if_failed(self) -> None:
        """Raise an AssertionError that lists the failures.

        Raises:
            AssertionError: a row failed, or there is none.
        """
        if not self.passed:
            lines = [sentence(row) for row in shortened(self.failures)]
            raise AssertionError("\n".join(lines) or "nothing was checked")

    def to_json(self) -> str:
        """Return all of it, and the environment, as JSON; infinite and NaN become null."""
        data = {
            "title": self.title,
            "passed": self.passed,
            "settings": self.settings,
            "rows": [asdict(row) for row in self.rows],
            "kills": None if self.kills is None else asdict(self.kills),
            "environment": environment(),
        }
        return json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False)

    def to_markdown(self) -> str:
        """Return the counts, the failures and the tightest rows as Markdown.

        Example:
            >>> row = Row("relu", "easy", "output", "float64", 0.0, 0.0, 1e-11, "oracle", "as good")
            >>> print(Report([row], "my relu").to_markdown())
            # my relu
            <BLANKLINE>
            **Passed.** 1 rows: 1 as good
            <BLANKLINE>
            | case | quantity | dtype | our error | builtin's | bound | floor | rule | verdict |
            |---|---|---|---|---|---|---|---|---|
            | relu: easy | output | float64 | 0 | 0 | 1.0e-11 | - | oracle | as good |
            <BLANKLINE>
        """
        heading = f"# {self.title or 'Verification'}"
        verdict = f"**{'Passed' if self.passed else 'Failed'}.** {self.summary()}"
        blocks = [heading, verdict]
        if self.rows:
            cells = [cells_of(row) for row in self.digest()]
            blocks.append("\n".join(map(line, [HEADINGS, ["---"] * len(HEADINGS), *cells])))
        blocks.append("\n".join(f"- `{row.repeat}`" for row in self.failures if row.repeat))
        if self.kills is not None:
            caught = sum(bool(kill.caught) for kill in self.kills.kills)
            count = f"{caught} of {len(self.kills.kills)} planted bugs are caught"
            survivors = [f"- survives: {k.subject}, {k.bug}" for k in self.kills.survivors]
            blocks.append("\n".join([f"{count} (settings {self.kills.settings}).", *survivors]))
        return "\n\n".join(block for block in blocks if block) + "\n"

    def to_html(self) -> str:
        """Return one self-contained page, which needs no network."""
        from verification.page.html import render  # it imports this module

        return render(self)

    def summary(self) -> str:
        """Return the counts in a line."""
        counts = Counter(row.verdict for row in self.rows)
        verdicts = (*PASSING, WORSE, ANOTHER, INCONCLUSIVE)
        listed = ", ".join(f"{counts[v]} {v}" for v in verdicts if counts[v])
        return f"{len(self.rows)} rows: {listed or 'nothing was checked'}"

    def digest(self) -> list[Row]:
        """Return the failures, then the tightest row of each subject, dtype and rule that pass.

        Where many fail, the first of each quantity stands for the others.
        """
        failures = shortened(self.failures)
        groups: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.subject, row.dtype, row.rule), []).append(row)
        chosen: list[Row] = []
        for rows in groups.values():
            if not all(row.passed for row in rows):
                continue
            tightest = max(rows, key=lambda row: row.used)
            better = sum(row.verdict == BETTER for row in rows)
            count = f"tightest of {len(rows)}" + f", {better} better" * bool(better)
            note = f"({count}) {tightest.note}".strip() if len(rows) > 1 else tightest.note
            chosen.append(replace(tightest, note=note))
        return failures + chosen

    def print(
        self,
        console: Console,
        *,
        failures_only: bool = False,
        every: bool = False,
        elsewhere: Container[str] = (),
    ) -> None:
        """Print the rows as a table, and the counts below it.

        Args:
            console: where to.
            failures_only: no other rows.
            every: all rows, also where they are many; otherwise those are digested.
            elsewhere: quantities that are shown in another way; they are counted, and in the table
                where they fail.
        """
        if failures_only:
            rows = self.failures if every else shortened(self.failures)
        elif every or len(self.rows) <= FEW:
            rows = self.rows
        else:
            rows = self.digest()
        if not every:
            rows = [row for row in rows if row.quantity not in elsewhere or not row.passed]
        if rows:
            console.print(table_of(rows))
        console.print(self.summary(), style="green" if self.passed else "bold red", markup=False)
        if self.kills is not None:
            caught = sum(bool(kill.caught) for kill in self.kills.kills)
            text = f"{caught} of {len(self.kills.kills)} planted bugs are caught by these checks"
            console.print(text, style="bold red" if self.kills.survivors else None, markup=False)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def collect(parts: Iterator[list[Row]]) -> Report:
    """Return a report of the rows that an iterator yields in parts."""
    return Report([row for part in parts for row in part])
