"""`python -m lightning_modules.benchmark`: how fast refnet is beside torch's builtins.

Every op and optimizer at several sizes, refnet and torch in turns in one run; then training steps
of the shipped nets. What does not pass verification gets no figure. Finished cases are kept in the
output file and not repeated until the sources or the machine change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import lightning_modules.benchmark
import refnet
from lightning_modules.benchmark.cases import OURS, Case, Party, cases
from lightning_modules.benchmark.end_to_end import NETS, training_steps
from lightning_modules.benchmark.results import Result, draw, geometric_mean, table
from lightning_modules.benchmark.timing import Timing, measure
from lightning_modules.errors import stop
from verification import verify_op, verify_optimizer
from verification.cache import write
from verification.cases import op_tables
from verification.ops.memory import bytes_kept
from verification.optimizers.memory import peak_bytes
from verification.report import environment

STEPS = "training steps"
AGAIN = " again"


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.benchmark",
        description="Time refnet's ops and optimizers against torch's, in turns, in one run.",
        epilog="Close other programs first: what is measured is this machine.",
    )
    parser.add_argument(
        "--only", nargs="+", default=["*"], metavar="PATTERN",
        help="cases by title: 'Adam*', '*64×128'; --list shows the titles",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print the titles, and end")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for each case, about (default: %(default)g)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="time torch.compile of the builtins too (minutes)"
    )
    parser.add_argument("--fresh", action="store_true", help="repeat finished cases")
    parser.add_argument(
        "--out", type=Path, default=Path("results/benchmark.json"),
        help="results as JSON; a picture goes beside it (default: %(default)s)",
    )  # fmt: skip
    options = parser.parse_args(args)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if not options.seconds > 0:
        parser.error(f"--seconds must be positive, got {options.seconds:g}")
    return options


def main(args: Sequence[str] | None = None) -> int:
    """Time what is missing, print and keep everything, return 0."""
    options = arguments(args)
    every: dict[str, Case | str] = {case.title: case for case in cases()}
    every |= {f"{STEPS} {net}": net for net in NETS}
    chosen = {
        title: case
        for title, case in every.items()
        if any(fnmatchcase(title, pattern) for pattern in options.only)
    }
    if options.list:
        print(*chosen, sep="\n")
        return 0
    if not chosen:
        stop(f"--only: no case is like {' '.join(options.only)}; --list shows them")
    torch.set_num_threads(options.threads)
    kept = {} if options.fresh else _load(options.out)
    found: dict[str, Result] = {}
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(chosen))
        for title, case in chosen.items():
            bar.update(task, description=title)
            key = _key(title, options)
            if key not in kept:
                kept[key] = _run(title, case, options)
                _save(options, kept)
            found[title] = kept[key]
            bar.advance(task)
    _save(options, kept)
    results = list(found.values())
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table(results))
    console.print(
        f"An empty Function, both ways, with one tensor: {_empty_function() * 1e6:.1f} µs"
    )
    title = f"{environment()['processor']}, {options.threads} threads, torch {torch.__version__}"
    picture = draw(results, options.out.with_suffix(".png"), title)
    console.print(f"JSON: {options.out}\npicture: {picture}", markup=False)
    return 0


def _run(title: str, case: Case | str, options: argparse.Namespace) -> Result:
    if isinstance(case, str):
        return _steps(title, case, options.seconds)
    reason = _red(case.subject)
    if reason:
        return Result(title, case.subject, case.elements, refused=reason)
    return _time(case, options.seconds, compiled=options.compile)


@cache
def _red(subject: str) -> str:
    """Why there may be no figures of an op or optimizer: its verification fails."""
    if subject in op_tables():
        report = verify_op(getattr(refnet.functional, subject), like=subject)
    else:
        report = verify_optimizer(getattr(refnet.optim, subject), like=subject)
    first = next(iter(report.failures), None)
    return "" if first is None else f"verification: {first.case}, {first.quantity}: {first.verdict}"


def _time(case: Case, seconds: float, *, compiled: bool) -> Result:
    parties = case.make()
    best = _best(parties, seconds / 4)
    calls = {OURS: parties[OURS].both, best: parties[best].both, best + AGAIN: parties[best].both}
    if compiled and case.compiled is not None:
        calls["compiled"] = case.compiled().both
    timed = measure(calls, seconds)
    ours, theirs = timed[OURS], timed[best]
    forward, backward = _ways(parties, timed, best, seconds / 2)
    other = timed.get("compiled")
    return Result(
        case.title, case.subject, case.elements, ours.median, ours.spread, theirs.median, best,
        ratio=theirs.ratio(ours), noise=abs(theirs.ratio(timed[best + AGAIN]) - 1),
        forward=forward, backward=backward,
        compiled=math.nan if other is None else other.ratio(ours),
        bandwidth=case.floor * case.elements / ours.median / 1e9,
        kept=_kept(parties[OURS], parties[best]),
        peak=(peak_bytes(parties[OURS].both), peak_bytes(parties[best].both)),
    )  # fmt: skip


def _best(parties: dict[str, Party], seconds: float) -> str:
    """Name the fastest of torch's ways."""
    theirs = {name: party.both for name, party in parties.items() if name != OURS}
    if len(theirs) == 1:
        return next(iter(theirs))
    timed = measure(theirs, seconds)
    return min(timed, key=lambda name: timed[name].median)


