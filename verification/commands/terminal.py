"""What the commands share: options, progress, and where results go."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from verification.parts import Part

PASSED, FAILED, WRONG_USAGE = 0, 1, 2
WIDTH = 180  # no narrower than the table needs when the output goes to a file


class Usage(Exception):
    """Wrong usage; the message is one line."""


def output() -> Console:
    """Return the console that results are printed on."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def usage(error: object) -> int:
    """Print what is wrong with the arguments; return the exit code."""
    print(f"python -m verification: {error}", file=sys.stderr)
    return WRONG_USAGE


def add_running_options(parser: argparse.ArgumentParser, jobs: int) -> None:
    """Add the options for how something is run and what is printed of it."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")
    parser.add_argument(
        "--threads", type=int, default=1, help="on the CPU; the tensors are small (default: 1)"
    )
    parser.add_argument("--jobs", type=int, default=jobs, help="processes (default: %(default)s)")
    parser.add_argument("--failures", action="store_true", help="print the failing rows only")
    parser.add_argument(
        "--rows", action="store_true",
        help="print every row, not just the tightest of each subject, dtype and rule",
    )  # fmt: skip


def check(options: argparse.Namespace) -> None:
    """Raise a Usage for a device that isn't there, or for numbers that mean nothing."""
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise Usage(f"--device {options.device}: {str(error).splitlines()[0]}") from None
    for name in ("threads", "jobs"):
        if getattr(options, name) < 1:
            raise Usage(f"--{name} must be at least 1, got {getattr(options, name)}")


def open_files(paths: Mapping[str, Path | None]) -> None:
    """Raise a Usage for a file that cannot be written: before the work, which would be lost."""
    for name, path in paths.items():
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
        except OSError as error:
            raise Usage(f"--{name} {path}: {error.strerror} ({error.filename})") from None


def cores() -> int:
    """Return how many there are for this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def progress(total: int, *, named: bool = True) -> Iterator[Callable[[Part], None]]:
    """Show a bar on a terminal, and elsewhere the names of the parts; yield what advances it.

    At the end it says, on stderr like the rest, how long it took.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    console = Console(stderr=True)
    announced: set[str] = set()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=total)

        def advance(part: Part) -> None:
            bar.update(task, advance=1, description=part.name)
            if named and not console.is_terminal and part.name not in announced:
                announced.add(part.name)
                console.print(part.name)

        start = time.perf_counter()
        yield advance
    if total:
        console.print(f"took {time.perf_counter() - start:.1f} s", highlight=False)
