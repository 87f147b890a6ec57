"""The kill matrix: which planted bugs and trivial candidates do the checks catch?

A bug in the equations goes through all checks of `verify_op` or `verify_optimizer`, so that it is
known which of them catch it, and on which inputs. One in a compiled loop, and a trivial candidate,
goes through them up to the first that does. What the quick checks let through gets the full ones.
The right candidate goes the same way: where it fails, nothing is caught.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from verification.commands import terminal
from verification.commands.terminal import FAILED, PASSED, Usage
from verification.mutants import store
from verification.mutants.bugs import EXPLAINED, PLANTED, RIGHT, TRIVIAL, Bug, bugs, parts_of
from verification.mutants.bugs import subjects as all_subjects
from verification.mutants.by_default import default_checks
from verification.mutants.show import print_matrix
from verification.ops.small_values import RULE as SMALLER
from verification.parts import Advance, Part, run_apart, run_here
from verification.plans import PROFILES
from verification.report import ANOTHER, AS_GOOD, Kill, KillMatrix, Report, Row

__all__ = ["PLANTED", "TRIVIAL", "compute", "main", "stored", "with_margins"]

QUICK, FULL = "quick", "full"
DEFAULTS = "default-initialized layer"  # the case of what torch's own tools say
TOOLS = ("gradcheck", "assert_close")
SLOW = ("AdamW", "Adam", "RMSprop", "cross_entropy", "batch_norm")  # are started first


def compute(
    subjects: Iterable[str] | None = None,
    profile: str = QUICK,
    *,
    fresh: bool = False,
    jobs: int = 1,
    advance: Advance = lambda part: None,
) -> KillMatrix:
    """Return the kill matrix; what is stored under the present settings is not computed again.

    A run that is interrupted loses the bugs that it was at, no others.

    Args:
        subjects: ops, optimizers, schedules, "training run"; all by default.
        profile: the checks that every bug goes through; survivors of "quick" go on to "full".
        fresh: compute it again.
        jobs: processes; 1 is this one.
        advance: called after every bug, for a progress bar.

    Returns:
        A `Kill` for each bug, by subject.

    Raises:
        ValueError: there is no such subject or profile.
        RuntimeError: a bug could not be planted, or its checks could not be run.

    Example:
        >>> matrix = compute(["InverseSqrtDecay"])
        >>> len(matrix.kills) > 10, matrix.survivors
        (True, [])
    """
    settings = store.settings(_require(subjects, profile), profile)  # before a source may change
    found = {} if fresh else _read(settings)
    missing = {subject: name for subject, name in settings.items() if subject not in found}
    for subject, name in missing.items() if fresh else ():
        store.forget_bugs(subject, name)
    kills, errors = _run(missing, profile, jobs, advance)
    for subject, name in missing.items():
        found[subject] = [kill for kill in kills if kill.subject == subject]
        if subject not in errors and store.write(subject, name, found[subject]):
            store.forget_bugs(subject, name)
    if errors:
        raise RuntimeError("; ".join(f"{subject}, {error}" for subject, error in errors.items()))
    return _matrix(settings, found)


def stored(subjects: Iterable[str] | None = None, profile: str = QUICK) -> KillMatrix | None:
    """Return the kill matrix, or None if it is not stored under the present settings.

    Args:
        subjects: as in `compute`.
        profile: likewise.

    Raises:
        ValueError: there is no such subject or profile.
    """
    settings = store.settings(_require(subjects, profile), profile)
    found = _read(settings)
    return _matrix(settings, found) if len(found) == len(settings) else None


def with_margins(report: Report) -> Report:
    """Fill the margins of a report's rows, and the kill matrix, from what is stored.

    A row's margin is the error of the nearest bug over the row's bound: of the bugs that fail in
    the same subject, case, quantity, dtype and norm, that with the smallest error.

    Args:
        report: with rows of any subjects.

    Returns:
        A new report; the same one where nothing is stored.

    Example:
        >>> with_margins(Report()).kills is None
        True
    """
    profile = report.settings.get("profile", QUICK)
    named = {row.subject for row in report.rows}
    settings = store.settings([s for s in all_subjects() if s in named], profile)
    found = _read(settings)
    if not found:
        return report
    matrix = _matrix({s: settings[s] for s in found}, found)
    nearest = _nearest(matrix.kills)
    rows = [_with_margin(row, nearest) for row in report.rows]
    return replace(report, rows=rows, kills=matrix)


Key = tuple[str, str, str, str, str]


def _key(row: Row) -> Key:
    kind = next((word for word in ("rms", SMALLER) if word in row.rule), "")
    return row.subject, row.case, row.quantity, row.dtype, kind


def _nearest(kills: Sequence[Kill]) -> dict[Key, tuple[float, str]]:
    nearest: dict[Key, tuple[float, str]] = {}
    for kill in kills:
        for row in kill.caught:
            key = _key(row)
            if row.error < nearest.get(key, (math.inf, ""))[0]:
                nearest[key] = (row.error, kill.bug)
    return nearest


def _with_margin(row: Row, nearest: dict[Key, tuple[float, str]]) -> Row:
    error, bug = nearest.get(_key(row), (math.nan, ""))
    if not bug or math.isnan(row.bound):
        return row
    margin = error / row.bound if row.bound else math.inf
    return replace(row, margin=margin, nearest=bug)


def _require(subjects: Iterable[str] | None, profile: str) -> list[str]:
    """Return the subjects in their order, each once."""
    known = all_subjects()
    wanted = known if subjects is None else list(subjects)
    for subject in wanted:
        if subject not in known:
            raise ValueError(f"subjects must be among {', '.join(known)}, got {subject!r}")
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    return [subject for subject in known if subject in wanted]


def _read(settings: Mapping[str, str]) -> dict[str, list[Kill]]:
    found = {subject: store.read(subject, settings[subject]) for subject in settings}
    return {subject: kills for subject, kills in found.items() if kills is not None}


def _matrix(settings: Mapping[str, str], found: Mapping[str, Sequence[Kill]]) -> KillMatrix:
    hashes = list(settings.values())
    name = hashes[0] if len(hashes) == 1 else store.digest(*hashes)
    return KillMatrix(name, [kill for subject in settings for kill in found[subject]])


# The run


Found = tuple[list[Kill], dict[str, str]]  # and by subject, what went wrong with the run itself


def _run(settings: Mapping[str, str], profile: str, jobs: int, advance: Advance) -> Found:
    wanted = [bug for bug in bugs() if bug.subject in settings]
    kills, errors = _checked(wanted, settings, profile, jobs, advance)
    if profile != FULL:
        survivors = {(kill.subject, kill.bug) for kill in kills if not kill.caught}
        doubted = {subject for subject, _ in survivors}
        again = [bug for bug in wanted if (bug.subject, bug.bug) in survivors
                 or (bug.kind == RIGHT and bug.subject in doubted)]  # fmt: skip
        full, more = _checked(again, settings, FULL, jobs, advance)
        others = {(kill.subject, kill.bug): kill for kill in full}
        kills = [others.get((kill.subject, kill.bug), kill) for kill in kills]
        errors |= more
    return kills, errors


def _checked(
    wanted: Sequence[Bug], settings: Mapping[str, str], profile: str, jobs: int, advance: Advance
) -> Found:
    results = _results(wanted, settings, profile, jobs, advance)
    failing: set[tuple[str, ...]] = set()  # though nothing is planted
    kills, errors = [], {}
    for bug, rows in zip(wanted, results, strict=True):
        if _broken(bug, rows):
            errors[bug.subject] = f"{bug.bug or bug.kind}: {rows[0].note}"
            continue
        caught = [row for row in rows if row.case != DEFAULTS]
        if bug.kind == RIGHT:
            failing |= {(row.subject, *_where(row)) for row in caught}
            continue
        caught = [row for row in caught if (row.subject, *_where(row)) not in failing]
        asked = {row.quantity: not row.passed for row in rows if row.case == DEFAULTS}
        note = "" if caught else EXPLAINED.get((bug.subject, bug.bug), "")
        gradcheck, assert_close = (asked.get(tool) for tool in TOOLS)
        kill = Kill(bug.subject, bug.bug, bug.kind, profile, caught, gradcheck, assert_close, note)
        kills.append(kill)
    return kills, errors


def _results(
    wanted: Sequence[Bug], settings: Mapping[str, str], profile: str, jobs: int, advance: Advance
) -> list[list[Row]]:
    """Return the rows of each bug, from an interrupted run or by the checks."""
    known = [store.read_bug(b.subject, settings[b.subject], b.bug, profile) for b in wanted]
    todo = [i for i, rows in enumerate(known) if rows is None]
    for bug, rows in zip(wanted, known, strict=True):
        if rows is not None:
            advance(Part(bug.subject, 1, lambda: iter(())))

    def keep(index: int, rows: list[Row]) -> None:
        bug = wanted[todo[index]]
        known[todo[index]] = rows
        if not _broken(bug, rows):
            store.write_bug(bug.subject, settings[bug.subject], bug.bug, profile, rows)

    make = partial(_parts, [(wanted[i].subject, wanted[i].bug) for i in todo], profile)
    if jobs > 1 and todo:
        order = sorted(range(len(todo)), key=lambda i: _slow_first(wanted[todo[i]]))
        run_apart(make, jobs=jobs, order=order, advance=advance, done=keep)
    else:
        run_here(make(), advance=advance, done=keep)
    return [rows or [] for rows in known]


def _broken(bug: Bug, rows: Sequence[Row]) -> bool:
    """Tell whether the run itself failed, not the candidate."""
    return bool(rows) and rows[0].rule == "runs" and rows[0].case == bug.bug


def _where(row: Row) -> tuple[str, ...]:
    return row.case, row.quantity, row.dtype, row.rule


def _parts(names: Sequence[tuple[str, str]], profile: str) -> list[Part]:
    known = {(bug.subject, bug.bug): bug for bug in bugs()}
    return [Part(n[0], 1, partial(_rows, known[n], profile), n[1]) for n in names]


def _rows(bug: Bug, profile: str) -> Iterator[list[Row]]:
    """Yield the rows that fail, and those of torch's own tools, in one list."""
    with bug.plant() as candidate:
        rows: list[Row] = []
        for part in parts_of(bug.subject, candidate, profile):
            (found,) = run_here([part])
            rows += [row for row in found if not row.passed]
            if rows and profile == QUICK and not bug.whole:
                break
        answers = default_checks(bug.subject, candidate)
    nan = math.nan
    yield rows + [
        Row(bug.subject, DEFAULTS, tool, "-", nan, nan, nan, "rejects", ANOTHER if no else AS_GOOD)
        for tool, no in zip(TOOLS, answers, strict=True)
        if no is not None
    ]


