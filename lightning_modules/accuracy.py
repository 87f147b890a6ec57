"""`python -m lightning_modules.accuracy`: the accuracies of the shipped configurations.

Trains every configuration from several seeds, on refnet's layers and on torch's, and reads the test
set once at the end of each run. The configurations were chosen on the dev set alone.

A seed varies the initial weights and the dropout masks. The split stays the same, so that all runs
are measured on the same images and may be compared image by image; `--vary-split` draws a new split
(and order) for each seed as well. Finished runs are kept in the output file and not repeated.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lightning_modules.errors import explained, stop
from lightning_modules.experiments import (
    Job,
    Result,
    Runs,
    configuration,
    finish,
    fit,
    key_of,
    load,
    save,
)
from lightning_modules.files import check_folder, packaged_configs


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.accuracy",
        description="Train the shipped configurations from several seeds; print test accuracies.",
    )
    parser.add_argument("--config", nargs="+", default=["mlp", "conv"], choices=packaged_configs())
    parser.add_argument("--implementation", choices=["refnet", "torch", "both"], default="both")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--vary-split", action="store_true", help="a new split for each seed")
    parser.add_argument("--fresh", action="store_true", help="repeat finished runs")
    parser.add_argument("--out", type=Path, default=Path("results/accuracy.json"))
    parser.add_argument("rest", nargs="*", help="options of fit, after --", metavar="-- OPTION")
    options = parser.parse_args(args)
    if min(options.seeds) < 0:
        parser.error(f"--seeds must not be negative, got {min(options.seeds)}")
    return options


def one_run(args: Sequence[str]) -> Result:
    """Train once and return the summary."""
    summary = fit(args)
    if summary["test_accuracy"] is None:
        stop("the options after -- leave the test set unread, and the accuracies are of that set")
    return summary


def medians(runs: Runs) -> dict[str, dict[str, float]]:
    """Return, per configuration and implementation, medians over the seeds.

    Example:
        >>> run = {"name": "mlp", "implementation": "torch", "dev_accuracy": 0.9, "seconds": 1.0}
        >>> medians({"a": {**run, "test_accuracy": 0.8}, "b": {**run, "test_accuracy": 0.9}})
        {'mlp torch': {'dev_accuracy': 0.9, 'test_accuracy': 0.85, 'seconds': 1.0}}
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs.values():
        groups.setdefault(f"{run['name']} {run['implementation']}", []).append(run)
    return {
        group: {
            quantity: round(statistics.median(run[quantity] for run in members), 6)
            for quantity in ("dev_accuracy", "test_accuracy", "seconds")
        }
        for group, members in groups.items()
    }


def show(runs: Runs) -> None:
    """Print a row per run and the medians."""
    table = Table(title="Accuracy on digits: the test set was read once per run")
    for title in ("config", "layers", "seed", "dev", "test", "wrong", "seconds"):
        table.add_column(title, justify="left" if title in ("config", "layers") else "right")
    middle = medians(runs)
    for group, numbers in middle.items():
        name, implementation = group.split(" ")
        for run in runs.values():
            if (run["name"], run["implementation"]) == (name, implementation):
                wrong = f"{run['test_wrong']} of {run['test_total']}"
                table.add_row(*_cells(run, str(run["seed"]), wrong))
        both = {"name": name, "implementation": implementation, **numbers}
        table.add_row(*_cells(both, "median", ""), style="bold", end_section=True)
    Console().print(table)


def _cells(run: dict[str, Any], seed: str, wrong: str) -> list[str]:
    percent = [f"{100 * run[key]:.2f} %" for key in ("dev_accuracy", "test_accuracy")]
    return [run["name"], run["implementation"], seed, *percent, wrong, f"{run['seconds']:.1f}"]


def main(args: Sequence[str] | None = None) -> int:
    """Run what is missing, print everything, return 0."""
    options = arguments(args)
    both = options.implementation == "both"
    implementations = ["refnet", "torch"] if both else [options.implementation]
    with explained():
        check_folder("--out", options.out.parent)
    runs = load(options.out)
    jobs = []
    for name, implementation, seed in product(options.config, implementations, options.seeds):
        extra = [*options.rest, *(["--data.seed", str(seed)] if options.vary_split else [])]
        # A run is known by everything that its result depends on, the configuration's text too.
        key = key_of(name, implementation, seed, extra, configuration(name))
        args = ["--config", name, "--model.implementation", implementation]
        args += ["--seed_everything", str(seed), *extra]
        jobs.append(Job(f"{name} {implementation} seed {seed}", key, partial(one_run, args)))

    def keep(runs: Runs) -> None:
        save(options.out, runs, medians=medians(runs))

    wanted = finish(jobs, runs, keep, fresh=options.fresh)
    keep(runs)
    show(wanted)
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
