"""Run checks in parts: one after the other here, or several at a time in processes of their own.

A part that crashes, that takes too long, or that takes its process with it gives a failing row, and
the next one runs.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from verification.limits import time_limit
from verification.report import ANOTHER, INCONCLUSIVE, Row

ENOUGH = 5  # processes that ended one after the other: the next would, too, and each takes seconds
GRACE = 2.0  # s over the limit, in which a process may interrupt itself before it is killed
READY = "ready"
Rows = Iterator[list[Row]]


@dataclass(frozen=True)
class Part:
    """A part of the checks that can be run on its own.

    Attributes:
        name: of the op, the optimizer, or the suite.
        cases: how many lists of rows it yields, 0 if that isn't known beforehand.
        run: starts it.
        case: what is run, where the part is a single case.
    """

    name: str
    cases: int
    run: Callable[[], Rows]
    case: str = "-"


Advance = Callable[[Part], None]
Done = Callable[[int, list[Row]], None]  # the number of a part, and its rows


def _silent(part: Part) -> None:
    """Show no progress."""


def _forgotten(index: int, rows: list[Row]) -> None:
    """Keep nothing."""


def failure(part: Part, verdict: str, note: str) -> Row:
    """Return the row of a part that has none to give."""
    nan = math.nan
    return Row(part.name, part.case, "-", "-", nan, nan, nan, "runs", verdict, note)


def crash(part: Part, error: BaseException) -> Row:
    """Return the row of a part that raises an error."""
    return failure(part, ANOTHER, f"{type(error).__name__}: {error}".splitlines()[0])


def run(part: Part, limit: float | None = None) -> Rows:
    """Yield the rows of a part; if it crashes, or a list of rows takes too long, a failing row.

    Args:
        part: which.
        limit: seconds for each list of rows, as far as `time_limit` can tell.
    """
    try:
        rows = part.run()
        while True:
            with time_limit(limit):
                found = next(rows, None)
            if found is None:
                return
            yield found
    except (Exception, SystemExit) as error:  # a command line in it may exit
        yield [crash(part, error)]


def _import_all(limit: float | None) -> None:
    """Import what torch does when an optimizer first steps: an import may not be interrupted."""
    if limit is not None:
        import_module("torch._dynamo")


def run_here(
    parts: Iterable[Part],
    *,
    limit: float | None = None,
    advance: Advance = _silent,
    done: Done = _forgotten,
) -> list[list[Row]]:
    """Run parts one after the other in this process; return the rows of each.

    Args:
        parts: which.
        limit: as in `run`.
        advance: called after every list of rows, for a progress bar.
        done: called after every part, to keep its rows.
    """
    _import_all(limit)
    found: list[list[Row]] = []
    for i, part in enumerate(parts):
        found.append([])
        for rows in run(part, limit):
            found[-1] += rows
            advance(part)
        done(i, found[-1])
    return found


def run_apart(
    make: Callable[[], list[Part]],
    *,
    jobs: int = 1,
    threads: int = 1,
    limit: float | None = None,
    order: Iterable[int] | None = None,
    output: Path | None = None,
    advance: Advance = _silent,
    done: Done = _forgotten,
) -> list[list[Row]]:
    """Run parts in processes of their own; return the rows of each, in the order of the parts.

    A process that ends, or that is silent for longer than the limit and a grace, is replaced; the
    part that it was at gets a failing row. After five of these with no part between them that ran
    through, the others are not begun, and have an inconclusive row each.

    Args:
        make: makes the parts; called in every process, so it has to be importable by name.
        jobs: how many processes.
        threads: of each on the CPU.
        limit: as in `run`.
        order: in which they are started, by number; the longest should be among the first.
        output: a file that gets what the processes print, in place of this one's stdout and stderr.
        advance: as in `run_here`.
        done: likewise.
    """
    parts = make()
    found: list[list[Row]] = [[] for _ in parts]
    waiting = deque(range(len(parts)) if order is None else order)
    workers: dict[Connection, _Worker] = {}
    ended = 0  # one after the other
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                worker = _Worker(make, threads, limit, output)
                workers[worker.connection] = worker
                worker.take(waiting.popleft())
            ends = [w.deadline for w in workers.values()]
            pause = None if math.isinf(min(ends)) else max(0.0, min(ends) - time.monotonic())
            ready = wait(list(workers), pause)
            for connection, worker in list(workers.items()):
                part, rows = parts[worker.index], found[worker.index]
                try:
                    if connection not in ready:
                        worker.check()
                        continue
                    message = worker.connection.recv()
                    worker.rewind()
                except (EOFError, OSError, TimeoutError) as error:
                    del workers[connection]
                    rows.append(failure(part, ANOTHER, worker.end(error)))
                    advance(part)
                    done(worker.index, rows)
                    ended += 1
                    while waiting and ended >= ENOUGH:
                        index = waiting.popleft()
                        note = f"not begun: {ended} processes were ended one after the other"
                        found[index].append(failure(parts[index], INCONCLUSIVE, note))
                        advance(parts[index])
                    continue
                if message is None:
                    done(worker.index, rows)
                    ended = 0
                if message == READY:
                    worker.begin()
                elif message is not None:
                    rows += message
                    advance(part)
                elif waiting:
                    worker.take(waiting.popleft())
                else:
                    del workers[connection]
                    worker.end()
    finally:
        for worker in workers.values():
            worker.end()
    return found


class _Worker:
    """A process that runs parts by number and sends their rows, then None."""

    def __init__(
        self,
        make: Callable[[], list[Part]],
        threads: int,
        limit: float | None,
        output: Path | None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        arguments = (other, make, threads, limit, output)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        other.close()  # so that the end of the process is the end of the file
        self.limit, self.index, self.deadline = limit, -1, math.inf
        self.started = False

    def take(self, index: int) -> None:
        self.index = index
        self.rewind()
        self.connection.send(index)

    def begin(self) -> None:
        """Start the clock: the imports are done."""
        self.started = True
        self.rewind()

    def rewind(self) -> None:
        if self.limit is not None and self.started:
            self.deadline = time.monotonic() + self.limit + GRACE

    def check(self) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError(f"more than {self.limit:g} s, and it could not be interrupted")

    def end(self, error: Exception | None = None) -> str:
        """Kill the process; return what became of it."""
        if isinstance(error, TimeoutError):
            self.process.kill()
        self.connection.close()
        self.process.join(GRACE)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        if isinstance(error, TimeoutError):
            return f"TimeLimitExceeded: {error}"
        code = self.process.exitcode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return f"its process {how}"


def _serve(
    connection: Connection,
    make: Callable[[], list[Part]],
    threads: int,
    limit: float | None,
    output: Path | None,
) -> None:
    if output is not None:
        file = os.open(output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(file, 1)  # what compiled code prints too
        os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this one
    warnings.simplefilter("ignore")  # what torch says of edge cases
    torch.set_num_threads(threads)
    parts = make()
    _import_all(limit)
    connection.send(READY)
    while True:
        try:
            index = connection.recv()
        except EOFError:
            return
        try:
            for rows in run(parts[index], limit):
                connection.send(rows)
        except BaseException as error:  # a KeyboardInterrupt, say, can be the candidate's alone
            connection.send([crash(parts[index], error)])
        with suppress(Exception):  # somebody may have closed it
            sys.stdout.flush()
        connection.send(None)