def _slow_first(bug: Bug) -> int:
    return SLOW.index(bug.subject) if bug.subject in SLOW else len(SLOW)


# The command


def main(arguments: list[str]) -> int:
    """Run `python -m verification mutants`; return its exit code: 1 if a bug survives."""
    options = _parser().parse_args(arguments)
    paths = {"json": options.json, "html": options.html}
    try:
        wanted = _require(options.subjects or None, options.profile)
        if options.jobs < 1:
            raise Usage(f"--jobs must be at least 1, got {options.jobs}")
        terminal.open_files(paths)
    except (ValueError, Usage) as error:
        return terminal.usage(error)
    known = {} if options.fresh else _read(store.settings(wanted, options.profile))
    total = sum(bug.subject in wanted and bug.subject not in known for bug in bugs())
    with terminal.progress(total) as advance:
        matrix = compute(
            wanted, options.profile, fresh=options.fresh, jobs=options.jobs, advance=advance
        )  # fmt: skip
    console = terminal.output()
    print_matrix(console, matrix)
    report = Report([], "planted bugs", matrix)
    texts = {"json": report.to_json, "html": report.to_html}
    for name, path in paths.items():
        if path:
            path.write_text(texts[name](), encoding="utf-8")
            console.print(f"{name}: {path}", markup=False)
    return FAILED if matrix.survivors else PASSED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verification mutants",
        description="Plant bugs, and show which checks catch each, and which inputs expose it; "
        "beside them what torch's own tools say with their default settings. What is known under "
        "the present sources and versions is not computed again.",
    )
    parser.add_argument("subjects", nargs="*", help=f"of {', '.join(all_subjects())}")
    parser.add_argument("--fresh", action="store_true", help="compute it again")
    parser.add_argument(
        "--profile", default=QUICK, help="quick (default; full for what survives) or full for all"
    )
    parser.add_argument(
        "--jobs", type=int, default=terminal.cores(), help="processes (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the matrix goes as data")
    parser.add_argument("--html", type=Path, metavar="FILE", help="where a page of it goes")
    return parser
