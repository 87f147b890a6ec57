"""`python -m verification op` and `optimizer`: compare somebody's own with torch's."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from verification import plans
from verification.candidates import load
from verification.cases import OpTable, op_tables, shrink
from verification.cases.optimizers import OptimizerTable, optimizer_tables
from verification.commands import terminal
from verification.commands.terminal import FAILED, PASSED, Usage
from verification.parts import Part, run_apart
from verification.plans import Plan, make_plan
from verification.public import make_report
from verification.report import Report, Row

TIME_LIMIT = 60.0  # s for a case
SHRINKING = 10.0  # s for the search of a smaller input
EXPLAINED = 4  # quantities: what is wrong in one is mostly wrong in the others too

EXAMPLES = """\
examples:
  python -m verification {kind} mypackage.mymodule:{name} --like {like}
  python -m verification {kind} path/to/file.py:{name} --like {like} --profile full --html page.html
  python -m verification {kind} mypackage.mymodule:{name} --like {like} --case '{case}' \
--dtype float32
"""
SHOWN = {
    "op": {"kind": "op", "name": "my_batch_norm", "like": "batch_norm", "case": "offset*"},
    "optimizer": {"kind": "optimizer", "name": "MyAdam", "like": "Adam", "case": "*amsgrad=True*"},
}


def main(kind: str, arguments: list[str]) -> int:
    """Run the command line; return its exit code: 0 all passed, 1 a failure, 2 wrong usage.

    Args:
        kind: "op" or "optimizer".
        arguments: what follows it.
    """
    options = _parser(kind).parse_args(arguments)
    with TemporaryDirectory() as folder:
        return _main(kind, options, Path(folder) / "output")


def _main(kind: str, options: argparse.Namespace, output: Path) -> int:
    paths = {name: getattr(options, name) for name in ("json", "markdown", "html")}
    seeds = options.seeds if options.seed is None else options.seed
    try:
        terminal.check(options)
        terminal.open_files(paths)
        with output.open("w") as file, redirect_stdout(file), redirect_stderr(file):
            candidate = load(options.candidate)
        limit = None if options.time_limit == TIME_LIMIT else options.time_limit  # as by default
        plan = make_plan(
            options.profile, options.dtype, seeds, options.device, options.case, limit,
            options.special_values,
        )  # fmt: skip
        make = partial(parts_of, kind, options.candidate, options.like, plan)
        rows = _run(make, options.time_limit, options, output)
        report = make_report(kind, candidate, options.like, plan, rows, options.candidate)
    except (Usage, ValueError, TypeError) as error:
        return terminal.usage(error)
    console = terminal.output()
    if options.show_output:
        console.out(output.read_text(errors="replace"), highlight=False, end="")
    report.print(console, failures_only=options.failures, every=options.rows)
    _tell_of(console, output, options)
    _explain(console, kind, report, options, output)
    texts = {"json": report.to_json, "markdown": report.to_markdown, "html": report.to_html}
    for name, path in paths.items():
        if path:
            path.write_text(texts[name](), encoding="utf-8")
            console.print(f"{name}: {path}", markup=False)
    return PASSED if report.passed else FAILED


def parts_of(kind: str, name: str, like: str, plan: Plan) -> list[Part]:
    """Load a candidate and return its parts; called in every process."""
    make = plans.op_parts if kind == "op" else plans.optimizer_parts
    return make(load(name), like, plan)


def _tell_of(console: Console, output: Path, options: argparse.Namespace) -> None:
    """Print how much was printed in the meantime."""
    text = output.read_text(errors="replace")
    if text and not options.show_output:
        lines, shown = len(text.splitlines()), "--show-output shows them"
        words = f"{options.candidate} printed {lines} lines, {len(text)} characters; {shown}"
        console.print(words, markup=False, highlight=False)


def _run(make: Any, limit: float, options: argparse.Namespace, output: Path) -> list[Row]:
    total = sum(max(part.cases, 1) for part in make())
    with terminal.progress(total, named=False) as advance:
        found = run_apart(
            make, jobs=options.jobs, threads=options.threads, limit=limit, output=output,
            advance=advance,
        )  # fmt: skip
    return [row for rows in found for row in rows]


def _explain(
    console: Console, kind: str, report: Report, options: argparse.Namespace, output: Path
) -> None:
    """Print how to repeat what failed, and the smallest input that still does."""
    first: dict[str, Row] = {}
    for row in report.failures:
        first.setdefault(row.quantity, row)
    chosen = list(first.values())[:EXPLAINED]
    if not chosen:
        return
    make = partial(smaller_parts, kind, options.candidate, options.like, options.device, chosen)
    found = _smaller(make, options, output) if options.shrink else [[] for _ in chosen]
    lines: list[str] = []
    printed: set[str] = set()
    for row, smaller in zip(chosen, found, strict=True):
        lines += ["", f"{row.quantity} {row.dtype}: {row.verdict} {row.note}".rstrip()]
        lines += [f"  first in: {row.case}", f"  repeat:   {row.repeat}"]
        for small in smaller:
            if small.repeat:  # else the search itself failed
                lines += [f"  smallest: {small.case}"]
                lines += [] if small.repeat in printed else [f"  repeat:   {small.repeat}"]
                printed.add(small.repeat)
    if len(first) > EXPLAINED:
        others = ", ".join(list(first)[EXPLAINED:])
        lines += ["", f"likewise, not searched for the smallest input: {others}"]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _smaller(make: Any, options: argparse.Namespace, output: Path) -> list[list[Row]]:
    limit = 2 * SHRINKING
    return run_apart(
        make, jobs=options.jobs, threads=options.threads, limit=limit, output=output
    )  # fmt: skip


def smaller_parts(kind: str, name: str, like: str, device: str, rows: Sequence[Row]) -> list[Part]:
    """Return for each failing row the search for its smallest input; called in every process."""
    candidate, tables = load(name), op_tables() if kind == "op" else optimizer_tables()
    table: Any = tables[like]
    candidate = plans.adapted(candidate, like)

    def search(row: Row) -> Iterator[list[Row]]:
        if _has_smaller(table, row):
            found = shrink.smallest(
                table, candidate, row, time_limit=SHRINKING, name=name, device=device
            )  # fmt: skip
            if found is not None:
                yield [replace(found.row, case=found.values, repeat=found.command)]

    return [Part(like, 1, partial(search, row), row.case) for row in rows]


def _has_smaller(table: OpTable | OptimizerTable, row: Row) -> bool:
    """Tell whether a row is one of values: those have sizes and options to search among."""
    if isinstance(table, OptimizerTable):
        return True
    values = {"-", "output", *table.buffers, *(f"grad {name}" for name in table.differentiable)}
    return row.quantity in values and row.dtype != "-"


def _parser(kind: str) -> argparse.ArgumentParser:
    tables = op_tables() if kind == "op" else optimizer_tables()
    parser = argparse.ArgumentParser(
        prog=f"python -m verification {kind}",
        description=f"Compare your own {kind} with torch's builtin and with a float64 oracle.",
        epilog=EXAMPLES.format(**SHOWN[kind]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("candidate", help="module:name or path/to/file.py:name")
    parser.add_argument("--like", required=True, help=f"one of {', '.join(tables)}")
    parser.add_argument("--profile", default="quick", help="quick (default) or full")
    parser.add_argument(
        "--case", "--values", metavar="PATTERN",
        help="the name of a case, a pattern like 'offset*', or values like 'n=2 channels=1'",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", action="append", metavar="NAME", help="float32, …; may be given more than once"
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=int, metavar="N", help="how many draws of each case")
    seeds.add_argument(
        "--seed", type=int, action="append", metavar="N",
        help="just this draw; may be given more than once",
    )  # fmt: skip
    parser.add_argument(
        "--time-limit", type=float, default=TIME_LIMIT, metavar="S",
        help="seconds for a case, then its process is ended (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--no-special-values", dest="special_values", action="store_false",
        help="leave out inputs, or gradients, that hold infinities or NaN",
    )  # fmt: skip
    parser.add_argument(
        "--no-shrink", dest="shrink", action="store_false",
        help="don't search for the smallest input that still fails",
    )  # fmt: skip
    parser.add_argument(
        "--show-output", action="store_true",
        help="show what the candidate prints, not just how much that is",
    )  # fmt: skip
    terminal.add_running_options(parser, 1)
    for name, what in (("json", "the rows as data"), ("markdown", "a table"), ("html", "a page")):
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help=f"where {what} goes")
    return parser
