"""`python -m verification models`: two models of a user's files in lockstep."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from verification.commands.terminal import Usage, open_files


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 all passed, 1 a difference, 2 wrong usage."""
    from verification.models.compare import compare_models

    options = _parser().parse_args(arguments)
    sys.path.insert(0, str(Path.cwd()))  # as for `python -m`
    try:
        torch.empty(0, device=options.device)
        open_files({name: getattr(options, name) for name in ("json", "html")})
        make = {key: _load(key, getattr(options, key)) for key in ("candidate", "reference")}
        candidate, reference = (_call(key, function) for key, function in make.items())
        batches = list(_call("--batches", _load("--batches", options.batches)))
        loss, optimizers = (
            [_load(f"--{key}", name) for name in getattr(options, key) or []]
            for key in ("loss", "optimizer")
        )
        match: Any = dict(_pair(text) for text in options.match)
    except (Usage, ValueError, TypeError, RuntimeError, AssertionError) as error:
        return _usage(str(error).splitlines()[0])
    finally:
        sys.path.pop(0)
    console = Console(stderr=True)
    columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    count = len(batches) if options.steps is None else min(options.steps, len(batches))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=count)
        try:
            report = compare_models(
                candidate,
                reference,
                batches,
                loss=_one_or_two(loss),
                optimizers=_one_or_two(optimizers) if optimizers else None,
                mode=options.mode,
                match=match,
                dtype=None if options.dtype == "own" else getattr(torch, options.dtype),
                device=options.device,
                steps=options.steps,
                seed=options.seed,
                same_start=not options.other_start,
                advance=lambda: progress.advance(task),
            )
        except ValueError as error:  # names that are not there
            return _usage(str(error))
    _print(report, every=options.rows)
    for name in ("json", "html"):
        if path := getattr(options, name):
            path.write_text(getattr(report, f"to_{name}")(), encoding="utf-8")
            print(f"{name.upper()}: {path}")
    return 0 if report.passed else 1


def _print(report: Any, every: bool) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    report.print(console, every=every, failures_only=not every)
    for title, names in (
        ("unmatched", report.unmatched), ("null directions", report.null_directions)
    ):  # fmt: skip
        if names:
            console.print(f"{title}: {'; '.join(names)}", markup=False)
    console.print(f"first difference: {report.first_difference or 'none'}", markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verification models",
        description="Run two models in lockstep and say which layer, tensor and step differ first. "
        "What is written module:name is imported; the current directory is looked at first.",
    )
    parser.add_argument("candidate", help="module:function that makes the model in question")
    parser.add_argument("reference", help="module:function that makes the model it should equal")
    parser.add_argument(
        "--batches", required=True, help="module:function that returns the batches, one per step"
    )
    parser.add_argument(
        "--loss", required=True, nargs="+", metavar="LOSS",
        help="module:function of a model and a batch; two, the candidate's first, if they differ",
    )  # fmt: skip
    parser.add_argument(
        "--optimizer", nargs="+",
        help="module:function of a list of parameters, or torch.optim:Adam and the like; two, "
        "the candidate's first, where they differ (default: no optimizer)",
    )  # fmt: skip
    parser.add_argument("--mode", choices=("teacher", "free"), default="teacher")
    parser.add_argument(
        "--match", action="append", default=[], metavar="OURS=THEIRS",
        help="layers, parameters or buffers that answer to each other; a+b for fused layers",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("float64", "float32", "bfloat16", "own"), default="float64"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, … (default: cpu)")
    parser.add_argument("--steps", type=int, help="how many batches (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--other-start", action="store_true", help="the initial weights need not be the same"
    )
    parser.add_argument(
        "--rows", action="store_true", help="print every row, not the failing alone"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the rows go as data")
    parser.add_argument("--html", type=Path, metavar="FILE", help="where the page goes")
    return parser


def _load(option: str, name: str) -> Any:
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{option} must be module:name, got {name!r}")
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{option} {name}: {error}") from error
    return found


def _call(option: str, function: Any) -> Any:
    try:
        return function()
    except Exception as error:
        raise ValueError(f"{option}: {type(error).__name__}: {error}") from error


def _pair(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise ValueError(f"--match must be OURS=THEIRS, got {text!r}")
    return tuple(ours.split("+")), tuple(theirs.split("+"))


def _one_or_two(found: list[Any]) -> Any:
    if len(found) > 2:
        raise ValueError(f"expected one or two of a kind, got {len(found)}")
    return found[0] if len(found) == 1 else tuple(found)


def _usage(message: str) -> int:
    print(f"python -m verification models: {message}", file=sys.stderr)
    return 2
