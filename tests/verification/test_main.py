"""`python -m verification`: exit codes, what is printed, what is written."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from verification import suite
from verification.__main__ import main
from verification.parts import run_here
from verification.report import Row
from verification.suite import Part

Capture = pytest.CaptureFixture[str]

GOOD = Row("good", "case", "output", "float64", 0.0, 0.0, 1e-11, "1e-11", "as good")
BAD = replace(GOOD, subject="bad", verdict="another function", note="half the γ")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("verification.commands.suite.CORES", 1)  # where the suite is replaced
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
    first, second = {"quick": True, "device": "cpu"}, {"quick": False, "device": "cpu:0"}
    assert seen == [first, first, second, second]  # for the names, and to run them


def test_the_real_command_prints_the_rows_of_an_op(here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "verification", "relu", "--quick"],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert re.fullmatch(r"relu\ntook \d+\.\d s\n", done.stderr)  # the part that runs, for log files
    lines = done.stdout.splitlines()
    rows = [line for line in lines if line.startswith("relu: ")]
    assert "our error" in lines[0]
    assert any("bitwise" in row and "tightest of" in row for row in rows)
    assert any("89 pairs" in row for row in rows)
    assert lines[-2].startswith(f"{len(written())} rows: ")
    assert lines[-1] == "JSON: results/verification.json"


def test_every_row_on_demand(small: list[str], capsys: Capture) -> None:
    many = Part("many", 1, lambda: iter([[replace(GOOD, case=f"case {i}") for i in range(200)]]))
    for arguments, count in (([], 1), (["--rows"], 200)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(suite, "parts", lambda **_: [many])
            assert main(arguments) == 0
        assert capsys.readouterr().out.count("good: case") == count


def test_the_parts_run_in_several_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen: list[dict[str, object]] = []

    def apart(make: Callable[[], list[Part]], **options: object) -> list[list[Row]]:
        parts = make()
        seen.append({**options, "names": [part.name for part in parts]})
        return [[GOOD], []]

    monkeypatch.setattr("verification.commands.suite.run_apart", apart)
    assert main(["relu", "tanh", "relu", "--jobs", "8", "--threads", "2"]) == 1
    (options,) = seen
    assert (options["names"], options["jobs"], options["threads"]) == (["relu", "tanh"], 2, 2)
    assert list(options["order"]) == [1, 0]  # type: ignore[call-overload]
    assert "nothing was checked" in capsys.readouterr().out
    assert written() == ["good", "tanh"]  # a part without rows fails


def test_suite_is_a_command_too(small: list[str]) -> None:
    assert main(["suite", "good"]) == 0
    assert small == ["good"]


def test_html_goes_to_a_file(small: list[str], capsys: Capture) -> None:
    assert main(["good", "--html", "a/page.html"]) == 0
    assert "<html" in Path("a/page.html").read_text("utf-8")
    assert "HTML: a/page.html" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["mutants", "false-alarms", "models"])
def test_commands_of_other_modules_get_their_arguments(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    class Module:
        @staticmethod
        def main(arguments: list[str]) -> int:
            seen.append(arguments)
            return 5

    monkeypatch.setattr("verification.__main__.import_module", {MODULES[name]: Module}.__getitem__)
    assert main([name, "--quick", "x"]) == 5
    assert seen == [["--quick", "x"]]


MODULES = {
    "mutants": "verification.mutants.kill_matrix",
    "false-alarms": "verification.false_alarms.command",
    "models": "verification.models",
}


@pytest.mark.parametrize("command", ["op", "optimizer"])
def test_every_command_has_a_help_with_examples(command: str, capsys: Capture) -> None:
    for arguments in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
        assert f"python -m verification {command} " in capsys.readouterr().out


MINE = """\
import os
import torch

def relu(input, inplace=False):
    return torch.relu_(input) if inplace else torch.relu(input)

def leaky(input, inplace=False):
    return torch.where(input > 0, input, 0.01 * input)

class SGD(torch.optim.SGD):
    pass

def chatty(input, inplace=False):
    print("here I am")
    os.write(2, b"and here\\n")  # as compiled code does
    return relu(input, inplace)

number = 3
print("imported")
"""


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's file, in a folder whose name a shell would split."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (here / "my ops").mkdir()
    (here / "my ops" / "mine_of_the_user.py").write_text(MINE)
    yield "my ops/mine_of_the_user.py"
    sys.modules.pop("mine_of_the_user", None)


@pytest.fixture
def within(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run what has processes of its own within this one: the tests of those are elsewhere."""

    def apart(make: Callable[[], list[Part]], **options: Any) -> list[list[Row]]:
        return run_here(make(), limit=options["limit"])

    monkeypatch.setattr("verification.commands.candidate.run_apart", apart)


