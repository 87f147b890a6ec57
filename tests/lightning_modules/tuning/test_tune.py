"""The command: a study from nothing to the configuration that fit takes as it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.image import imread
from pytorch_lightning import Trainer

from lightning_modules import MLP, Classifier, DigitsDataModule
from lightning_modules.cli import main as train
from lightning_modules.tuning.__main__ import check, main
from lightning_modules.tuning.objective import Settings, run
from lightning_modules.tuning.prune import ReportAndPrune, watching
from lightning_modules.tuning.space import find_space

SMALL = ["--config", "small.yaml", "--space", "space.yaml", "--epochs", "2", "--pruner", "none"]


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    config = {
        "model": {"net": {"class_path": "lightning_modules.MLP", "init_args": {"hidden": [8]}}},
        "trainer": {"limit_train_batches": 3, "max_epochs": 1},
    }
    Path("small.yaml").write_text(yaml.safe_dump(config))
    space = {"α": {"key": "model.optimizer.lr", "low": 0.001, "high": 0.1, "scale": "log"}}
    Path("space.yaml").write_text(yaml.safe_dump(space, allow_unicode=True))
    return tmp_path / "runs" / "tune" / "small"


def test_a_study_ends_in_a_configuration(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--trials", "3"]) == 0
    said = capsys.readouterr().out
    assert said.count("complete  dev_loss") == 3
    trials = pd.read_csv(small / "trials.csv")
    assert trials["number"].tolist() == [0, 1, 2]
    assert trials["params_α"].is_unique
    for name in ("history", "slices", "parallel", "epochs"):
        assert min(imread(small / f"{name}.png").shape[:2]) >= 250
    for number in range(3):
        run = small / "trials" / f"{number:04}" / "version_0"
        assert (run / "metrics.csv").is_file()
        assert not (run / "confusion_test.png").exists()
        assert not (run / "checkpoints").exists()
        assert "not read" in (small / "trials" / f"{number:04}.txt").read_text()
    # The configuration trains to the very number that was found.
    cli = train(["fit", "--config", str(small / "best.yaml"), "--read_test", "false"])
    assert float(cli.trainer.checkpoint_callback.best_model_score) == trials["value"].min()
    assert cli.summary is not None
    best = trials.loc[trials["value"].idxmin()]
    assert cli.summary.dev_error == pytest.approx(best["user_attrs_dev_error"])
    assert main(["--study", "small", "--resume", "--trials", "3"]) == 0
    assert "3 trials of 2 epochs, 3 are there" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*SMALL, "--seed", "1"])
    assert "another seed: give another --study" in capsys.readouterr().err


def test_the_dev_error_chooses_epochs_too() -> None:
    space = {"α": {"key": "model.optimizer.lr", "low": 0.001, "high": 0.1}}
    settings = Settings({}, space, 7, "dev_error", 0, "random", "none", 1, 9, 2)
    assert settings.configuration({"α": 0.1}) == {
        "model": {"optimizer": {"lr": 0.1}},
        "trainer": {"max_epochs": 7},
        "checkpoint": {"monitor": "dev_acc", "mode": "max"},
    }


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_shipped_spaces_fit_their_configurations(name: str, tmp_path: Path) -> None:
    from lightning_modules.files import find_config

    base = yaml.safe_load(find_config(name).read_text())
    space = yaml.safe_load(find_space(None, name).read_text())
    check(Settings(base, space, 1, "dev_loss", 0, "random", "none", 1, 9, 2), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_is_terminated_is_no_failed_one(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classifier, "on_train_start", lambda self: terminate())
    with pytest.raises(KeyboardInterrupt):
        run(Path("small.yaml").absolute())


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)  # Lightning's handler takes it


MISTAKES: list[tuple[list[str], str]] = [
    (["--config", "nothing"], "'nothing'"),
    (["--space", "nothing"], "no search space 'nothing'"),
    (["--trials", "0"], "must be a whole number of at least 1, got 0"),
    (["--best", "1"], "at least 2, got 1"),
    (["--resume"], "--resume: there is no study in"),
    (["--storage", "nowhere"], "--storage nowhere: "),
    (["--study", ".."], "--study must be a name, not a path, got '..'"),
    (["--study", "a/b"], "--study must be a name, not a path, got 'a/b'"),
    (["--study", ""], "--study must be a name, not a path, got ''"),
    (["--config", "wrong.yaml"], "--config wrong.yaml: "),
    (["--space", "wrong_key.yaml"], "momentum"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES)
def test_mistakes_are_explained(
    small: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    Path("wrong.yaml").write_text("a: [")
    Path("wrong_key.yaml").write_text("m: {key: model.optimizer.momentum, low: 0, high: 1}")
    with pytest.raises(SystemExit) as stopped:
        main([*SMALL, *args])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_help_shows_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "--workers 2" in said
    assert "goes on with the same command" in said


def fit(trial: Any, rate: float, epochs: int) -> Any:
    torch.manual_seed(0)
    model = Classifier(MLP(hidden=[8]), optimizer=lambda p: torch.optim.SGD(p, lr=rate))
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False}
    options |= {"enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=epochs, limit_train_batches=2, callbacks=[ReportAndPrune()], **options
    )
    with watching(trial, "dev_loss") as watched:
        trainer.fit(model, DigitsDataModule())
    return watched


class Impatient(optuna.pruners.BasePruner):
    def prune(self, study: Any, trial: Any) -> bool:
        return len(trial.intermediate_values) == 2


def test_what_does_badly_is_pruned() -> None:
    study = optuna.create_study(pruner=Impatient())
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned, match="after 2 epochs"):
        fit(trial, 0.1, epochs=3)
    values = study.trials[0].intermediate_values
    assert list(values) == [1, 2]
    assert values[2] <= values[1]


def test_a_loss_that_is_no_number_is_pruned() -> None:
    trial = optuna.create_study(pruner=optuna.pruners.NopPruner()).ask()
    with pytest.raises(optuna.TrialPruned, match=r"dev_loss is (nan|inf)"):
        fit(trial, 1e30, epochs=3)


def test_importing_the_package_leaves_optuna_alone() -> None:
    packages = "lightning_modules, lightning_modules.tuning, lightning_modules.tuning.space"
    code = f"import {packages}, sys; assert 'optuna' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
