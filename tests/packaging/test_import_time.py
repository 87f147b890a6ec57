"""`import refnet` and `import verification` are cheap: they load none of the heavy packages.

How many seconds that takes is a figure, not a test: `python scripts/import_time.py` prints it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"pytorch_lightning", "jsonargparse", "optuna", "matplotlib", "sklearn", "pandas"}
PRINT_LOADED = "import json, sys, {}; print(json.dumps(sorted(sys.modules)))"


def loaded_by(module: str) -> set[str]:
    command = [sys.executable, "-c", PRINT_LOADED.format(module)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True)
    return set(json.loads(printed.stdout))


@pytest.mark.parametrize("module", ["refnet", "verification"])
def test_import_loads_no_heavy_package(module: str) -> None:
    loaded = loaded_by(module)
    assert module in loaded
    assert not loaded & HEAVY


def test_a_heavy_package_would_be_seen() -> None:
    assert "sklearn" in loaded_by("sklearn") & HEAVY