def test_the_real_command_runs_a_users_op(mine: str) -> None:
    words = ["op", f"{mine}:leaky", "--like", "relu", "--case", "easy"]
    done = subprocess.run(
        [sys.executable, "-m", "verification", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert re.fullmatch(r"took \d+\.\d s\n", done.stderr)
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert any(line.startswith("smallest: dims=1 ") for line in lines)


def test_what_a_candidate_prints_is_counted_or_shown(mine: str, capfd: Any) -> None:
    words = ["op", f"{mine}:chatty", "--like", "relu", "--case", "easy"]
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "here" not in out + err
    (said,) = [line for line in out.splitlines() if "--show-output" in line]
    assert said.startswith(f"{mine}:chatty printed ")
    lines = int(said.partition(" printed ")[2].split()[0])
    sys.modules.pop("mine_of_the_user")
    assert main([*words, "--show-output"]) == 0
    out, err = capfd.readouterr()
    shown = [out.count(text) for text in ("imported", "here I am", "and here")]
    assert (shown[0], sum(shown)) == (2, lines)  # once here, once in the process
    assert shown[1] == shown[2] > 5
    assert "--show-output" not in out


@pytest.mark.usefixtures("within")
def test_the_command_that_is_printed_repeats_the_failure(mine: str, capsys: Capture) -> None:
    words = ["op", f"{mine}:leaky", "--like", "relu", "--case", "0, inf, NaN", "--json", "1"]
    assert main(words) == 1
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    repeats = [line.removeprefix("repeat:").strip() for line in lines if line.startswith("repeat")]
    assert repeats[0].startswith(f"python -m verification op '{mine}:leaky' --like relu --case")
    row = json.loads(Path("1").read_text("utf-8"))["rows"][0]
    again = shlex.split(row["repeat"])
    assert again[:3] == ["python", "-m", "verification"]
    assert main([*again[3:], "--json", "2", "--no-shrink"]) == 1
    found = json.loads(Path("2").read_text("utf-8"))["rows"]
    same = ("case", "quantity", "dtype", "seed", "error", "verdict")
    assert [row[name] for name in same] in [[other[name] for name in same] for other in found]
    smallest = shlex.split(repeats[1])
    assert smallest[4] == f"{mine}:leaky"
    assert main([*smallest[3:], "--no-shrink"]) == 1


@pytest.mark.usefixtures("within")
def test_a_right_optimizer_exits_with_0(mine: str, capsys: Capture) -> None:
    words = ["optimizer", f"{mine}:SGD", "--like", "SGD", "--case", "lr=0.1", "--html", "p"]
    assert main(words) == 0
    assert "repeat" not in capsys.readouterr().out
    assert "<html" in Path("p").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.such:relu"], "cannot import no.such: ModuleNotFoundError: No module named 'no'"),
        (["my ops/none.py:relu"], "there is no file my ops/none.py"),
        (["{mine}:none"], "{mine} has no 'none'"),
        (["{mine}:number"], "candidate must be callable, got 3"),
        (["relu"], "expected module:name or path/to/file.py:name, got 'relu'"),
        (["{mine}:relu", "--like", "gelu"], "like must be one of batch_norm, BatchNorm, "),
        (["{mine}:relu", "--profile", "fast"], "profile must be one of quick, full, got 'fast'"),
        (["{mine}:relu", "--dtype", "int8"], "dtypes must be one of float64, "),
        (["{mine}:relu", "--seeds", "0"], "seeds must be at least 1, got 0"),
        (["{mine}:relu", "--seeds", "-3"], "seeds must be at least 1, got -3"),
        (["{mine}:relu", "--seed", "-1"], "seeds must be at least one, none below 0, got [-1]"),
        (["{mine}:relu", "--time-limit", "-1"], "time_limit must be a positive number, got -1.0"),
        (["{mine}:relu", "--case", "none"], "cases='none' is none of the cases of relu"),
        (["{mine}:relu", "--device", "banana"], "--device banana: Expected one of cpu"),
        (["{mine}:relu", "--json", "."], "--json .: Is a directory"),
    ],
)
def test_wrong_usage_of_op_is_one_line(
    arguments: list[str],
    message: str,
    mine: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nothing(make: Callable[[], list[Part]], **options: Any) -> list[list[Row]]:
        return [[] for _ in make()]

    monkeypatch.setattr("verification.commands.candidate.run_apart", nothing)
    words = [word.format(mine=mine) for word in arguments]
    assert main(["op", *([] if "--like" in words else ["--like", "relu"]), *words]) == 2
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith(f"python -m verification: {message.format(mine=mine)}")
    assert len(found.err.splitlines()) == 1
