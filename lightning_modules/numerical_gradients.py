"""`python -m lightning_modules.numerical_gradients`: errors of difference quotients against ε.

(f(x + ε) − f(x)) / ε is off by O(ε), (f(x + ε) − f(x − ε)) / 2ε by O(ε²): lines of slope 1 and 2 on
a log-log plot, until rounding, divided by ε, takes over.

Source: lecture, "Numerical Approximations of Gradients".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lightning_modules.errors import explained
from lightning_modules.files import check_folder, relative, to_json, write_whole
from verification.lecture.numerical_gradients import EPS, FUNCTIONS, QUOTIENTS, errors, slope

LECTURE = 1e-7  # ε of the lecture's gradient check


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.numerical_gradients",
        description="Show the errors of one-sided and two-sided difference quotients against ε, "
        "from 1e-1 to 1e-15, in float64, with the slopes of the lines. Writes a table, a picture "
        "and JSON.",
        epilog="example:\n  python -m lightning_modules.numerical_gradients --function sigmoid",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--function", nargs="+", choices=list(FUNCTIONS), default=list(FUNCTIONS),
        metavar="F", help=f"from {', '.join(FUNCTIONS)}; default all")  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/numerical_gradients"),
        help="folder to write to; default runs/numerical_gradients")  # fmt: skip
    return parser.parse_args(args)


def measure(function: str, name: str) -> dict[str, Any]:
    """Return the errors of one quotient, their slopes on both branches, and the best ε.

    Args:
        function: one of `verification.lecture.numerical_gradients.FUNCTIONS`.
        name: "one-sided" or "two-sided".

    Example:
        >>> found = measure("exp", "two-sided")
        >>> round(found["slope"], 2), 1e-7 < found["best_eps"] < 1e-4
        (2.0, True)
    """
    found, formula = errors(function, name), _window(name)
    rounding = EPS[found.argmin()] / 30 > EPS
    return {
        "function": function,
        "quotient": name,
        "slope": slope(EPS[formula], found[formula]),
        "slope_of_rounding": slope(EPS[rounding], found[rounding]),
        "best_eps": float(EPS[found.argmin()]),
        "least_error": float(found.min()),
        "error_at_lectures_eps": float(errors(function, name, LECTURE)[0]),
        "errors": found.tolist(),
    }


def _window(name: str) -> Any:
    """Which ε are on the branch of the formula."""
    low, high = QUOTIENTS[name].window
    return (low <= 1.01 * EPS) & (high >= 0.99 * EPS)  # the ends are rounded


def draw(runs: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw the errors against ε, a panel for each function, with the lines that were fitted.

    Args:
        runs: of `measure`.
        path: the file to write; its folder is made.

    Returns:
        The path.
    """
    functions = list(dict.fromkeys(run["function"] for run in runs))
    columns = min(3, len(functions))
    rows = -(-len(functions) // columns)
    figure = Figure(figsize=(4.6 * columns, 4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(functions) :]:
        axes.set_axis_off()
    for function, axes in zip(functions, panels.flat, strict=False):
        for run in (run for run in runs if run["function"] == function):
            found = np.array(run["errors"])
            color = f"C{QUOTIENTS[run['quotient']].order - 1}"
            axes.loglog(EPS, np.where(found > 0, found, np.nan), ".", color=color, markersize=5)
            formula = _window(run["quotient"])
            height = np.log10(found[formula]).mean() - run["slope"] * np.log10(EPS[formula]).mean()
            line = 10**height * EPS ** run["slope"]
            label = f"{run['quotient']}, slope {run['slope']:.3f}"
            axes.loglog(EPS, np.where(line > 1e-13, line, np.nan), color=color, label=label)
        of = FUNCTIONS[function]
        rounding = 2.0**-53 * abs(float(of.f(of.x))) / EPS
        axes.loglog(EPS, rounding, ":", color="#333333", label="u |f(x)| / ε")
        axes.axvline(LECTURE, color="#999999", linewidth=0.8)
        axes.set(title=f"{function} at x = {of.x:g}", xlabel="ε", ylabel="|quotient − f'(x)|")
        axes.set_ylim(1e-14, 1e4)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="upper center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def show(runs: Sequence[dict[str, Any]]) -> None:
    """Print a row for each function and quotient."""
    table = Table(title=f"errors of difference quotients; ε of the lecture: {LECTURE:g}")
    for title in ("f", "quotient", "slope", "best ε", "error there", f"at {LECTURE:g}", "rounding"):
        table.add_column(title, justify="left" if title in ("f", "quotient") else "right")
    for run in runs:
        table.add_row(
            run["function"],
            run["quotient"],
            f"{run['slope']:.3f}",
            f"{run['best_eps']:.0e}",
            f"{run['least_error']:.0e}",
            f"{run['error_at_lectures_eps']:.0e}",
            f"{run['slope_of_rounding']:.2f}",
            end_section=run["quotient"] == list(QUOTIENTS)[-1],
        )
    Console().print(table)
    print("slope: on the formula's branch; rounding: the slope where ε is too small")


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print, draw; return 0.

    Raises:
        SystemExit: code 2 and a line on stderr, for a mistake in args.
    """
    options = arguments(args)
    with explained():
        check_folder("--out", options.out)
    runs = [measure(function, name) for function in options.function for name in QUOTIENTS]
    show(runs)
    picture = draw(runs, options.out / "numerical_gradients.png")
    numbers = options.out / "numerical_gradients.json"
    write_whole(numbers, to_json({"eps": EPS.tolist(), "runs": runs}))
    print(f"written to {relative(picture)} and {relative(numbers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
