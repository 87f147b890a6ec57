"""Rows as text: sentences, cells of a table, and the first of many alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from verification.rows import Row

ALIKE = 3  # failures of a quantity that are shown one by one
HEADINGS = [
    "case", "quantity", "dtype", "our error", "builtin's", "bound", "floor", "rule", "verdict",
]  # fmt: skip


def shortened(failures: Iterable[Row]) -> list[Row]:
    """Return failures one by one where they are few, else the first of a kind and their number.

    Example:
        >>> row = Row("relu", "easy", "output", "float64", 1.0, 0.0, 1e-11, "1e-11", "worse")
        >>> [short.note for short in shortened([row] * 12)]
        ['(the first of 12)']
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in failures:
        key = (row.subject, row.dtype, row.quantity, row.verdict)
        groups.setdefault(key, []).append(row)
    chosen = []
    for rows in groups.values():
        note = f"(the first of {len(rows)}) {rows[0].note}".strip()
        chosen += rows if len(rows) <= ALIKE else [replace(rows[0], note=note)]
    return chosen


def sentence(row: Row) -> str:
    """Return a row in a sentence, and the command that repeats it."""
    text = (
        f"{row.subject} {row.case}, {row.quantity} {row.dtype}: {row.verdict}, "
        f"error {row.error:.2e}, bound {row.bound:.2e} ({row.rule}) {row.note}"
    ).rstrip()
    return f"{text}\n    repeat: {row.repeat}" if row.repeat else text


def cells_of(row: Row) -> list[str]:
    """Return a row's cells of a table, below `HEADINGS`."""
    numbers = [_number(n) for n in (row.error, row.builtin_error, row.bound, row.floor)]
    nearest = ""
    if row.nearest and row.passed:
        nearest = f"({row.margin:.3g} bounds from the bug: {row.nearest})"
    verdict = " ".join(filter(None, (row.verdict, row.note, nearest)))
    return [f"{row.subject}: {row.case}", row.quantity, row.dtype, *numbers, row.rule, verdict]


def line(cells: list[str]) -> str:
    """Return the cells as a line of a Markdown table."""
    texts = [cell.replace("|", "\\|") for cell in cells]
    return f"|{'|'.join(texts)}|" if set(cells) == {"---"} else f"| {' | '.join(texts)} |"


def table_of(rows: Iterable[Row]) -> Table:
    """Return rows as a table for the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in HEADINGS:
        number = name in ("our error", "builtin's", "bound", "floor")
        table.add_column(
            name,
            justify="right" if number else "left",
            no_wrap=number,
            overflow="ellipsis" if number else "fold",
        )
    for row in rows:
        table.add_row(*map(escape, cells_of(row)), style=None if row.passed else "bold red")
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}" if value else "0"
