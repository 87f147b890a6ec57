"""The kill matrix: computed once per settings, stored, shown, and red where something survives."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from refnet.optim.lr_scheduler import InverseSqrtDecay
from verification.mutants import bugs as all_bugs
from verification.mutants import kill_matrix, store
from verification.mutants.bugs import RIGHT, TRIVIAL, Bug, bugs, parts_of
from verification.mutants.by_default import default_checks
from verification.mutants.kill_matrix import (
    DEFAULTS,
    PLANTED,
    compute,
    main,
    stored,
    with_margins,
)
from verification.optimizers.schedules import schedule_rows
from verification.parts import Part
from verification.report import Kill, Report, Row

SUBJECT = "InverseSqrtDecay"  # the fastest
NAN = math.nan


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFNET_CACHE", str(tmp_path))
    monkeypatch.setattr(store, "_text", functools.cache(store._text))  # somebody may be editing
    return tmp_path / "kills"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which bugs are really run; four of one schedule are all that there are."""
    found: list[str] = []

    def counted(bug: Bug, profile: str) -> Any:
        found.append(f"{profile}: {bug.bug}")
        return original(bug, profile)

    original = kill_matrix._rows
    few = [bug for bug in bugs() if bug.subject == SUBJECT][:4]
    monkeypatch.setattr(kill_matrix, "_rows", counted)
    monkeypatch.setattr(kill_matrix, "bugs", lambda: tuple(few))
    return found


def survivor(monkeypatch: pytest.MonkeyPatch) -> Bug:
    """Add a bug that is none."""
    bug = Bug(SUBJECT, "no bug at all", PLANTED, lambda: nullcontext(InverseSqrtDecay))
    present = kill_matrix.bugs()
    monkeypatch.setattr(kill_matrix, "bugs", lambda: (*present, bug))
    return bug


def test_it_tells_what_caught_which_bug_on_which_inputs(runs: list[str]) -> None:
    kills = compute([SUBJECT]).kills
    assert [kill.bug for kill in kills] == [bug.bug for bug in kill_matrix.bugs()][1:]
    first = next(kill for kill in kills if kill.bug == "base rate lost")
    assert (first.kind, first.profile, first.gradcheck) == (PLANTED, "quick", None)
    assert first.assert_close is True
    assert {row.quantity for row in first.caught} == {"rate"}
    assert len({row.case for row in first.caught}) == 21
    assert not any(row.passed for row in first.caught)


def test_it_is_computed_once(runs: list[str], cache: Path) -> None:
    assert stored([SUBJECT]) is None
    matrix = compute([SUBJECT])
    assert len(runs) == 4
    assert compute([SUBJECT]) == stored([SUBJECT]) == matrix
    assert len(runs) == 4
    (file,) = cache.iterdir()
    assert "NaN" not in file.read_text(encoding="utf-8").replace('"NaN"', "")


def test_fresh_computes_it_again(runs: list[str]) -> None:
    compute([SUBJECT])
    compute([SUBJECT], fresh=True)
    assert len(runs) == 8


def test_a_file_that_is_broken_is_computed_again(runs: list[str], cache: Path) -> None:
    matrix = compute([SUBJECT])
    (file,) = cache.iterdir()
    for text in ("", "{}", '{"kills": [1]}', file.read_text(encoding="utf-8")[:-20]):
        file.write_text(text, encoding="utf-8")
        assert stored([SUBJECT]) is None
    assert compute([SUBJECT]) == matrix
    assert len(runs) == 8


@pytest.mark.parametrize("place", ["checks", "module"])
def test_the_settings_change_with_a_source(
    place: str, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = compute([SUBJECT])
    other = stored(["relu"])
    text = store._text

    def changed(path: Path) -> str:
        named = {"checks": "tolerance.py", "module": "lr_scheduler.py"}[place]
        return text(path) + "#" * (path.name == named)

    monkeypatch.setattr(store, "_text", changed)
    assert stored([SUBJECT]) is None
    assert compute([SUBJECT]).settings != matrix.settings
    assert other is None


def test_another_module_of_refnet_doesn_t_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before, text = store.settings(["relu", "Adam"], "quick"), store._text

    def changed(path: Path) -> str:
        return text(path) + "#" * path.as_posix().endswith("refnet/optim/adam.py")

    monkeypatch.setattr(store, "_text", changed)
    after = store.settings(["relu", "Adam"], "quick")
    assert after["Adam"] != before["Adam"]
    assert after["relu"] == before["relu"]


def test_nothing_that_runs_is_left_out_of_the_settings() -> None:
    program = """
        import sys
        from verification.mutants.kill_matrix import _rows
        from verification.mutants.bugs import RIGHT, bugs
        for bug in bugs():
            if bug.kind == RIGHT and bug.subject in ("relu", "dropout", "SGD", "training run"):
                next(_rows(bug, "quick"))
        print(*(name for name in sys.modules if name.startswith("verification.")))
    """
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[1] for name in done.stdout.split()}
    assert loaded & set(store.ELSEWHERE) == {"commands"}  # it shows the progress


