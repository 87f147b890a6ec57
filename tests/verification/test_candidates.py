"""Candidates by name: files alone, files of packages, and what cannot be loaded."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from verification.candidates import NotFound, load, name_of

FILES = {
    "code/my_own/__init__.py": "top = 1\n",
    "code/my_own/ops/__init__.py": "from .shapes import side\ndef area():\n    return 9 * side()\n",
    "code/my_own/ops/shapes.py": "from .. import top\ndef side():\n    return top + 2\n",
    "code/my_own/broken.py": "from .nothing import at_all\n",
    "code/alone.py": "from beside import number\ndef f():\n    return number\n",
    "code/beside.py": "number = 5\n",
    "other/my_own/__init__.py": "",
    "other/my_own/ops/__init__.py": "",
    "other/my_own/ops/shapes.py": "def side():\n    return 0\n",
}
NAMES = ("my_own", "alone", "beside")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in NAMES]:
        del sys.modules[name]


def test_a_file_of_a_package_may_import_its_neighbours() -> None:
    side = load("code/my_own/ops/shapes.py:side")
    assert side() == 3
    assert side.__module__ == "my_own.ops.shapes"  # so that it can be pickled
    assert load("code/my_own/ops/shapes.py:side") is side
    assert load("code/my_own/ops/__init__.py:area")() == 27


def test_a_file_alone_has_its_neighbours_too() -> None:
    assert load("code/alone.py:f")() == 5


def test_what_only_this_process_would_import_has_a_path() -> None:
    sys.path[1:1] = [str(Path("code").resolve())]  # as pytest puts a test's folder there
    assert name_of(importlib.import_module("alone").f) == "code/alone.py:f"
    assert name_of(load) == "verification.candidates:load"


def test_a_file_of_a_package_is_found_again_by_another_process() -> None:
    name = name_of(load("code/my_own/ops/shapes.py:side"))
    assert name == "code/my_own/ops/shapes.py:side"
    code = f"from verification.candidates import load; print(load({name!r})())"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert found.stdout == "3\n"


def test_what_is_wrong_is_said() -> None:
    load("code/my_own/ops/shapes.py:side")
    with pytest.raises(NotFound, match=r"another module my_own\.ops\.shapes, .*; rename one"):
        load("other/my_own/ops/shapes.py:side")
    with pytest.raises(NotFound, match=r"broken\.py: ModuleNotFoundError: No module named 'my_own"):
        load("code/my_own/broken.py:f")
    with pytest.raises(NotFound, match=r"shapes\.py has no 'corner'"):
        load("code/my_own/ops/shapes.py:corner")
