"""One short training through the command line, shared by the tests that look at what it left."""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightning_modules.cli import TrainCLI, main


@dataclass(frozen=True)
class Run:
    cli: TrainCLI
    output: str
    root: Path
    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("training")
    before = Path.cwd()
    os.chdir(root)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            cli = main(["fit", "--config", "mlp", "--trainer.max_epochs", "2"])
    finally:
        os.chdir(before)
    return Run(cli, output.getvalue(), root, root / "runs" / "mlp" / "version_0")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
