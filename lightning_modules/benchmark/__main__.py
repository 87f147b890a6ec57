"""`python -m lightning_modules.benchmark`: how fast refnet is beside torch's builtins.

Every op and optimizer at several sizes, refnet and torch in turns in one run; then training steps
of the shipped nets. What does not pass verification gets no figure. Finished cases are kept in the
output file and not repeated until the sources or the machine change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import lightning_modules.benchmark
import refnet
from lightning_modules.benchmark import predict
from lightning_modules.benchmark.cases import Case, cases
from lightning_modules.benchmark.end_to_end import NETS
from lightning_modules.benchmark.measured import STEPS, copied, empty_function, result_of
from lightning_modules.benchmark.results import Result, draw, geometric_mean, markdown, table
from lightning_modules.errors import stop
from refnet._triton import INTERPRETED
from verification.cache import write
from verification.report import environment


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
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu",
        help="where; on cuda: the device's time, the host's, graph replays (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--predict", action="store_true",
        help="count launches and bytes of the CUDA kernels, without a GPU, and predict their time "
        "(minutes); the results go beside --out",
    )  # fmt: skip
    parser.add_argument(
        "--bandwidth", type=float, default=predict.BANDWIDTH, metavar="BYTES",
        help="per second, of a copy on the device that is predicted (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--overhead", type=float, default=predict.OVERHEAD, metavar="SECONDS",
        help="per launch, likewise (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="repeat finished cases")
    parser.add_argument(
        "--out", type=Path, default=Path("results/benchmark.json"),
        help="results as JSON; a picture goes beside it (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table as a page of Markdown too"
    )
    options = parser.parse_args(args)
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    if not options.seconds > 0:
        parser.error(f"--seconds must be positive, got {options.seconds:g}")
    for name in ("bandwidth", "overhead"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be positive, got {getattr(options, name):g}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here; --predict needs none")
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
    if options.predict:
        return _predict(options)
    torch.set_num_threads(options.threads)
    kept = {} if options.fresh else _load(options.out)
    found: dict[str, Result] = {}
    with _progress() as bar:
        task = bar.add_task("", total=len(chosen))
        for title, case in chosen.items():
            bar.update(task, description=title)
            key = _key(title, options)
            if key not in kept:
                kept[key] = result_of(
                    title, case, options.seconds, device=options.device, compiled=options.compile
                )
                _save(options, kept)
            found[title] = kept[key]
            bar.advance(task)
    _save(options, kept)
    results = list(found.values())
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table(results))
    empty = f"An empty Function, both ways, with one tensor: {empty_function() * 1e6:.1f} µs."
    console.print(empty)
    cpu = f"{_cpu()} ({environment()['processor']})"
    title = f"{cpu}, {options.threads} threads, torch {torch.__version__}"
    picture = draw(results, options.out.with_suffix(".png"), title)
    if options.markdown is not None:
        where = f"{title}; medians of calls in turns, forward and backward or a step. {empty}"
        if not write(options.markdown, markdown(results, where)):
            stop(f"--markdown: {options.markdown} cannot be written")
    console.print(f"JSON: {options.out}\npicture: {picture}", markup=False)
    return 0


def _predict(options: argparse.Namespace) -> int:
    """Count under Triton's interpreter, which has to be chosen before Triton is imported."""
    if not INTERPRETED:
        words = [sys.executable, "-m", "lightning_modules.benchmark", *sys.argv[1:]]
        return subprocess.run(words, env={**os.environ, "TRITON_INTERPRET": "1"}).returncode
    with _progress() as bar:
        task = bar.add_task("", total=None)
        found = predict.predictions(
            options.bandwidth, options.overhead,
            lambda title: any(fnmatchcase(title, pattern) for pattern in options.only),
            lambda title: bar.update(task, description=title),
        )  # fmt: skip
    if not found:
        stop(f"--only: no case with kernels is like {' '.join(options.only)}; --list shows them")
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(predict.prediction_table(found, options.bandwidth, options.overhead))
    path = options.out.with_name(f"{options.out.stem}-predicted.json")
    text = json.dumps({
        "predicted, not measured": True, "torch": torch.__version__,
        "bandwidth": options.bandwidth, "overhead": options.overhead,
        "cases": [{**asdict(one), "share": one.share / options.bandwidth} for one in found],
    }, indent=1)  # fmt: skip
    if not write(path, text + "\n"):
        stop(f"--out: {path} cannot be written")
    console.print(f"JSON: {path}", markup=False)
    return 0


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _key(title: str, options: argparse.Namespace) -> str:
    """A case is known by what its figures depend on."""
    asked = [title, options.threads, options.compile, options.seconds, options.device]
    return json.dumps([*asked, _sources()])


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
    like = [options.threads, options.device]
    chosen = [r for key, r in current.items() if json.loads(key)[1:5:3] == like]
    text = json.dumps({
        "machine": {**environment(), "cores": _cores(), "cpu": _cpu(), **_gpu(options.device)},
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
        "geometric_mean": geometric_mean(chosen),
        "cases": {key: result.to_data() for key, result in current.items()},
    }, indent=1)  # fmt: skip
    if not write(options.out, text + "\n"):
        stop(f"--out: {options.out} cannot be written")


def _gpu(device: str) -> dict[str, object]:
    if device == "cpu":
        return {}
    return {"gpu": torch.cuda.get_device_name(), "copy GB/s": copied() / 1e9}


def _cpu() -> str:
    return next(_lines("/proc/cpuinfo", "model name"), platform.processor())


def _lines(file: str, name: str) -> Iterator[str]:
    if Path(file).exists():
        for line in Path(file).read_text().splitlines():
            if line.startswith(name):
                yield line.partition(":")[2].strip()


if __name__ == "__main__":
    sys.exit(main())
