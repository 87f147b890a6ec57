"""`make` sets up an environment once, and says in one line what stops it.

The interpreter and pip are stand-ins, so that nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VERSION = "{}.{}".format(*sys.version_info[:2])
FROM_OUTSIDE = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON", "VENV", "CONFIG", "ARGS"}

# Stands for the environment's Python: has pip, notes each installation.
WITH_PIP = """#!/bin/sh
case "$*" in *install*) echo "$*" >> "{log}"; echo "pip is at work"; exit {status};; esac
"""
# Stands for PYTHON=...: makes an environment that consists of the stand-in above.
MAKES_VENV = """#!/bin/sh
case "$*" in "-m venv "*) mkdir -p "$3/bin"; cp "{python}" "$3/bin/python"; exit;; esac
exec "{real}" "$@"
"""
WITHOUT_ENSUREPIP = """#!/bin/sh
case "$*" in *ensurepip*) echo "ModuleNotFoundError: ensurepip" >&2; exit 1;; esac
exec "{real}" "$@"
"""
TOO_OLD = """#!/bin/sh
case "$*" in *%d.%d*) echo 3.9;; *) echo;; esac
"""


def script(path: Path, text: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(**values) if values else text, encoding="utf-8")
    path.chmod(0o755)
    return path


def make(venv: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in FROM_OUTSIDE}
    command = ["make", "--no-print-directory", "-C", ROOT, f"VENV={venv}", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    return tmp_path / "venv"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "pip.log"


@pytest.fixture
def python(tmp_path: Path, log: Path) -> Path:
    """A Python that makes environments whose pip succeeds."""
    inner = script(tmp_path / "inner", WITH_PIP, log=log, status=0)
    return script(tmp_path / "python", MAKES_VENV, python=inner, real=sys.executable)


def test_help_is_the_default_and_lists_every_target(venv: Path) -> None:
    shown = make(venv)
    assert shown.returncode == 0
    for target in ("train", "test", "verify", "accuracy", "lint", "clean"):
        assert f"make {target}" in shown.stdout
    assert not venv.exists()


@pytest.mark.parametrize(
    ("interpreter", "words"),
    [
        ("no-such-python", ["3.11 or later", "'no-such-python' does not run", "PYTHON="]),
        (TOO_OLD, ["3.11 or later", "is Python 3.9", "PYTHON="]),
        (WITHOUT_ENSUREPIP, ["lacks ensurepip", f"apt install python{VERSION}-venv"]),
    ],
    ids=["missing", "too old", "without ensurepip"],
)
def test_an_unusable_python_is_one_line(
    venv: Path, tmp_path: Path, interpreter: str, words: list[str]
) -> None:
    if interpreter.startswith("#!"):
        values = {"real": sys.executable} if "{real}" in interpreter else {}
        interpreter = str(script(tmp_path / "python", interpreter, **values))
    refused = make(venv, "train", f"PYTHON={interpreter}")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert len(refused.stderr.splitlines()) == 1
    assert all(word in refused.stderr for word in words), refused.stderr
    assert not venv.exists()


def test_the_environment_is_made_and_installed_once(venv: Path, python: Path, log: Path) -> None:
    for _ in range(2):
        made = make(venv, "setup", f"PYTHON={python}")
        assert made.returncode == 0, made.stderr
    assert log.read_text("utf-8").splitlines() == [
        "-m pip --disable-pip-version-check --no-input install -e .[dev]"
    ]


def test_a_second_train_only_trains(venv: Path, python: Path) -> None:
    make(venv, "setup", f"PYTHON={python}")
    planned = make(venv, "-n", "train", "CONFIG=conv", "ARGS=--trainer.max_epochs 1")
    command = f"{venv}/bin/python scripts/train.py fit --config conv --trainer.max_epochs 1"
    assert planned.stdout.splitlines() == [command]


def test_changed_requirements_are_installed_again(venv: Path, python: Path) -> None:
    make(venv, "setup", f"PYTHON={python}")
    os.utime(venv / ".installed", (0, 0))  # older than pyproject.toml and constraints.txt
    assert "install -e" in make(venv, "-n", "train").stdout


def test_a_failed_installation_is_shown_and_tried_again(venv: Path, log: Path) -> None:
    pip = script(venv / "bin/python", WITH_PIP, log=log, status=1)
    for _ in range(2):
        failed = make(venv, "setup")
        assert failed.returncode == 2
        assert "pip is at work" in failed.stderr
        assert not (venv / ".installed").exists()
    script(pip, WITH_PIP, log=log, status=0)
    assert make(venv, "setup").returncode == 0
    assert len(log.read_text("utf-8").splitlines()) == 3


def test_a_half_made_environment_is_completed(venv: Path, python: Path) -> None:
    script(venv / "bin/python", "#!/bin/sh\nexit 1\n")  # as left by an interrupted `-m venv`
    assert make(venv, "setup", f"PYTHON={python}").returncode == 0
    assert (venv / ".installed").exists()
