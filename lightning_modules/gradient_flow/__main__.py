"""`python -m lightning_modules.gradient_flow`: the lecture's chain through deep nets, drawn."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from lightning_modules.errors import explained
from lightning_modules.files import check_folder, relative, to_json, write_whole
from lightning_modules.gradient_flow.nets import ACTIVATIONS, INITIALIZATIONS, gradients
from lightning_modules.gradient_flow.plots import depths

EPILOG = """examples:
  python -m lightning_modules.gradient_flow
  python -m lightning_modules.gradient_flow --activation relu --init kaiming_normal lecun_normal
  python -m lightning_modules.gradient_flow --width 1 --init unit_uniform --activation sigmoid
      the lecture's chain itself, one unit per layer and |w| ≤ 1: below a quarter per layer
"""


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.gradient_flow",
        description="Show what becomes of the gradient in a deep net that has just been "
        "initialized: the size of ∂C/∂b in each layer, for each activation and rule for the "
        "initial weights, with and without batch norm. Writes a table, a picture and JSON.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--depth", type=int, default=20, help="layers; default 20")
    add("--width", type=int, default=64, help="units of each; 1 is the lecture's chain; default 64")
    add("--activation", nargs="+", choices=list(ACTIVATIONS), default=list(ACTIVATIONS),
        metavar="G", help=f"from {', '.join(ACTIVATIONS)}; default all")  # fmt: skip
    # with layers of one width, lecun and xavier are the same
    add("--init", nargs="+", choices=list(INITIALIZATIONS), default=list(INITIALIZATIONS),
        metavar="RULE", help=f"from {', '.join(INITIALIZATIONS)}; default all")  # fmt: skip
    add("--batch-norm", choices=["both", "with", "without"], default="both", help="default both")
    add("--examples", type=int, default=128, help="of the mini-batch; default 128")
    add("--seed", type=int, default=0, help="of weights and inputs; default 0")
    add("--out", type=Path, default=Path("runs/gradient_flow"), help="folder to write to; default "
        "runs/gradient_flow")  # fmt: skip
    return parser.parse_args(args)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return, for each combination, the gradients of the layers and the factor per layer."""
    norms = {"both": [False, True], "with": [True], "without": [False]}[options.batch_norm]
    sizes = {name: getattr(options, name) for name in ("depth", "width", "examples", "seed")}
    todo = list(product(norms, options.activation, options.init))
    found = []
    for batch_norm, activation, rule in track(todo, "measuring", transient=True):
        values = gradients(activation, rule, batch_norm=batch_norm, **sizes)
        ratio = values[0] / values[-1] if values[-1] else math.nan
        per_layer = ratio ** (1 / (options.depth - 1)) if options.depth > 1 else math.nan
        found.append(
            {
                "activation": activation,
                "init": rule,
                "batch_norm": batch_norm,
                "gradients": values,
                "first_over_last": ratio,
                "per_layer": per_layer,
            }
        )
    return found


def show(runs: list[dict[str, Any]]) -> None:
    """Print a row for each activation and rule."""
    table = Table(title="∂C/∂b in the first layer beside the last one's, and the factor per layer")
    norms = sorted({run["batch_norm"] for run in runs})
    for title in ("g", "initial weights"):
        table.add_column(title, no_wrap=True)
    for batch_norm in norms:
        table.add_column("batch norm" if batch_norm else "first/last", justify="right")
        table.add_column("per layer", justify="right")
    cells: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        numbers = [f"{run['first_over_last']:.1e}", f"{run['per_layer']:.3f}"]
        cells.setdefault((run["activation"], run["init"]), []).extend(numbers)
    rows = list(cells)
    for row, after in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(*row, *cells[row], end_section=after is None or after[0] != row[0])
    Console().print(table)


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print, draw; return 0.

    Raises:
        SystemExit: code 2 and a line on stderr, for a mistake in args.
    """
    options = arguments(args)
    with explained():
        check_folder("--out", options.out)
        runs = measure(options)
    show(runs)
    settings = {name: getattr(options, name) for name in ("depth", "width", "examples", "seed")}
    title = f"{options.depth} layers of {options.width} units, seed {options.seed}"
    picture = depths(runs, options.out / "gradient_flow.png", title)
    numbers = options.out / "gradient_flow.json"
    write_whole(numbers, to_json({"settings": settings, "runs": runs}))
    print(f"written to {relative(picture)} and {relative(numbers)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
