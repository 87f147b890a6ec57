"""What a check found: rows of data first, then a table or JSON made of them."""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

BETTER, AS_GOOD = "better", "as good"
WORSE, ANOTHER, INCONCLUSIVE = "worse", "another function", "inconclusive"
NULL = "null direction"  # listed, not judged
PASSING = (BETTER, AS_GOOD, NULL)
FEW = 100  # rows, that a table may show
PRINTED = 10  # failures of a report that is a line of text
ALIKE = 3  # failures of a quantity that are shown one by one


@dataclass(frozen=True)
class Row:
    """One quantity of one case, judged by one rule.

    Attributes:
        subject: the op, optimizer or net.
        case: what it was run on.
        quantity: "output", "grad input", "running_var", "exp_avg", "loss", …
        dtype: what the candidate and the builtin computed in.
        error: the candidate's, relative to the scale of the quantity.
        builtin_error: the builtin's, likewise; NaN where there is no builtin. Of a training run:
            that of the builtin run which was perturbed by 1 ulp.
        bound: the largest error that passes.
        rule: how the bound came about.
        verdict: "better", "as good", "worse", "another function" or "inconclusive"; "null
            direction" where a training run has none to give.
        note: what a reader has to know beside the numbers.
        floor: the noise floor, the oracle's own response to inputs changed by 1 ulp, relative; NaN
            where there is none.
        seed: that of the draw that decided; None where nothing is drawn.
        margin: error of the nearest planted bug over the bound, NaN where no bug shows or where the
            kill matrix is not known.
        nearest: that bug.
        repeat: a command that repeats just this row.
    """

    subject: str
    case: str
    quantity: str
    dtype: str
    error: float
    builtin_error: float
    bound: float
    rule: str
    verdict: str
    note: str = ""
    floor: float = math.nan
    seed: int | None = None
    margin: float = math.nan
    nearest: str = ""
    repeat: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with the row."""
        return self.verdict in PASSING

    @property
    def used(self) -> float:
        """How much of its bound the error takes up, −1 where there is no number."""
        if math.isnan(self.error) or math.isnan(self.bound):
            return -1.0
        return self.error / self.bound if self.bound else math.inf if self.error else 0.0


@dataclass(frozen=True)
class Kill:
    """What the checks made of a planted bug or a trivial candidate.

    Attributes:
        subject: the op, optimizer, schedule or net that it is planted in.
        bug: what is wrong, in a few words.
        kind: "planted bug" or "trivial candidate".
        profile: "quick", or "full" where the quick checks let it through.
        caught: the failing rows; empty for a survivor.
        gradcheck: whether `torch.autograd.gradcheck` with default settings on a
            default-initialized layer catches it; None where that can't be asked.
        assert_close: likewise for `torch.testing.assert_close` with the builtin.
        note: why a survivor is no bug, if that has been shown.
    """

    subject: str
    bug: str
    kind: str
    profile: str
    caught: list[Row] = field(default_factory=list)
    gradcheck: bool | None = None
    assert_close: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class KillMatrix:
    """Which planted bugs the checks catch under certain settings.

    Attributes:
        settings: hash of cases, seeds, tolerances, sources and versions.
        kills: one for each bug.
    """

    settings: str
    kills: list[Kill] = field(default_factory=list)

    @property
    def survivors(self) -> list[Kill]:
        """The bugs that nothing has caught and that no note explains."""
        return [kill for kill in self.kills if not kill.caught and not kill.note]


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
        lines = [f"  {_sentence(row)}" for row in failures[:PRINTED]]
        more = len(failures) - len(lines)
        return "\n".join([first, *lines, *([f"  and {more} more: see failures"] if more else [])])

    __repr__ = __str__

    def raise_if_failed(self) -> None:
        """Raise an AssertionError that lists the failures.

        Raises:
            AssertionError: a row failed, or there is none.
        """
        if not self.passed:
            lines = [_sentence(row) for row in shortened(self.failures)]
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
            cells = [_cells(row) for row in self.digest()]
            blocks.append("\n".join(map(_line, [HEADINGS, ["---"] * len(HEADINGS), *cells])))
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
            console.print(_table(rows))
        console.print(self.summary(), style="green" if self.passed else "bold red", markup=False)
        if self.kills is not None:
            caught = sum(bool(kill.caught) for kill in self.kills.kills)
            text = f"{caught} of {len(self.kills.kills)} planted bugs are caught by these checks"
            console.print(text, style="bold red" if self.kills.survivors else None, markup=False)


def shortened(failures: Iterable[Row]) -> list[Row]:
    """Return failures one by one where they are few, else the first of a kind and their number.

    Example:
        >>> row = Row("relu", "easy", "output", "float64", 1.0, 0.0, 1e-11, "1e-11", ANOTHER)
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


def environment() -> dict[str, Any]:
    """Return what the figures depend on: versions, machine, threads, precision settings."""
    backends: Any = torch.backends  # the annotations lack some of it
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "longdouble_bits": np.finfo(np.longdouble).nmant + 1,
        "interop_threads": torch.get_num_interop_threads(),
        "cuda": torch.version.cuda or "none",
        "cudnn": backends.cudnn.version() or "none",
        # What float32 is multiplied in: "tf32", "ieee", or "none", which is not set and so ieee.
        "float32_matmul_cuda": backends.cuda.matmul.fp32_precision,
        "float32_conv_cudnn": backends.cudnn.conv.fp32_precision,
        "float32_matmul_mkldnn": backends.mkldnn.matmul.fp32_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": backends.cudnn.deterministic,
        "cudnn_benchmark": backends.cudnn.benchmark,
    }


HEADINGS = [
    "case", "quantity", "dtype", "our error", "builtin's", "bound", "floor", "rule", "verdict",
]  # fmt: skip


def _cells(row: Row) -> list[str]:
    numbers = [_number(n) for n in (row.error, row.builtin_error, row.bound, row.floor)]
    nearest = ""
    if row.nearest and row.passed:
        nearest = f"({row.margin:.3g} bounds from the bug: {row.nearest})"
    verdict = " ".join(filter(None, (row.verdict, row.note, nearest)))
    return [f"{row.subject}: {row.case}", row.quantity, row.dtype, *numbers, row.rule, verdict]


def _line(cells: list[str]) -> str:
    texts = [cell.replace("|", "\\|") for cell in cells]
    return f"|{'|'.join(texts)}|" if set(cells) == {"---"} else f"| {' | '.join(texts)} |"


def _sentence(row: Row) -> str:
    text = (
        f"{row.subject} {row.case}, {row.quantity} {row.dtype}: {row.verdict}, "
        f"error {row.error:.2e}, bound {row.bound:.2e} ({row.rule}) {row.note}"
    ).rstrip()
    return f"{text}\n    repeat: {row.repeat}" if row.repeat else text


def _table(rows: Iterable[Row]) -> Table:
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
        table.add_row(*map(escape, _cells(row)), style=None if row.passed else "bold red")
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1e}" if value else "0"


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
