"""`python -m verification`: run the suite, print the table, write JSON, exit 1 on any failure."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from verification import suite
from verification.contract import contract_markdown
from verification.report import Report, Row
from verification.support import SUPPORT, print_support, support_markdown, support_rows

HEADING = """\
# What every op supports

Written by `make support` on torch {torch}. {summary}.

## Transforms

"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 all passed, 1 a failure, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    available = {
        part.name: part for part in suite.parts(quick=options.quick, device=options.device)
    }
    if options.list:
        print("\n".join(available))
        return 0
    unknown = [name for name in options.names if name not in available]
    if unknown:
        return _usage(f"unknown: {', '.join(unknown)}; there are {', '.join(available)}")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        return _usage(f"--device {options.device}: {str(error).splitlines()[0]}")
    if options.threads < 1:
        return _usage(f"--threads must be at least 1, got {options.threads}")
    if options.markdown and "transforms" not in (options.names or available):
        return _usage(f"--markdown {options.markdown}: the part transforms has to run")
    for name, path in (("json", options.json), ("markdown", options.markdown)):
        try:  # before the work, which would be lost
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.open("a").close()
        except OSError as error:
            return _usage(f"--{name} {path}: {error.strerror} ({error.filename})")

    torch.set_num_threads(options.threads)
    chosen = [available[name] for name in options.names or available]
    report = Report(_run(chosen))
    # No narrower than the table needs when the output goes to a file.
    console = Console(width=None if sys.stdout.isatty() else 160)
    report.print(
        console, failures_only=options.failures, every=options.rows, elsewhere=(SUPPORT,)
    )  # fmt: skip
    options.json.write_text(report.to_json(), encoding="utf-8")
    console.print(f"JSON: {options.json}", markup=False)
    if support := support_rows(report.rows):
        print_support(console, support)
    if options.markdown:
        text = HEADING.format(torch=torch.__version__, summary=report.summary())
        text += support_markdown(support) + contract_markdown(report.rows)
        options.markdown.write_text(text, encoding="utf-8")
        console.print(f"Markdown: {options.markdown}", markup=False)
    return 0 if report.passed else 1


def _run(chosen: list[suite.Part]) -> list[Row]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    )  # fmt: skip
    console = Console(stderr=True)
    with warnings.catch_warnings(), Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:  # fmt: skip
        warnings.simplefilter("ignore")  # what torch says of edge cases
        announced: set[str] = set()

        def advance(part: suite.Part) -> None:
            progress.update(task, advance=1, description=part.name)
            if not console.is_terminal and part.name not in announced:
                announced.add(part.name)
                console.print(part.name)

        task = progress.add_task("", total=sum(part.cases for part in chosen))
        return suite.run(chosen, advance)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verification",
        description="Compare refnet's ops, optimizers and training runs with torch's builtins and "
        "with NumPy oracles.",
    )
    parser.add_argument("names", nargs="*", help="parts to run, all by default; see --list")
    parser.add_argument("--list", action="store_true", help="list the parts and stop")
    parser.add_argument("--quick", action="store_true", help="fewer seeds, shorter training runs")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")
    parser.add_argument(
        "--threads", type=int, default=1, help="on the CPU; the tensors are small (default: 1)"
    )
    parser.add_argument("--failures", action="store_true", help="print the failing rows only")
    parser.add_argument(
        "--rows", action="store_true",
        help="print every row, not just the tightest of each subject, dtype and rule",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, default=Path("results/verification.json"), metavar="FILE",
        help="where the rows go as data (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE",
        help="where the table of the part transforms goes as Markdown",
    )  # fmt: skip
    return parser


def _usage(message: str) -> int:
    print(f"python -m verification: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
