"""Rows and reports: what passes, what is said of what doesn't, and the JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from verification.functions.gradient_checks import GradientReport
from verification.models import ModelsReport
from verification.report import Kill, KillMatrix, Report, Row, collect

NAN, INF = float("nan"), float("inf")
GOOD = Row(
    "relu", "easy", "output", "float64", 1e-16, 2e-16, 1e-11, "1e-11", "as good",
    floor=3e-17, seed=4, margin=12.5, nearest="slope 1.01",
)  # fmt: skip
BAD = replace(GOOD, case="offset γ", error=0.5, verdict="another function", note="a note")


def printed(report: Report, **options: Any) -> str:
    console = Console(file=StringIO(), width=200, record=True)
    report.print(console, **options)
    return console.export_text()


@pytest.mark.parametrize(
    ("verdict", "passed"),
    [
        ("better", True),
        ("as good", True),
        ("null direction", True),
        ("worse", False),
        ("another function", False),
        ("inconclusive", False),
        ("no such verdict", False),
    ],
)
def test_what_passes(verdict: str, passed: bool) -> None:
    report = Report([GOOD, replace(GOOD, verdict=verdict)])
    assert report.rows[1].passed == report.passed == passed
    assert report.failures == ([] if passed else report.rows[1:])


def test_nothing_checked_does_not_pass() -> None:
    assert not Report().passed
    with pytest.raises(AssertionError, match="nothing was checked"):
        Report().raise_if_failed()


def test_a_report_is_a_few_lines_of_text() -> None:
    kinds = [replace(BAD, quantity=f"grad {i}", repeat="python -m x") for i in range(12)]
    lines = repr(Report([GOOD, *kinds, *[replace(BAD, subject="tanh")] * 500], "mine")).splitlines()
    assert lines[0] == "mine: failed, 513 rows: 1 as good, 512 another function"
    assert lines[1].startswith("  relu offset γ, grad 0 float64: another function, error 5.00e-01")
    assert lines[2].strip() == "repeat: python -m x"
    assert (len(lines), lines[-1]) == (22, "  and 3 more: see failures")
    assert str(Report([GOOD])) == "passed, 1 rows: 1 as good"
    assert str(Report()) == "failed, 0 rows: nothing was checked"


def test_the_reports_of_models_and_gradients_are_text_too() -> None:
    for kind in (ModelsReport, GradientReport):
        assert repr(kind([GOOD], "mine")) == "mine: passed, 1 rows: 1 as good"


def test_raise_if_failed_lists_every_failure_and_nothing_else() -> None:
    with pytest.raises(AssertionError) as caught:
        Report([GOOD, BAD, replace(BAD, quantity="grad input")]).raise_if_failed()
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        "relu offset γ, output float64: another function, error 5.00e-01, bound 1.00e-11 (1e-11) "
        "a note"
    )
    assert len(lines) == 2
    assert "grad input" in lines[1]


def test_raise_if_failed_is_silent_when_all_pass() -> None:
    Report([GOOD]).raise_if_failed()


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_has_no_nan_and_no_infinity() -> None:
    row = replace(BAD, error=NAN, builtin_error=INF, bound=-INF)
    loaded = strict(Report([GOOD, row]).to_json())["rows"][1]
    assert [loaded[name] for name in ("error", "builtin_error", "bound")] == [None] * 3


def test_json_takes_numpy_numbers() -> None:
    row = replace(GOOD, error=np.float64(0.5), bound=np.float64(NAN))
    loaded = strict(Report([row]).to_json())["rows"][0]
    assert (loaded["error"], loaded["bound"]) == (0.5, None)


@pytest.mark.parametrize(("rows", "passed"), [([GOOD], True), ([GOOD, BAD], False), ([], False)])
def test_json_holds_the_rows_and_the_verdict(rows: list[Row], passed: bool) -> None:
    loaded = strict(Report(rows).to_json())
    assert [Row(**row) for row in loaded["rows"]] == rows
    assert loaded["passed"] is passed


def test_json_holds_the_title_the_settings_and_the_kills() -> None:
    kills = KillMatrix("abc", [Kill("relu", "zeros", "trivial candidate", "quick", [BAD])])
    loaded = strict(Report([GOOD], "mine", kills, {"seeds": (0, 1), "limit": INF}).to_json())
    assert (loaded["title"], loaded["settings"]) == ("mine", {"seeds": [0, 1], "limit": None})
    assert loaded["kills"]["settings"] == "abc"
    assert [Row(**row) for row in loaded["kills"]["kills"][0]["caught"]] == [BAD]
    assert strict(Report([GOOD]).to_json())["kills"] is None


def test_json_names_the_environment() -> None:
    environment = strict(Report([GOOD]).to_json())["environment"]
    wanted = {"torch", "numpy", "python", "platform", "processor", "device", "threads"}
    assert wanted <= environment.keys()
    assert environment["threads"] == 1
    assert not {name for name, value in environment.items() if value in (None, "")}


def test_summary_counts_the_verdicts() -> None:
    assert Report([GOOD, BAD, GOOD]).summary() == "3 rows: 2 as good, 1 another function"
    assert Report().summary() == "0 rows: nothing was checked"


def test_the_table_has_all_rows_and_the_counts() -> None:
    text = printed(Report([GOOD, BAD]))
    for piece in ("relu: easy", "relu: offset γ", "1.0e-16", "2.0e-16", "a note", "2 rows:"):
        assert piece in text


def test_the_table_of_the_failures_has_no_other_row() -> None:
    text = printed(Report([GOOD, BAD]), failures_only=True)
    assert "relu: offset γ" in text
    assert "relu: easy" not in text
    assert "2 rows:" in text


def test_an_empty_table_is_not_printed() -> None:
    assert printed(Report([GOOD]), failures_only=True).splitlines() == ["1 rows: 1 as good"]


@pytest.mark.parametrize(
    ("error", "cell"), [(NAN, "-"), (0.0, "0"), (INF, "inf"), (2e-7, "2.0e-07")]
)
def test_numbers_in_the_table(error: float, cell: str) -> None:
    row = replace(GOOD, error=error)
    assert printed(Report([row])).splitlines()[1].split()[4] == cell


@pytest.mark.parametrize("note", ["KeyError: [step]", "no file [/a/b]", "size [2, 3]"])
def test_brackets_are_no_markup(note: str) -> None:
    assert note in printed(Report([replace(BAD, note=note, case="c[bold]")]))
    assert "c[bold]" in printed(Report([replace(BAD, note=note, case="c[bold]")]))


def test_collect_joins_the_parts() -> None:
    assert collect(iter([[GOOD], [], [BAD, GOOD]])).rows == [GOOD, BAD, GOOD]


def test_a_failure_says_how_to_repeat_it() -> None:
    command = "python -m verification op mine:f --like relu --case 'offset γ'"
    with pytest.raises(AssertionError) as caught:
        Report([GOOD, replace(BAD, repeat=command)]).raise_if_failed()
    assert str(caught.value).splitlines()[1].split("repeat: ") == ["    ", command]
    assert f"- `{command}`" in Report([GOOD, replace(BAD, repeat=command)]).to_markdown()


def test_markdown_has_the_counts_the_rows_and_the_planted_bugs() -> None:
    caught = Kill("relu", "zeros", "trivial candidate", "quick", [BAD])
    survivor = Kill("relu", "slope | 1.01", "planted bug", "full")
    text = Report([GOOD, BAD], "my relu", KillMatrix("abc", [caught, survivor])).to_markdown()
    lines = text.splitlines()
    assert lines[:3] == ["# my relu", "", "**Failed.** 2 rows: 1 as good, 1 another function"]
    table = [line.split(" | ") for line in lines if line.startswith("| relu")]
    assert len(table) == 1  # the failures of a group stand for it
    assert len(table[0]) == len(lines[4].split(" | "))
    assert table[0][-1].startswith("another function a note |")
    assert "1 of 2 planted bugs are caught (settings abc)." in lines
    assert "- survives: relu, slope | 1.01" in lines


def test_a_row_that_passes_says_how_far_the_nearest_bug_is() -> None:
    near = {"margin": 12.5, "nearest": "slope 1.01"}
    said = "(12.5 bounds from the bug: slope 1.01)"
    assert said in printed(Report([replace(GOOD, **near)]))
    assert said not in printed(Report([replace(BAD, **near)]))  # it is one


def test_many_failures_of_a_kind_are_one_line() -> None:
    many = Report([replace(BAD, case=f"case {i}") for i in range(12)] + [GOOD])
    with pytest.raises(AssertionError) as caught:
        many.raise_if_failed()
    assert len(str(caught.value).splitlines()) == 1
    for text in (str(caught.value), printed(many, failures_only=True)):
        assert "case 0" in text
        assert "(the first of 12)" in text
        assert "case 1" not in text
    assert "case 11" in printed(many, failures_only=True, every=True)
    few = Report([replace(BAD, case=f"case {i}") for i in range(3)])
    assert "case 2" in printed(few, failures_only=True)


def test_the_planted_bugs_are_counted_below() -> None:
    kill = Kill("relu", "zeros", "trivial candidate", "quick", [BAD])
    text = printed(Report([GOOD], kills=KillMatrix("abc", [kill, replace(kill, caught=[])])))
    assert "1 of 2 planted bugs are caught by these checks" in text


def test_a_bar_does_not_split_a_cell() -> None:
    assert r"a\|b" in Report([replace(BAD, note="a|b")]).to_markdown()
