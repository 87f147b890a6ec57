"""Many trainings in one go: several at a time, each one kept as soon as it is finished."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from filelock import FileLock

# A dependency of scikit-learn, which brings it; it has no annotations.
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lightning_modules.cli import main as train
from lightning_modules.errors import stop
from lightning_modules.files import find_config, from_json, to_json, write_whole

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "scikit-learn")
Result = dict[str, Any]
Runs = dict[str, Result]  # by the key of a job


@dataclass(frozen=True)
class Job:
    """One training.

    Args:
        label: what is shown while it runs.
        key: everything that its result depends on, as text.
        train: returns the result, which JSON can hold; with several workers it runs in a process
            of its own, so it must be a function of a module, or a partial of one.
    """

    label: str
    key: str
    train: Callable[[], Result]


def key_of(*parts: Any) -> str:
    """Return a key: parts as JSON, and torch's version.

    Example:
        >>> key_of("mlp", 0, ["--model.l2", "1"]).startswith('["mlp", 0, ["--model.l2", "1"]')
        True
    """
    return json.dumps([*parts, version("torch")])


def finish(
    jobs: Sequence[Job],
    runs: Runs,
    keep: Callable[[Runs], object],
    workers: int = 1,
    *,
    fresh: bool = False,
) -> Runs:
    """Run the jobs that are not among the finished runs, and show how far they are.

    Args:
        jobs: in the order in which they are started.
        runs: finished ones by key; gets the others, each one when it is finished.
        keep: called with runs after each job, to write them.
        workers: jobs at a time; if more than one, in processes of their own, of one thread each.
        fresh: repeat these jobs, whatever there is of them.

    Returns:
        The runs of these jobs, in their order.

    Raises:
        KeyboardInterrupt: what is finished has been kept.

    Example:
        >>> runs = {}
        >>> _ = finish([Job("one", "1", lambda: {"error": 0.0})], runs, keep=lambda runs: None)
        >>> finish([Job("one", "1", lambda: 1 / 0)], runs, keep=lambda runs: None)
        {'1': {'error': 0.0}}
    """
    for job in jobs if fresh else ():
        runs.pop(job.key, None)
    todo = list({job.key: job for job in jobs if job.key not in runs}.values())
    running: list[str] = []
    bar = _bar()
    task = bar.add_task("", total=len(todo), now="")

    def started() -> Iterator[Any]:
        for job in todo:
            running.append(job.label)
            bar.update(task, now=", ".join(running))
            yield delayed(_train)(job)

    # joblib asks for the next job when a worker is free: what it has asked for is running.
    pool = Parallel(workers, return_as="generator_unordered", pre_dispatch=workers, batch_size=1)
    with bar:
        for number, (job, result) in enumerate(pool(started()), start=1):
            runs[job.key] = result
            keep(runs)
            running.remove(job.label)
            bar.update(task, completed=number, now=", ".join(running))
            line = f"[{number}/{len(todo)}] {job.label}: {result.get('seconds', 0):.1f} s"
            bar.console.print(line, highlight=False, markup=False, soft_wrap=True)
    return {job.key: runs[job.key] for job in jobs}


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    now = TextColumn("{task.fields[now]}", markup=False)
    shown = sys.stderr.isatty()
    return Progress(*columns, now, console=console, disable=not shown, transient=True)


def _train(job: Job) -> tuple[Job, Result]:
    try:
        return job, job.train()
    except SystemExit as error:
        if error.code == 2:
            raise
        raise KeyboardInterrupt from error  # what Lightning made of it, or of SIGTERM


def configuration(name: str) -> Any:
    """Return what a configuration says, for a key.

    Raises:
        UserError: there is none of this name.
    """
    return yaml.safe_load(find_config(name).read_text(encoding="utf-8"))


def fit(args: Sequence[str]) -> Result:
    """Train once by the command line, in a temporary folder, and return the summary."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        args = ["fit", *args, "--trainer.default_root_dir", folder]
        summary = train([*args, "--trainer.enable_progress_bar", "false"]).summary
    if summary is None:
        raise RuntimeError(f"there is no summary of {' '.join(args)}")
    # The files were temporary, and the advice is not for a run among many.
    return {
        name: value
        for name, value in asdict(summary).items()
        if name not in ("checkpoint", "files", "next_to_try")
    }


def load(path: Path, option: str = "--out") -> Runs:
    """Return the finished runs of a file; none if there is no file.

    Raises:
        SystemExit: code 2, naming the option: it is a file of something else.
    """
    try:
        runs: Runs = from_json(path.read_text(encoding="utf-8"))["runs"] if path.exists() else {}
    except (ValueError, KeyError, TypeError, OSError):
        stop(f"{option}: {path} is not a file that this command wrote")
    return runs


def save(path: Path, runs: Runs, **more: Any) -> None:
    """Write runs, more, versions and machine, so that no interruption leaves half a file.

    Runs that another command has written there meanwhile stay.
    """
    machine = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
    versions = {name: version(name) for name in PACKAGES}
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        found = {"runs": {**load(path), **runs}, **more, "versions": versions, "machine": machine}
        write_whole(path, to_json(found))


def at_least(least: int) -> Callable[[str], int]:
    """Return a type for argparse: whole numbers from least on.

    Example:
        >>> at_least(1)("3")
        3
    """

    def number(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            message = f"must be a whole number of at least {least}, got {text}"
            raise argparse.ArgumentTypeError(message)
        return int(text)

    return number
