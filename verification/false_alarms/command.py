"""How often the checks flag what is right: refnet, torch's builtins and the rewrites, many seeds.

`python -m verification false-alarms`. A seed is a case at random, judged as anybody's candidate is.
What is done is kept, by chunks of seeds, under a hash of what the result depends on, so that a run
that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from verification.commands import terminal
from verification.commands.terminal import Usage
from verification.false_alarms.right_candidates import subjects
from verification.false_alarms.tallies import Tally, chunks, measure, settings
from verification.report import Row, environment

SHOWN = 20  # alarms of an implementation


def main(arguments: list[str]) -> int:
    """Run the command line; return its exit code: 0 no false alarm, 1 some, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    unknown = [name for name in options.subjects if name not in subjects()]
    if unknown or options.seeds < 1 or options.jobs < 1:
        found = f"unknown: {', '.join(unknown)}" if unknown else "--seeds and --jobs: at least 1"
        print(f"false-alarms: {found}; there are {', '.join(subjects())}", file=sys.stderr)
        return 2
    try:
        terminal.open_files({"json": options.json})
    except Usage as error:
        print(f"false-alarms: {error}", file=sys.stderr)
        return 2
    chosen = options.subjects or subjects()
    torch.set_num_threads(1)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=len(chunks(chosen, options.seeds)))
        tallies = measure(
            chosen, options.seeds, jobs=options.jobs, fresh=options.fresh,
            advance=lambda subject: progress.update(bar, advance=1, description=subject),
        )  # fmt: skip
    _print(Console(width=None if sys.stdout.isatty() else 160), tallies)
    if options.json:
        options.json.write_text(_json(tallies, options.seeds), encoding="utf-8")
        print(f"json: {options.json}")
    return 1 if any(tally.alarms for tally in tallies) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verification false-alarms",
        description="Run the checks on implementations that are right, many random cases each: "
        "refnet's, torch's own (eager, foreach, fused, compiled) and rewrites. What is compiled "
        "gets a few of the seeds. A run that was stopped goes on.",
    )
    parser.add_argument("subjects", nargs="*", help="ops and optimizers, all by default")
    parser.add_argument("--seeds", type=int, default=200, help="random cases (default: 200)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)"
    )
    parser.add_argument("--fresh", action="store_true", help="repeat what an earlier run has done")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result goes as data")
    return parser


def _print(console: Console, tallies: Sequence[Tally]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("subject", "implementation"):
        table.add_column(name)
    for name in ("seeds", "checks", "alarms", "explained", "inconclusive", "seconds"):
        table.add_column(name, justify="right")
    for t in tallies:
        counts = (len(t.alarms), len(t.explained), len(t.inconclusive))
        table.add_row(
            t.subject, escape(t.candidate), str(t.seeds), str(t.rows), *map(str, counts),
            f"{t.seconds:.1f}", style="bold red" if t.alarms else None,
        )  # fmt: skip
    console.print(table)
    for t in tallies:
        for row in t.alarms[:SHOWN]:
            numbers = f"error {row.error:.2e}, bound {row.bound:.2e} ({row.rule}) {row.note}"
            words = f"{row.quantity} {row.dtype} {row.verdict}, {numbers}"
            console.print(f"{t.subject}, {t.candidate}: {words}", markup=False, style="red")
            console.print(f'  --values "{row.case}"', markup=False, soft_wrap=True)
    _print_groups(console, "explained", [row for t in tallies for row in t.explained])
    _print_groups(console, "inconclusive", [row for t in tallies for row in t.inconclusive])
    alarms, rows = sum(len(t.alarms) for t in tallies), sum(t.rows for t in tallies)
    seconds = sum(t.seconds for t in tallies)
    summary = f"{alarms} false alarms of {rows} checks of {len(tallies)} implementations"
    style = "bold red" if alarms else "green"
    console.print(f"{summary}, {seconds:.0f} s of processor time", style=style, markup=False)


def _print_groups(console: Console, heading: str, rows: list[Row]) -> None:
    if rows:
        console.print(f"{heading}:")
    rows = sorted(rows, key=_kind)
    for kind, found in groupby(rows, _kind):
        first, *others = found
        line = f"  {1 + len(others)} x {' '.join(filter(None, kind))}, as in {first.case}"
        console.print(line, markup=False)


def _kind(row: Row) -> tuple[str, ...]:
    return row.subject, row.quantity, row.dtype, row.note


def _json(tallies: Sequence[Tally], seeds: int) -> str:
    data = {
        "passed": not any(tally.alarms for tally in tallies),
        "settings": settings(),
        "seeds": seeds,
        "implementations": [asdict(tally) for tally in tallies],
        "environment": environment(),
    }
    return json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
