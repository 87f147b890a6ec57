"""What a benchmark found: kept as JSON, printed as a table, drawn as bars."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from lightning_modules.plots import DEV, MARK, TRAIN
from verification.texts import line

NAN = float("nan")
TITLE = "torch's time / ours: above 1 refnet is faster"
HEADINGS = (
    "ours", "±", "torch's best", "", "both", "noise", "fwd", "bwd", "compiled", "GB/s", "kept",
    "peak",
)  # fmt: skip
RATIO = HEADINGS.index("both")
ON_DEVICE = ("graph", "host", "of copy")


@dataclass(frozen=True)
class Result:
    """One case; times in seconds, ratios are torch's time by ours: above 1 we are faster.

    Attributes:
        title: subject, name and size.
        subject: the op or optimizer, or "training steps".
        elements: of the input, or of all parameters; 0 for training steps.
        ours: our time both ways (an optimizer's step).
        spread: of ours, half the distance between the quartiles by the median.
        builtin: the time of the fastest of torch's, and which that is.
        best: its name.
        ratio: builtin / ours, median over the rounds.
        noise: by how much the same builtin, timed twice in the same rounds, differs from itself.
        forward: the ratio of the forward alone; NaN where there is none.
        backward: that of what the backward adds to it.
        compiled: the ratio to the builtin under `torch.compile`; NaN where it was not asked for.
        bandwidth: bytes at the floor by our time, in GB/s.
        kept: bytes kept for the backward, ours and torch's; -1 where there is none.
        peak: the most bytes that a call allocates, ours and torch's.
        graph: the ratio of replays of CUDA graphs; NaN elsewhere, and where there is none.
        host_ours, host_builtin: until a call on a GPU returned; NaN elsewhere.
        share: the bandwidth as a share of what a copy on the device reaches; NaN elsewhere.
        refused: why there are no figures; empty otherwise.
    """

    title: str
    subject: str
    elements: int = 0
    ours: float = NAN
    spread: float = NAN
    builtin: float = NAN
    best: str = ""
    ratio: float = NAN
    noise: float = NAN
    forward: float = NAN
    backward: float = NAN
    compiled: float = NAN
    bandwidth: float = NAN
    kept: tuple[int, int] = (-1, -1)
    peak: tuple[int, int] = (-1, -1)
    graph: float = NAN
    host_ours: float = NAN
    host_builtin: float = NAN
    share: float = NAN
    refused: str = ""

    def to_data(self) -> dict[str, object]:
        """Return it as JSON has it, NaN as None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_data(cls, data: dict[str, object]) -> Result:
        """Make it of what `to_data` returned.

        Example:
            >>> Result.from_data(Result("relu 64", "relu", ours=1.0).to_data()).ours
            1.0
        """
        values = {name: NAN if value is None else value for name, value in data.items()}
        values |= {name: tuple(values[name]) for name in ("kept", "peak")}  # type: ignore[arg-type]
        return cls(**values)  # type: ignore[arg-type]


def geometric_mean(results: Sequence[Result]) -> float:
    """Return the geometric mean of the ratios; NaN where there are none.

    Example:
        >>> round(geometric_mean([Result("a", "a", ratio=0.5), Result("b", "b", ratio=8.0)]), 9)
        2.0
    """
    ratios = [result.ratio for result in results if not math.isnan(result.ratio)]
    return statistics.geometric_mean(ratios) if ratios else NAN


def headings(results: Sequence[Result]) -> list[str]:
    """Return the headings of the columns that the results fill."""
    return [*HEADINGS, *(ON_DEVICE if _on_a_device(results) else ())]


def cells(result: Result, *, on_device: bool = False) -> list[str]:
    """Return a result below `headings`, but for the title: nothing where it was refused."""
    if result.refused:
        return []
    found = [
        _time(result.ours), f"{result.spread:.0%}", _time(result.builtin), result.best,
        f"{result.ratio:.2f}", f"{result.noise:.0%}", _number(result.forward),
        _number(result.backward), _number(result.compiled), _number(result.bandwidth, ".1f"),
        _bytes(result.kept), _bytes(result.peak),
    ]  # fmt: skip
    host = f"{_time(result.host_ours)} / {_time(result.host_builtin)}"
    return [*found, *([_number(result.graph), host, _number(result.share, ".0%")] * on_device)]


def table(results: Sequence[Result]) -> Table:
    """Return the results as a table for a terminal."""
    found = Table(title=TITLE, title_justify="left")
    found.add_column("case")
    for heading in headings(results):
        found.add_column(heading, justify="left" if heading == "" else "right")
    subject = ""
    for result in results:
        if subject and result.subject != subject:
            found.add_section()
        subject = result.subject
        if result.refused:
            found.add_row(result.title, f"[red]refused: {result.refused}[/red]")
            continue
        color = "red" if result.ratio < 1 - max(result.noise, 0.0) else "green"
        row = cells(result, on_device=_on_a_device(results))
        row[RATIO] = f"[{color}]{row[RATIO]}[/]"
        found.add_row(result.title, *row)
    found.caption = f"geometric mean {geometric_mean(results):.2f}"
    return found


def markdown(results: Sequence[Result], where: str) -> str:
    """Return the results as a page of Markdown.

    Args:
        results: in their order.
        where: the machine and the versions, in words.

    Example:
        >>> page = markdown([Result("relu 64", "relu", ours=1e-3, ratio=2.0)], "a machine")
        >>> page.splitlines()[4][:24]
        '| case | ours | ± | torc'
    """
    columns = headings(results)
    rows = [
        line([result.title, *(cells(result, on_device=_on_a_device(results)) or [result.refused])])
        for result in results
    ]
    mean = f"Geometric mean of the ratios: {geometric_mean(results):.2f}."
    head = [line(["case", *columns]), line(["---"] * (1 + len(columns)))]
    return "\n".join([f"# {TITLE}", "", where, "", *head, *rows, "", mean, ""])


def _on_a_device(results: Sequence[Result]) -> bool:
    return any(not math.isnan(result.host_ours) for result in results)


def draw(results: Sequence[Result], path: Path, title: str) -> Path:
    """Draw a bar per case: torch's time by ours, on a logarithmic scale.

    Example:
        >>> import tempfile
        >>> picture = Path(tempfile.mkdtemp()) / "benchmark.png"
        >>> draw([Result("relu 64", "relu", ratio=2.0)], picture, "a machine").stat().st_size > 5000
        True
    """
    shown = [result for result in results if not math.isnan(result.ratio)][::-1]
    figure = Figure(figsize=(9, 1.2 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    places = range(len(shown))
    colors = [TRAIN if result.ratio >= 1 else DEV for result in shown]
    widths = [result.ratio - 1 for result in shown]
    axes.barh(places, widths, left=1, color=colors)
    for place, result in zip(places, shown, strict=True):
        axes.text(max(result.ratio, 1), place, f" {result.ratio:.2f}", va="center", fontsize=7)
    axes.axvline(1, color=MARK, linewidth=1)
    axes.set_yticks(list(places), labels=[result.title for result in shown], fontsize=7)
    axes.set_xscale("log")
    axes.set(title=title, xlabel="torch's time / ours, forward and backward")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.01)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _number(value: float, form: str = ".2f") -> str:
    return "" if math.isnan(value) else format(value, form)


def _bytes(pair: tuple[int, int]) -> str:
    return "" if pair[0] < 0 else " / ".join(_size(size) for size in pair)


def _size(size: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 10_000:
            return f"{size} {unit}"
        size = round(size / 1024)
    return f"{size} GiB"
