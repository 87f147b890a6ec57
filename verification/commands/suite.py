"""`python -m verification [suite]`: refnet's ops, optimizers and training runs."""

from __future__ import annotations

import argparse
import warnings
from functools import partial
from pathlib import Path

import torch

from verification import suite
from verification.commands import terminal
from verification.commands.terminal import FAILED, PASSED, Usage
from verification.ops.contract import contract_markdown
from verification.parts import Part, run_apart, run_here
from verification.report import Report, Row
from verification.transforms.support import SUPPORT, print_support, support_markdown, support_rows

HEADING = """\
# What every op supports

Written by `make support` on torch {torch}. {summary}.

## Transforms

"""
CORES = terminal.cores()


def main(arguments: list[str], epilog: str = "") -> int:
    """Run the command line; return its exit code: 0 all passed, 1 a failure, 2 wrong usage."""
    options = _parser(epilog).parse_args(arguments)
    available = [part.name for part in suite.parts(quick=options.quick, device=options.device)]
    if options.list:
        print("\n".join(available))
        return PASSED
    try:
        _check(options, available)
    except Usage as error:
        return terminal.usage(error)
    torch.set_num_threads(options.threads)
    names = list(dict.fromkeys(options.names)) or available
    report = Report(_run(names, options), "refnet and torch")
    console = terminal.output()
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
    if options.html:
        options.html.write_text(report.to_html(), encoding="utf-8")
        console.print(f"HTML: {options.html}", markup=False)
    return PASSED if report.passed else FAILED


def _check(options: argparse.Namespace, available: list[str]) -> None:
    unknown = [name for name in options.names if name not in available]
    if unknown:
        raise Usage(f"unknown: {', '.join(unknown)}; there are {', '.join(available)}")
    terminal.check(options)
    if options.markdown and "transforms" not in (options.names or available):
        raise Usage(f"--markdown {options.markdown}: the part transforms has to run")
    terminal.open_files({n: getattr(options, n) for n in ("json", "markdown", "html")})


def _run(names: list[str], options: argparse.Namespace) -> list[Row]:
    make = partial(chosen, names, quick=options.quick, device=options.device)
    parts = make()
    jobs = min(options.jobs, len(parts))
    with warnings.catch_warnings(), terminal.progress(sum(p.cases for p in parts)) as advance:
        warnings.simplefilter("ignore")  # what torch says of edge cases
        if jobs > 1:
            order = range(len(parts))[::-1]  # the longest come last in the table, and start first
            found = run_apart(
                make, jobs=jobs, threads=options.threads, order=order, advance=advance
            )  # fmt: skip
        else:
            found = run_here(parts, advance=advance)
    return suite.whole(parts, found)


def chosen(names: list[str], *, quick: bool, device: str) -> list[Part]:
    """Return parts of the suite by name."""
    available = {part.name: part for part in suite.parts(quick=quick, device=device)}
    return [available[name] for name in names]


def _parser(epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verification",
        description="Compare refnet's ops, optimizers and training runs with torch's builtins and "
        "with NumPy oracles; or, with a command, anybody's.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", help="parts to run, all by default; see --list")
    parser.add_argument("--list", action="store_true", help="list the parts and stop")
    parser.add_argument("--quick", action="store_true", help="fewer seeds, shorter training runs")
    terminal.add_running_options(parser, CORES)
    parser.add_argument(
        "--json", type=Path, default=Path("results/verification.json"), metavar="FILE",
        help="where the rows go as data (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--html", type=Path, metavar="FILE", help="where a page of them goes")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE",
        help="where the table of the part transforms goes as Markdown",
    )  # fmt: skip
    return parser
