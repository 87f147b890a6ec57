"""The kill matrix as tables in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from verification.report import Kill, KillMatrix, Row

FEW = 3  # names that a cell lists
ANSWERS = {True: "caught", False: "missed", None: "-"}


def print_matrix(console: Console, matrix: KillMatrix) -> None:
    """Print each bug with the checks that catch it, the counts by subject, and the rates."""
    console.print(_bugs(matrix.kills))
    console.print(_counts(matrix.kills))
    for line, style in summary(matrix):
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def summary(matrix: KillMatrix) -> list[tuple[str, str]]:
    """Return the rates as lines of text, and the style of each.

    Example:
        >>> kill = Kill("relu", "zeros", "trivial candidate", "quick", gradcheck=True)
        >>> for line, _ in summary(KillMatrix("1a", [kill])): print(line)
        these checks:      0 of 1 bugs caught (0.0 %), 0 explained, 1 SURVIVES
        gradcheck:         1 of 1 that it can be asked about (100.0 %)
        assert_close:      0 of 0 that it can be asked about
        one of these two:  1 of 1 that one of them can be asked about (100.0 %)
        settings 1a
    """
    kills, survivors = matrix.kills, len(matrix.survivors)
    caught = sum(bool(kill.caught) for kill in kills)
    explained = len(kills) - caught - survivors
    left = f"{survivors} SURVIVE{'S' * (survivors == 1)}" if survivors else "0 survive"
    first = f"these checks:      {caught} of {len(kills)} bugs caught{_percent(caught, len(kills))}"
    lines = [(f"{first}, {explained} explained, {left}", "bold red" if survivors else "green")]
    either = [_either(kill) for kill in kills]
    for name, answers in (
        ("gradcheck:         ", [kill.gradcheck for kill in kills]),
        ("assert_close:      ", [kill.assert_close for kill in kills]),
        ("one of these two:  ", either),
    ):
        asked = sum(answer is not None for answer in answers)
        yes = sum(answer is True for answer in answers)
        whom = "one of them" if answers is either else "it"
        text = f"{yes} of {asked} that {whom} can be asked about{_percent(yes, asked)}"
        lines.append((name + text, "none"))
    return [*lines, (f"settings {matrix.settings}", "none")]


def _either(kill: Kill) -> bool | None:
    answers = [a for a in (kill.gradcheck, kill.assert_close) if a is not None]
    return any(answers) if answers else None


def _percent(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.1f} %)" if whole else ""


def _bugs(kills: Sequence[Kill]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("bug", "caught by (rows)", "on inputs (rows)", "gradcheck", "assert_close"):
        table.add_column(name, overflow="fold")
    for kill in kills:
        checks = _most(Counter(_check(row) for row in kill.caught), "checks")
        inputs = _most(Counter(row.case for row in kill.caught), "inputs")
        if kill.profile != "quick" and kill.caught:
            checks = f"[{kill.profile} profile] {checks}"
        survives = not kill.caught and not kill.note
        table.add_row(
            escape(f"{kill.subject}: {kill.bug}"),
            escape(checks or kill.note or "SURVIVES"),
            escape(inputs),
            ANSWERS[kill.gradcheck],
            ANSWERS[kill.assert_close],
            style="bold red" if survives else None,
        )
    return table


def _check(row: Row) -> str:
    return f"{row.quantity if row.quantity != '-' else row.rule} {row.dtype}".removesuffix(" -")


def _most(counts: Counter[str], what: str) -> str:
    named = [f"{name} ({count})" for name, count in counts.most_common(FEW)]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {more} more {what}" if more else "")


def _counts(kills: Sequence[Kill]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("subject")
    for name in ("bugs", "caught", "quick", "gradcheck", "assert_close", "survive"):
        table.add_column(name, justify="right")
    for subject in dict.fromkeys(kill.subject for kill in kills):
        own = [kill for kill in kills if kill.subject == subject]
        caught = [kill for kill in own if kill.caught]
        survivors = sum(not kill.caught and not kill.note for kill in own)
        numbers = (
            len(own),
            len(caught),
            sum(kill.profile == "quick" for kill in caught),
            _answers(kill.gradcheck for kill in own),
            _answers(kill.assert_close for kill in own),
            survivors,
        )
        style = "bold red" if survivors else None
        table.add_row(subject, *map(str, numbers), style=style)
    return table


def _answers(answers: Iterable[bool | None]) -> str:
    known = [answer for answer in answers if answer is not None]
    return str(sum(known)) if known else "-"
