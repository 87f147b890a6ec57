"""What the checks make of right implementations: counted, kept by chunks of seeds, resumed."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

import refnet
import verification
from verification import cache
from verification.cases.random_cases import as_text, random_case, rows_of
from verification.false_alarms.right_candidates import Right, right_candidates
from verification.report import INCONCLUSIVE, Row

CHUNK = 20  # seeds


@dataclass
class Tally:
    """What the checks made of a right implementation.

    Attributes:
        subject: the op or optimizer.
        candidate: which implementation.
        seeds: how many random cases it was asked.
        rows: how many checks they came to.
        alarms: rows that fail.
        explained: rows that fail for a reason that is known, with it.
        inconclusive: rows without a verdict.
        seconds: that it took.
    """

    subject: str
    candidate: str
    seeds: int = 0
    rows: int = 0
    alarms: list[Row] = field(default_factory=list)
    explained: list[Row] = field(default_factory=list)
    inconclusive: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Add what another chunk of seeds came to."""
        for name in ("seeds", "rows", "alarms", "explained", "inconclusive", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def ask(right: Right, seeds: Iterable[int]) -> Tally:
    """Run the random cases of some seeds and count.

    An op runs in every dtype that holds the case's values, an optimizer in float64 or float32.

    Example:
        >>> tally = ask(right_candidates(["relu"])[0], range(3))
        >>> tally.seeds, tally.alarms
        (3, [])
    """
    tally, start = Tally(right.table.name, right.name), time.perf_counter()
    for seed in seeds:
        case = random_case(right.table, seed)
        if seed % right.every or not right.takes(case):
            continue
        if right.every > 1:  # or what is compiled for many shapes is compiled for any, or refused
            torch.compiler.reset()
        tally.seeds += 1
        dtypes: Sequence[str] = getattr(case, "dtypes", ("float64", "float32"))
        if right.every > 1 or not hasattr(case, "dtypes"):
            dtypes = [dtypes[seed // right.every % len(dtypes)]]
        for dtype in dtypes:
            for row in rows_of(right.table, case, right.function, getattr(torch, dtype)):
                tally.rows += 1
                if not row.passed:
                    _sort(tally, right, row, as_text(case.values))
    tally.seconds = time.perf_counter() - start
    return tally


def _sort(tally: Tally, right: Right, row: Row, values: str) -> None:
    data = asdict(row) | {"case": values}
    reasons = [finding.why for finding in right.findings if finding.is_of(row)]
    if reasons:
        tally.explained.append(Row(**data | {"note": reasons[0]}))
    elif row.verdict == INCONCLUSIVE:
        tally.inconclusive.append(Row(**data))
    else:
        tally.alarms.append(Row(**data))


def measure(
    chosen: Sequence[str],
    seeds: int,
    *,
    jobs: int = 1,
    fresh: bool = False,
    advance: Callable[[str], None] = lambda subject: None,
) -> list[Tally]:
    """Ask all right implementations; go on where a run with the same settings was stopped.

    Args:
        chosen: names of ops and optimizers.
        seeds: how many, from 0 on.
        jobs: processes; 1 for this one.
        fresh: take nothing from an earlier run.
        advance: called after every chunk, `chunks` of them in all.

    Returns:
        A tally for each implementation.
    """
    folder = cache.folder("false-alarms") / settings()
    tallies = {
        (right.table.name, right.name): Tally(right.table.name, right.name)
        for right in right_candidates(chosen)
    }
    tasks = []
    for task in chunks(chosen, seeds):
        kept = None if fresh else _load(folder, task)
        if kept is None:
            tasks.append(task)
        else:
            tallies[task[:2]].add(kept)
            advance(task[0])
    for task, tally in _run(tasks, jobs):
        _save(folder, task, tally)
        tallies[task[:2]].add(tally)
        advance(task[0])
    return list(tallies.values())


Task = tuple[str, str, int, int]  # subject, candidate, first seed, the one after the last


def chunks(chosen: Sequence[str], seeds: int) -> list[Task]:
    """Return what there is to do, in pieces of some seeds of an implementation."""
    found = [
        (right, (right.table.name, right.name, first, min(first + CHUNK, seeds)))
        for right in right_candidates(chosen)
        for first in range(0, seeds, CHUNK)
    ]
    wanted = [
        (right, task)
        for right, task in found
        if any(s % right.every == 0 for s in range(*task[2:]))
    ]
    return [task for _, task in sorted(wanted, key=lambda pair: -pair[0].every)]


def _run(tasks: list[Task], jobs: int) -> Iterator[tuple[Task, Tally]]:
    if jobs == 1:
        for task in tasks:
            yield task, _ask(task)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(_ask, task): task for task in tasks}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _ask(task: Task) -> Tally:
    subject, name, first, end = task
    (right,) = (right for right in right_candidates([subject]) if right.name == name)
    with warnings.catch_warnings():
        return ask(right, range(first, end))


def settings() -> str:
    """Return a hash of what the result depends on: the sources, and the versions of the rest."""
    digest = hashlib.sha256(f"{torch.__version__} {np.__version__} {sys.version}".encode())
    for package in (refnet, verification):
        for path in sorted(Path(str(package.__file__)).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _file(folder: Path, task: Task) -> Path:
    words = "-".join(map(str, task))
    return folder / f"{''.join(c if c.isalnum() else '-' for c in words)}.json"


def _load(folder: Path, task: Task) -> Tally | None:
    try:
        data = json.loads(_file(folder, task).read_text(encoding="utf-8"))
        lists = ("alarms", "explained", "inconclusive")
        return Tally(**data | {name: [Row(**row) for row in data[name]] for name in lists})
    except (OSError, ValueError, TypeError, KeyError):  # not there, or no longer readable
        return None


def _save(folder: Path, task: Task, tally: Tally) -> None:
    """Keep a chunk; where that can't be, the next run asks again."""
    cache.write(_file(folder, task), json.dumps(asdict(tally)))
