"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.cli import main
from verification.__main__ import main as verification

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
COMMANDS = re.findall(r"^python -m lightning_modules (fit .*?)(?: +#.*)?$", README, re.MULTILINE)


SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def snippet(piece: str) -> str:
    (code,) = [code for code in SNIPPETS if piece in code]
    return str(code)


def test_the_conversion_runs(capsys: pytest.CaptureFixture[str]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    exec(snippet("refnet.convert("), {"model": model})
    assert "1 swapped" in capsys.readouterr().out
    assert type(model[0]) is torch.nn.Linear


def test_the_trainer_with_the_plugin_is_accepted() -> None:
    namespace: dict[str, object] = {"pl": pl}
    exec(snippet("RefnetSyncBatchNorm"), namespace)
    assert isinstance(namespace["trainer"], pl.Trainer)


def test_the_op_of_ones_own_is_told_what_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(snippet("def my_relu"))
    (command,) = re.findall(r"^python -m verification (op mine.*)$", README, re.MULTILINE)
    assert verification(shlex.split(command)) == 1
    printed = capfd.readouterr().out
    (counts,) = re.findall(r"^349 rows: .*$", README, re.MULTILINE)
    assert counts in printed
    (repeat,) = re.findall(r"repeat: +(python .* --case '0, inf, NaN' .*)", README)
    assert repeat in printed
    assert verification(shlex.split(repeat)[3:]) == 1


def test_the_public_functions_run() -> None:
    namespace: dict[str, Any] = {"torch": torch, "my_batch_norm": torch.nn.functional.batch_norm}
    exec(snippet("from verification import verify_op"), namespace)
    assert namespace["report"].passed
    namespace["test_my_batch_norm"](namespace["verify_op"])


def test_every_snippet_is_run_here() -> None:
    assert len(SNIPPETS) == 5


def test_the_module_trains() -> None:
    namespace: dict[str, type[pl.LightningModule]] = {}
    exec(snippet("class Net"), namespace)
    data = TensorDataset(torch.randn(64, 8, 8), torch.arange(64) % 10)
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = namespace["Net"]()
    before = model.net[0].weight.detach().clone()
    trainer.fit(model, DataLoader(data, batch_size=16))
    assert not torch.equal(before, model.net[0].weight)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--help" not in c])
def test_the_training_commands_are_understood(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(command), "--print_config"])
    assert stopped.value.code == 0
    assert "class_path: lightning_modules" in capsys.readouterr().out


def test_there_are_training_commands() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_make_targets_exist(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).is_file(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^|`)(?:time )?make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for script in re.findall(r"(?:scripts|refnet|verification|tests)/[\w/]+\.\w+", text):
        assert (ROOT / script).is_file(), script
