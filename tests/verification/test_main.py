"""`python -m verification`: exit codes, what is printed, what is written."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from verification import suite
from verification.__main__ import main
from verification.report import Row
from verification.suite import Part

Capture = pytest.CaptureFixture[str]

GOOD = Row("good", "case", "output", "float64", 0.0, 0.0, 1e-11, "1e-11", "as good")
BAD = replace(GOOD, subject="bad", verdict="another function", note="half the γ")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A suite of two parts; the list tells which have run."""
    ran: list[str] = []

    def part(row: Row) -> Part:
        def start() -> Iterator[list[Row]]:
            ran.append(row.subject)
            yield [row]

        return Part(row.subject, 1, start)

    monkeypatch.setattr(suite, "parts", lambda **_: [part(GOOD), part(BAD)])
    return ran


def written(path: str = "results/verification.json") -> list[str]:
    return [row["subject"] for row in json.loads(Path(path).read_text("utf-8"))["rows"]]


@pytest.mark.parametrize(
    ("names", "code", "ran"),
    [
        (["good"], 0, ["good"]),
        (["bad"], 1, ["bad"]),
        (["bad", "good"], 1, ["bad", "good"]),
        ([], 1, ["good", "bad"]),
    ],
)
def test_the_exit_code_tells_of_a_failure(
    names: list[str],
    code: int,
    ran: list[str],
    small: list[str],
    capsys: Capture,
) -> None:
    assert main(names) == code
    assert small == written() == ran
    out = capsys.readouterr().out
    assert all(f"{name}: case" in out for name in ran)
    assert "JSON: results/verification.json" in out


def test_a_crash_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def crash() -> Iterator[list[Row]]:
        raise ValueError("no such number")

    monkeypatch.setattr(suite, "parts", lambda **_: [Part("bad", 1, crash)])
    assert main([]) == 1
    assert "no such number" in " ".join(capsys.readouterr().out.split())


def test_warnings_are_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def warning() -> Iterator[list[Row]]:
        warnings.warn("an edge case", stacklevel=1)
        yield [GOOD]

    monkeypatch.setattr(suite, "parts", lambda **_: [Part("good", 1, warning)])
    assert main([]) == 0


def test_a_suite_without_parts_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "parts", lambda **_: [])
    assert main([]) == 1


def test_failures_only(small: list[str], capsys: Capture) -> None:
    assert main(["--failures"]) == 1
    out = capsys.readouterr().out
    assert "bad: case" in out
    assert "good: case" not in out
    assert "2 rows: 1 as good, 1 another function" in out
    assert written() == ["good", "bad"]  # the file has them all


def test_list(small: list[str], capsys: Capture) -> None:
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.split() == ["good", "bad"]
    assert small == []
    assert not Path("results").exists()


def test_json_goes_where_it_is_told(small: list[str]) -> None:
    assert main(["good", "--json", "a/b/c.json"]) == 0
    assert written("a/b/c.json") == ["good"]
    assert not Path("results").exists()
    assert main(["bad", "--json", "a/b/c.json"]) == 1
    assert written("a/b/c.json") == ["bad"]


def test_the_table_of_the_transforms_is_printed_and_goes_to_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    cell = replace(BAD, subject="relu", case="vmap", quantity="support", verdict="worse")
    found = [Part("good", 1, lambda: iter([[GOOD]])), Part("transforms", 1, lambda: iter([[cell]]))]
    monkeypatch.setattr(suite, "parts", lambda **_: found)
    assert main(["--markdown", "a/table.md"]) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    table = [line.split() for line in lines].index(["transform", "relu"])
    assert lines[table + 1].split() == ["vmap", "−"]
    assert "− vmap of relu: half the γ" in lines[table + 2 :]
    assert lines[-1] == "Markdown: a/table.md"
    text = Path("a/table.md").read_text("utf-8").splitlines()
    assert text[0] == "# What every op supports"
    assert "| vmap | − |" in text
    assert "- − vmap of relu: ``half the γ``" in text


@pytest.mark.parametrize(
    ("path", "message"),
    [("folder", "Is a directory"), ("file/x.md", "File exists (file)")],
)
def test_a_markdown_file_that_cannot_be_written_exits_with_2(
    path: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("folder").mkdir()
    Path("file").write_text("kept")
    monkeypatch.setattr(suite, "parts", lambda **_: [Part("transforms", 1, lambda: iter([[GOOD]]))])
    assert main(["--markdown", path]) == 2
    assert f"--markdown {path}: {message}" in capsys.readouterr().err


def test_no_table_without_the_part(small: list[str], capsys: Capture) -> None:
    main(["good"])
    assert "both work" not in capsys.readouterr().out


def test_an_interrupted_run_leaves_the_last_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Iterator[list[Row]]:
        raise KeyboardInterrupt

    monkeypatch.setattr(suite, "parts", lambda **_: [Part("slow", 1, interrupted)])
    Path("last.json").write_text("kept")
    with pytest.raises(KeyboardInterrupt):
        main(["--json", "last.json"])
    assert Path("last.json").read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["relu"], "unknown: relu; there are good, bad"),
        (["good", "x", "y"], "unknown: x, y;"),
        (["--device", "banana"], "--device banana: Expected one of cpu"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--json", "folder"], "--json folder: Is a directory"),
        (["--json", "file/x.json"], "--json file/x.json: File exists (file)"),
        (["--json", "file/x/y.json"], "--json file/x/y.json: Not a directory"),
        (["--json", "a" * 300], "File name too long"),
        (["--markdown", "x.md"], "--markdown x.md: the part transforms has to run"),
    ],
)
def test_wrong_usage_exits_with_2_before_anything_runs(
    arguments: list[str], message: str, small: list[str], capsys: Capture
) -> None:
    Path("folder").mkdir()
    Path("file").write_text("kept")
    assert main(arguments) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("python -m verification: ")
    assert message in found.err
    assert len(found.err.splitlines()) == 1
    assert small == []
    assert Path("file").read_text() == "kept"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_exits_with_2(small: list[str], capsys: Capture) -> None:
    assert main(["--device", "cuda"]) == 2
    assert "--device cuda: " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--device"], ["--threads", "two"]])
def test_unknown_options_exit_with_2(arguments: list[str], small: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_options_are_handed_to_the_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []

    def parts(**options: object) -> list[Part]:
        seen.append(options)
        return [Part("good", 1, lambda: iter([[GOOD]]))]

    monkeypatch.setattr(suite, "parts", parts)
    main(["--quick"])
    main(["--device", "cpu:0"])
    assert seen == [{"quick": True, "device": "cpu"}, {"quick": False, "device": "cpu:0"}]


def test_the_real_command_prints_the_rows_of_an_op(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "verification", "relu", "--quick"],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "relu\n")  # the part that runs, for log files
    lines = done.stdout.splitlines()
    rows = [line for line in lines if line.startswith("relu: ")]
    assert "our error" in lines[0]
    assert any("bitwise" in row and "tightest of" in row for row in rows)
    assert any("79 pairs" in row for row in rows)
    assert lines[-2].startswith(f"{len(written())} rows: ")
    assert lines[-1] == "JSON: results/verification.json"


def test_every_row_on_demand(small: list[str], capsys: Capture) -> None:
    many = Part("many", 1, lambda: iter([[replace(GOOD, case=f"case {i}") for i in range(200)]]))
    for arguments, count in (([], 1), (["--rows"], 200)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(suite, "parts", lambda **_: [many])
            assert main(arguments) == 0
        assert capsys.readouterr().out.count("good: case") == count