def _ways(
    parties: dict[str, Party], both: dict[str, Timing], best: str, seconds: float
) -> tuple[float, float]:
    """The ratios of the forward, and of what the backward adds."""
    ours, theirs = parties[OURS].forward, parties[best].forward
    if ours is None or theirs is None:
        return math.nan, math.nan
    timed = measure({OURS: ours, best: theirs}, seconds)
    added = {name: both[name].median - timed[name].median for name in timed}
    return timed[best].ratio(timed[OURS]), added[best] / added[OURS]


def _kept(ours: Party, theirs: Party) -> tuple[int, int]:
    if ours.forward is None or theirs.forward is None:
        return -1, -1
    return bytes_kept(ours.forward, ours.held), bytes_kept(theirs.forward, theirs.held)


def _steps(title: str, net: str, seconds: float) -> Result:
    calls = training_steps(net)
    timed = measure({**calls, "torch" + AGAIN: calls["torch"]}, 2 * seconds)
    ours, theirs = timed[OURS], timed["torch"]
    return Result(
        title, STEPS, 0, ours.median, ours.spread, theirs.median, "torch",
        ratio=theirs.ratio(ours), noise=abs(theirs.ratio(timed["torch" + AGAIN]) - 1),
    )  # fmt: skip


class _Empty(torch.autograd.Function):
    """What no op of ours can be faster than."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


def _empty_function() -> float:
    x = torch.ones(64, 10, requires_grad=True)
    ones = torch.ones(64, 10)

    def both() -> object:
        return torch.autograd.grad(_Empty.apply(x), x, ones)  # type: ignore[no-untyped-call]

    return measure({"empty": both}, 0.3)["empty"].median


def _key(title: str, options: argparse.Namespace) -> str:
    """A case is known by what its figures depend on."""
    return json.dumps([title, options.threads, options.compile, options.seconds, _sources()])


@cache
def _sources() -> str:
    digest = hashlib.sha256(f"{torch.__version__} {platform.platform()} {_cores()}".encode())
    for package in (refnet, lightning_modules.benchmark):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cores() -> int:
    return os.cpu_count() or 1


def _load(path: Path) -> dict[str, Result]:
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"cases": {}}
        return {key: Result.from_data(case) for key, case in data["cases"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        stop(f"--out: {path} is not a file that this command wrote; --fresh writes it anew")


def _save(options: argparse.Namespace, kept: dict[str, Result]) -> None:
    """Keep what is known of these sources; older figures would not be comparable."""
    current = {key: result for key, result in kept.items() if json.loads(key)[-1] == _sources()}
    chosen = [result for key, result in current.items() if json.loads(key)[1] == options.threads]
    text = json.dumps({
        "machine": {**environment(), "cores": _cores(), "cpu": _cpu()},
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "geometric_mean": geometric_mean(chosen),
        "cases": {key: result.to_data() for key, result in current.items()},
    }, indent=1)  # fmt: skip
    if not write(options.out, text + "\n"):
        stop(f"--out: {options.out} cannot be written")


def _cpu() -> str:
    return next(_lines("/proc/cpuinfo", "model name"), platform.processor())


def _lines(file: str, name: str) -> Iterator[str]:
    if Path(file).exists():
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                yield line.partition(":")[2].strip()


if __name__ == "__main__":
    sys.exit(main())
