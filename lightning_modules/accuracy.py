"""`python -m lightning_modules.accuracy`: the accuracies of the shipped configurations.

Trains every configuration from several seeds, on refnet's layers and on torch's, and reads the test
set once at the end of each run. The configurations were chosen on the dev set alone.

A seed varies the initial weights and the dropout masks. The split stays the same, so that all runs
are measured on the same images and may be compared image by image; `--vary-split` draws a new split
(and order) for each seed as well. Finished runs are kept in the output file and not repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from lightning_modules.cli import main as train
from lightning_modules.errors import stop
from lightning_modules.files import find_config, packaged_configs

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "scikit-learn")
Runs = dict[str, dict[str, Any]]


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


def one_run(name: str, implementation: str, seed: int, extra: Sequence[str]) -> dict[str, Any]:
    """Train once, in a temporary folder, and return the summary."""
    with tempfile.TemporaryDirectory() as folder:
        args = ["fit", "--config", name, "--model.implementation", implementation]
        args += ["--seed_everything", str(seed), "--trainer.default_root_dir", folder]
        with contextlib.redirect_stdout(io.StringIO()):
            summary = train([*args, "--trainer.enable_progress_bar", "false", *extra]).summary
    if summary is not None and summary.test_accuracy is None:
        stop("the options after -- leave the test set unread, and the accuracies are of that set")
    if summary is None:
        raise RuntimeError(f"the run {name} {implementation} {seed} has no summary")
    kept = asdict(summary)
    for path in ("checkpoint", "files"):  # they were temporary
        del kept[path]
    return kept


def load(path: Path) -> Runs:
    """Return the finished runs of an output file; none if there is no file."""
    try:
        runs: Runs = json.loads(path.read_text())["runs"] if path.is_file() else {}
    except (ValueError, KeyError, OSError):
        stop(f"--out: {path} is not a file that this command wrote")
    return runs


def save(path: Path, runs: Runs) -> None:
    """Write runs, medians, versions and machine, so that no interruption leaves half a file."""
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    versions = {name: version(name) for name in PACKAGES}
    found = {"runs": runs, "medians": medians(runs), "versions": versions, "machine": machine}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(found, indent=2) + "\n")
    unfinished.replace(path)


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
    runs = {} if options.fresh else load(options.out)
    wanted: Runs = {}
    todo = list(product(options.config, implementations, options.seeds))
    for number, (name, implementation, seed) in enumerate(todo, start=1):
        extra = [*options.rest, *(["--data.seed", str(seed)] if options.vary_split else [])]
        # A run is known by everything that its result depends on, the configuration's text too.
        config = yaml.safe_load(find_config(name).read_text())
        key = json.dumps([name, implementation, seed, extra, config, version("torch")])
        if key not in runs:
            progress = f"[{number}/{len(todo)}] {name} {implementation} seed {seed}"
            print(progress, end=" ... ", flush=True, file=sys.stderr)
            runs[key] = one_run(name, implementation, seed, extra)
            save(options.out, runs)
            print(f"{runs[key]['seconds']:.1f} s", flush=True, file=sys.stderr)
        wanted[key] = runs[key]
    save(options.out, runs)
    show(wanted)
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
