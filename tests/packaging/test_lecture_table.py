"""docs/lecture.md names every row of the lecture, and what it names is there."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.cli import main as train
from verification.suite import GROUP, parts

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "lecture.md").read_text()
CELLS = ("code", "golden test", "verification", "command")
ROWS = {
    int(line[0]): dict(zip(CELLS, line[2:], strict=True))
    for line in (
        [cell.strip() for cell in text.strip("|").split(" | ")]
        for text in TEXT.splitlines()
        if re.match(r"\| +\d+ \|", text)
    )
}
COMMANDS = [row["command"].strip("`") for row in ROWS.values()]
COMMANDS += re.findall(r"^python -m .*$", TEXT, re.MULTILINE)
FITS = sorted({c for c in COMMANDS if c.startswith("python -m lightning_modules fit")})
MODULES = sorted({shlex.split(command)[2] for command in COMMANDS})


def entries(cell: str) -> list[tuple[int, str]]:
    """What stands in a column, with its row."""
    return [
        (number, entry)
        for number, row in ROWS.items()
        for entry in re.findall(r"`([^`]+)`|\]\(([^)]+)\)", row[cell])
        for entry in entry
        if entry
    ]


@cache
def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_are_27_rows_and_no_cell_is_empty() -> None:
    assert list(ROWS) == list(range(1, 28))
    for cell in CELLS:
        filled = {number for number, _ in entries(cell)}
        assert set(ROWS) == filled, cell


def test_the_code_is_there() -> None:
    for number, path in entries("code"):
        assert (ROOT / "docs" / path).resolve().is_relative_to(ROOT), (number, path)
        assert (ROOT / "docs" / path).is_file(), (number, path)
    shown = re.findall(r"\[([^\]]+)\]\(\.\./([^)]+)\)", TEXT)
    assert all(name == path for name, path in shown)


def test_the_golden_tests_are_there() -> None:
    for number, test in entries("golden test"):
        path, name = test.split("::")
        assert name in functions_of(ROOT / path), (number, test)


def test_the_suite_knows_the_parts() -> None:
    registered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    known = {part.name for part in parts()} | set(registered[GROUP])
    for number, name in entries("verification"):
        assert name in known, (number, name)
    for command in COMMANDS:
        words = shlex.split(command)
        if words[2] == "verification":
            assert {word for word in words[3:] if word[0] != "-"} <= known, command


def test_registered_suites_can_be_loaded() -> None:
    registered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for value in registered[GROUP].values():
        module, name = value.split(":")
        assert callable(getattr(import_module(module), name))


def help_of(module: str, capsys: pytest.CaptureFixture[str]) -> str:
    is_package = (ROOT / Path(*module.split("."))).is_dir()
    main: Any = import_module(f"{module}.__main__" if is_package else module).main
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("module", MODULES)
def test_the_commands_have_help(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And it names each option that the table gives them."""
    printed = help_of(module, capsys)
    assert f"python -m {module}" in printed
    for command in set(COMMANDS) - set(FITS):
        words = shlex.split(command)
        for option in (word for word in words[3:] if word.startswith("--") and words[2] == module):
            assert option.split(".")[0] in printed, command


@pytest.mark.parametrize("command", FITS)
def test_the_trainings_are_understood(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train([*shlex.split(command)[3:], "--print_config"])
    assert stopped.value.code == 0
    assert "class_path" in capsys.readouterr().out