@pytest.mark.parametrize("obstacle", ["a file", "no home"])
def test_without_a_cache_it_works(
    obstacle: str, runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if obstacle == "a file":
        (tmp_path / "file").write_text("", encoding="utf-8")
        monkeypatch.setenv("REFNET_CACHE", str(tmp_path / "file"))
    else:
        monkeypatch.delenv("REFNET_CACHE")
        monkeypatch.setattr(Path, "home", _no_home)
    assert compute([SUBJECT]).survivors == []
    assert stored([SUBJECT]) is None
    assert list(tmp_path.glob("**/*.tmp")) == []


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_writing_that_fails_leaves_the_old_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = [Kill("relu", "a", PLANTED, "quick")]
    assert store.write("relu", "1", kills)

    def full(*args: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    assert not store.write("relu", "1", [])
    assert store.read("relu", "1") == kills
    assert len(list(cache.iterdir())) == 1


def test_rows_are_stored_as_they_were() -> None:
    row = Row(
        "relu", "easy", "output", "float64", math.inf, NAN, 1e-11, "1e-11", "worse", "NaN", 1e-16, 2
    )  # fmt: skip
    kills = [Kill("relu", "a", PLANTED, "full", [row], True, None, "because")]
    assert store.write("relu", "1", kills)
    assert repr(store.read("relu", "1")) == repr(kills)


def test_survivors_are_run_in_full_and_stay_red(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bug = survivor(monkeypatch)
    matrix = compute([SUBJECT])
    assert runs[-2:] == ["full: ", f"full: {bug.bug}"]
    assert [(kill.bug, kill.profile) for kill in matrix.survivors] == [(bug.bug, "full")]
    assert main([SUBJECT, "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert "3 of 4 bugs caught (75.0 %), 0 explained, 1 SURVIVES" in printed
    assert re.search(r"no bug at all +SURVIVES", printed)


def test_a_survivor_that_is_explained_is_no_failure(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bug = survivor(monkeypatch)
    monkeypatch.setitem(all_bugs.EXPLAINED, (SUBJECT, bug.bug), "it is the same function")
    assert main([SUBJECT, "--jobs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "it is the same function" in printed
    assert "3 of 4 bugs caught (75.0 %), 1 explained, 0 survive" in printed


def test_where_the_right_one_fails_nothing_is_caught(
    runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a broken check would count as one that catches everything."""

    def broken(subject: str, candidate: Any, profile: str) -> Any:
        parts = parts_of(subject, candidate, profile)
        row = Row(SUBJECT, "broken", "rate", "float64", 1.0, NAN, 0.0, "-", "another function")
        return [*parts, replace(parts[0], run=lambda: iter([[row]]))]

    monkeypatch.setattr(kill_matrix, "parts_of", broken)
    bug = survivor(monkeypatch)
    assert [kill.bug for kill in compute([SUBJECT]).survivors] == [bug.bug]


def test_a_trivial_candidate_ends_at_the_first_case_that_catches_it() -> None:
    bug = next(bug for bug in bugs() if (bug.subject, bug.kind) == ("relu", TRIVIAL))
    cases = [
        {row.case for rows in kill_matrix._rows(bug, "quick") for row in rows} - {DEFAULTS}
        for bug in (bug, replace(bug, whole=True))
    ]
    assert len(cases[0]) == 1
    assert cases[0] < cases[1]


def test_a_bug_that_cannot_be_planted_is_an_error(
    runs: list[str], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """That loses nothing of the other subjects."""

    def stale() -> Any:
        raise ValueError("its text stands 0 times")

    survivor(monkeypatch)
    stands = [replace(bug, plant=stale) if bug.kind != RIGHT else bug for bug in kill_matrix.bugs()]
    other = [bug for bug in bugs() if bug.subject == "relu"][:2]
    monkeypatch.setattr(kill_matrix, "bugs", lambda: (*other, *stands))
    with pytest.raises(RuntimeError, match="its text stands 0 times"):
        compute([SUBJECT, "relu"])
    assert [path.name.partition("-")[0] for path in cache.glob("*.json")] == ["relu"]


@pytest.mark.parametrize("fresh", [False, True])
def test_an_interrupted_run_keeps_the_bugs_that_are_done(
    fresh: bool, runs: list[str], cache: Path
) -> None:
    def stop(part: Part) -> None:
        if len(runs) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compute([SUBJECT], advance=stop)
    assert list(cache.glob("*.json")) == []
    before, advanced = [*runs], list[str]()
    runs.clear()
    matrix = compute([SUBJECT], fresh=fresh, advance=lambda part: advanced.append(part.name))
    last = f"quick: {kill_matrix.bugs()[3].bug}"
    assert runs == ([*before, last] if fresh else [before[2], last])
    assert len(advanced) == 4
    assert repr(matrix) == repr(compute([SUBJECT], fresh=True))
    assert [path.suffix for path in cache.iterdir()] == [".json"]  # of bugs nothing is left


def test_margins_name_the_nearest_bug(runs: list[str]) -> None:
    report = Report([row for rows in schedule_rows(SUBJECT) for row in rows])
    assert with_margins(report) is report  # nothing is known
    matrix = compute([SUBJECT])
    found = with_margins(report)
    assert found.kills == matrix
    row = found.rows[0]
    failing = {
        kill.bug: r.error
        for kill in matrix.kills
        for r in kill.caught
        if (r.case, r.quantity) == (row.case, row.quantity)
    }
    assert row.nearest == min(failing, key=lambda bug: failing[bug])
    assert row.margin == failing[row.nearest] / row.bound > 1


def test_margins_without_numbers() -> None:
    same = {"subject": SUBJECT, "quantity": "rate", "dtype": "float64", "rule": "r"}
    (settings,) = store.settings([SUBJECT], "quick").values()

    def row(case: str, error: float, bound: float, verdict: str = "as good") -> Row:
        return Row(case=case, error=error, builtin_error=NAN, bound=bound, verdict=verdict, **same)

    caught = [row("bitwise", 1.0, 0.0, "another function"), row("crash", NAN, NAN, "worse")]
    store.write(SUBJECT, settings, [Kill(SUBJECT, "bug", PLANTED, "quick", caught)])
    rows = [row("bitwise", 0.0, 0.0), row("crash", 0.0, 1.0), row("no bug shows", 0.0, 1.0)]
    found = with_margins(Report(rows)).rows
    assert (found[0].margin, found[0].nearest) == (math.inf, "bug")
    assert [r.nearest for r in found[1:]] == ["", ""]
    assert all(math.isnan(r.margin) for r in found[1:])


def test_the_command_writes_what_it_found(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, page = tmp_path / "new" / "kills.json", tmp_path / "kills.html"
    arguments = [SUBJECT, "--jobs", "1", "--json", str(path), "--html", str(page)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "3 of 3 bugs caught (100.0 %)" in printed
    assert "base rate lost" in printed
    data = json.loads(path.read_text(encoding="utf-8"))
    assert len(data["kills"]["kills"]) == 3
    assert "base rate lost" in page.read_text(encoding="utf-8")
    assert main([*arguments, "--fresh"]) == 0
    assert len(runs) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no such op"], "subjects must be among batch_norm, .*, got 'no such op'"),
        ([SUBJECT, "--profile", "slow"], "profile must be one of quick, full, got 'slow'"),
        ([SUBJECT, "--jobs", "0"], "--jobs must be at least 1, got 0"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)


def test_processes_of_their_own_find_the_same(runs: list[str]) -> None:
    apart = compute([SUBJECT], jobs=2)
    assert runs == []
    assert repr(apart.kills) == repr(compute([SUBJECT], fresh=True).kills)


@pytest.mark.parametrize(
    ("subject", "candidate", "answers"),
    [
        ("relu", torch.relu, (False, False)),
        ("relu", lambda input: 2 * torch.relu(input), (False, True)),
        ("relu", lambda input: torch.relu(input).detach(), (True, True)),
        ("SGD", torch.optim.SGD, (None, False)),
        ("SGD", torch.optim.Adam, (None, True)),
        ("training run", None, (None, None)),
    ],
)
def test_torchs_own_tools(
    subject: str, candidate: Callable[..., Any], answers: tuple[bool | None, bool | None]
) -> None:
    assert default_checks(subject, candidate) == answers
