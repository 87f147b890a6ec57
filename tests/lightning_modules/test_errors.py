from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightning_modules.cli import main

FIT = "fit --config mlp "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "subcommand"),
        ("fitt", "invalid choice: 'fitt'"),
        ("fit", "fit needs --config: a file or one of conv, mlp"),
        ("fit --config mpl", "'mpl' is no file and none of the packaged .*: conv, mlp"),
        ("fit --config broken.yaml", "parsing"),
        ("fit --config unknown.yaml", "does not accept option 'modell.net'"),
        (FIT + "extra", "unrecognized arguments: extra"),
        (FIT + "--modle.net 3", "unrecognized arguments: --modle.net"),
        (FIT + "--model.optimizer.lrr 0.1", "--model.optimizer: Option 'lrr' is not accepted"),
        (FIT + "--model.optimizer.lr abc", "--model.optimizer.lr: Expected a float.*abc"),
        (FIT + "--model.optimizer.lr -1", "nvalid learning rate: -1"),
        (FIT + "--model.optimizer refnet.optim.Adamm", "has no attribute 'Adamm'"),
        (FIT + "--model.optimizer Adamm", "Adamm is not a class path"),
        (FIT + "--model.optimizer torch.nn.Linear", "to be a subclass of Optimizer"),
        (FIT + "--model.lr_scheduler refnet.optim.lr_scheduler.No", "has no attribute 'No'"),
        (FIT + "--model.lr_scheduler.gamma -2", "nvalid gamma: -2"),
        (FIT + "--model.net.dropot 0.1", "--model.net: .*Option 'dropot' is not accepted"),
        (FIT + "--model.net.dropout 2", "between 0 and 1, but got 2"),
        (FIT + "--model.net.dropout abc", "--model.net.dropout: .*Expected a float.*abc"),
        (FIT + "--model.net.hidden [0]", r"hidden must be at least 1, got \[0\]"),
        (FIT + "--model.net lightning_modules.No", "has no attribute 'No'"),
        (FIT + "--model.implementation jax", "--model.implementation: .*'refnet', 'torch'.*jax"),
        (FIT + "--model.label_smoothing 3", r"label_smoothing must be in \[0, 1\], got 3"),
        (FIT + "--data.batch_size 0", "--data.batch_size must be at least 1, got 0"),
        (FIT + "--data.batch_size 1", "batch_size 1: batch norm needs 2"),
        (FIT + "--data.train 0.9 --data.dev 0.2", "--data: .* at most 1, got train=0.9 . dev=0.2"),
        (FIT + "--data.train 1", "--data.train=1.0 leaves nothing for the dev set"),
        (FIT + "--data.subset 0.001", "--data.subset=0.001 leaves 1 of 1257"),
        (FIT + "--data.augment.shift -1", "--data.augment.shift must be"),
        (
            FIT + "--data CSVDataModule --data.path no.csv --data.target y",
            "--data.path: can't read no",
        ),
        (FIT + "--data ImageFolderDataModule --data.path no", "--data.path: no is no folder"),
        (FIT + "--data ArraysDataModule --data.path no.npz", "--data.path: no file at 'no.npz'"),
        (
            FIT + "--data ArraysDataModule --data.path a.npz --data.x z",
            "--data.x: no array 'z' in a",
        ),
        (FIT + "--data ArraysDataModule --data.path a.npz", "--data: the inputs must be images"),
        (FIT + "--trainer.max_epochs 0", "--trainer.max_epochs 0 leaves nothing to train"),
        (FIT + "--trainer.limit_train_batches 0", "--trainer.limit_train_batches 0 leaves nothing"),
        (FIT + "--trainer.max_epochs x", "--trainer.max_epochs: Expected a int.*x"),
        (FIT + "--trainer.accelerator cuda:99", "cuda:99"),
        (FIT + "--threads 0", "--threads: .*0"),
        (FIT + "--early_stopping.monitor dev_los", "monitor must be one of dev_loss.*dev_los"),
        (FIT + "--checkpoint.monitor dev_acc", "dev_acc needs --checkpoint.mode max, got min"),
        (FIT + "--seed_everything -1", "--seed_everything must be .*got -1"),
        (
            FIT + "--trainer.default_root_dir broken.yaml",
            "broken.yaml: .*is no folder",
        ),
        (FIT + "--model.num_classes 5", "--model.num_classes 5: the net has 10 outputs"),
        (FIT + "--model.net.in_features 10", "--model.net can't take images"),
        (
            FIT + "--model.lr_scheduler pytorch_lightning.cli.ReduceLROnPlateau "
            "--model.lr_scheduler.monitor dev_losss",
            "--model.lr_scheduler.monitor must be one of dev_loss.*got dev_losss",
        ),
        ("fit --config binary.yaml", "'binary.yaml' is no readable UTF-8 text"),
        ("validate --config mlp", "validate needs --ckpt_path"),
        ("test --config mlp --ckpt_path no.ckpt", "no checkpoint file at 'no.ckpt'"),
        ("test --ckpt_path no.ckpt", "no checkpoint file at 'no.ckpt'"),
        ("test --config mlp --ckpt_path best", "no run with a checkpoint in runs/mlp"),
        ("test --config mlp --ckpt_path broken.yaml", "broken.yaml is not a readable checkpoint"),
    ],
)
def test_a_mistake_gets_a_line_or_two(
    line: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "broken.yaml").write_text("model: [1,\n b")
    np.savez(here / "a.npz", x=[0, 1], y=[0, 1])
    (here / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (here / "unknown.yaml").write_text("modell:\n  net: 3\n")
    check(line, message, capsys)
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test --config conv --ckpt_path {}", r"holds another net: \d+ tensors differ, such as"),
        ("test --data.test 0 --ckpt_path {}", "test: there is no test set|another split"),
        ("test --config mlp --data.seed 5 --ckpt_path {}", "another split|trained on the split"),
        ("fit --ckpt_path {}", "has finished 2 epochs: .* larger --trainer.max_epochs than 2"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    line: str, message: str, run: Any, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(line.format(shlex.quote(str(run.checkpoints / "last.ckpt"))), message, capsys)


def check(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(shlex.split(line))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) <= 2
    first = said.splitlines()[0]
    assert first.startswith("error: ")
    assert re.search(message, first), first


def test_a_bug_keeps_its_traceback(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "buggy.py").write_text(
        "from torch import nn\n"
        "class Building(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.x = [][1]\n"
        "class Running(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(64, 10)\n"
        "    def forward(self, x):\n"
        "        raise ValueError('a bug')\n"
    )
    monkeypatch.syspath_prepend(here)
    with pytest.raises(IndexError):
        main(["fit", "--model.net", "buggy.Building"])
    with pytest.raises(ValueError, match="a bug"):
        main(["fit", "--model.net", "buggy.Running", "--trainer.max_epochs", "1"])


def test_the_switch_shows_where_a_value_was_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEBUG", "true")
    with pytest.raises(ValueError, match="between 0 and 1"):
        main(shlex.split(FIT + "--model.net.dropout 2"))


@pytest.mark.parametrize("entry", ["scripts/train.py", "lightning_modules/__main__.py"])
def test_both_entries_take_the_command_line(
    entry: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(__file__).parents[2] / entry
    monkeypatch.setattr("sys.argv", [entry, "fit", "--config", "mpl"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(file), run_name="__main__")
    assert "'mpl' is no file" in capsys.readouterr().err
