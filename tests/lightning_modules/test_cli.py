from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from matplotlib.image import imread
from pytorch_lightning import Trainer

import refnet.nn
import refnet.optim
from lightning_modules import MLP, Classifier, ConvNet
from lightning_modules.callbacks import HowToGoOn
from lightning_modules.cli import main
from lightning_modules.files import command, find_checkpoint, find_config, with_configs
from refnet.optim.lr_scheduler import InverseSqrtDecay

SHORT = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4"]


def fit(*options: str) -> Any:
    return main(["fit", "--config", "mlp", *SHORT, *options])


def test_fit_leaves_everything_in_its_folder(run: Any) -> None:
    names = {str(p.relative_to(run.folder)) for p in run.folder.rglob("*") if p.is_file()}
    assert {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "learning_curves.png",
        "confusion_dev.png",
        "confusion_test.png",
    } <= names
    metrics = pd.read_csv(run.folder / "metrics.csv")
    for column in ("train_loss", "train_acc", "dev_loss", "dev_acc"):
        assert metrics[column].notna().sum() == 2
    rates = metrics["lr-Adam"].dropna().tolist()
    assert rates == pytest.approx([0.003, 0.0027])


@pytest.mark.parametrize("name", ["learning_curves", "confusion_dev", "confusion_test"])
def test_pictures_show_something(run: Any, name: str) -> None:
    picture = imread(run.folder / f"{name}.png")
    assert min(picture.shape[:2]) >= 400
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 100


def test_summary_agrees_with_the_checkpoint(run: Any) -> None:
    summary = json.loads((run.folder / "summary.json").read_text())
    model = Classifier.load_from_checkpoint(run.checkpoints / "best.ckpt").eval()
    for part in ("train", "dev", "test"):
        images, labels = run.cli.datamodule.dataset(part).tensors
        with torch.no_grad():
            wrong = 100 * (model(images).argmax(1) != labels).double().mean().item()
        if part != "test":
            assert summary[f"{part}_error"] == pytest.approx(wrong)
        else:
            assert 100 * (1 - summary["test_accuracy"]) == pytest.approx(wrong)
    assert summary["avoidable_bias"] == summary["train_error"] - summary["human_error"]
    assert summary["variance"] == summary["dev_error"] - summary["train_error"]
    assert summary["dev_accuracy"] > 0.9
    assert (summary["name"], summary["seed"], summary["epochs"]) == ("mlp", 0, 2)


def test_checkpoints_hold_plain_types(run: Any) -> None:
    for name in ("best", "last"):
        saved = torch.load(run.checkpoints / f"{name}.ckpt", weights_only=True)
        assert saved["hyper_parameters"]["net"]["class_path"] == "lightning_modules.MLP"


def test_next_commands_work(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.root)
    lines = [line.strip() for line in run.output.split("next:")[1].splitlines()]
    assert sum(line.startswith(f"{command()} ") for line in lines) == 3
    for verb in ("validate", "test"):
        (line,) = [line for line in lines if f" {verb} " in line]
        args = shlex.split(line.removeprefix(command()))
        measured = main(args).trainer.callback_metrics
        part = "dev" if verb == "validate" else "test"
        accuracy = getattr(run.cli.summary, f"{part}_accuracy")
        assert float(measured[f"{part}_acc"]) == pytest.approx(accuracy)
        folder = run.root / "runs" / "mlp" / verb / "version_0"
        assert (folder / f"confusion_{part}.png").is_file()
        assert (folder / "metrics.csv").is_file()


def test_best_and_last_mean_the_newest_run(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.root)
    cli = main(["validate", "--config", "mlp", "--ckpt_path", "last"])
    assert cli.config.validate.ckpt_path == "runs/mlp/version_0/checkpoints/last.ckpt"


def test_resume_goes_on_where_it_stopped(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.root)
    last = str(run.checkpoints / "last.ckpt")
    root = ["--trainer.default_root_dir", "resumed"]
    cli = main(["fit", "--ckpt_path", last, "--trainer.max_epochs", "3", *root])
    assert cli.trainer.global_step == 60
    assert [row["epoch"] for row in _history(cli)] == [0, 1, 2]
    assert _history(cli)[2]["lr"] == pytest.approx(0.003 * 0.9**2)


def _history(cli: Any) -> list[dict[str, float]]:
    (pictures,) = [c for c in cli.trainer.callbacks if type(c).__name__ == "Pictures"]
    history: list[dict[str, float]] = pictures.history
    return history


def test_overrides(here: Path) -> None:
    cli = fit(
        *("--model.optimizer", "refnet.optim.SGD", "--model.optimizer.lr", "0.25"),
        *("--model.lr_scheduler", "refnet.optim.lr_scheduler.InverseSqrtDecay"),
        *("--model.interval", "step", "--model.net.hidden", "[16, 8]"),
        *("--data.batch_size", "32", "--name", "trial", "--trainer.default_root_dir", "out"),
    )
    optimizer = cli.trainer.optimizers[0]
    assert type(optimizer) is refnet.optim.SGD
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25 / 5**0.5)  # the fifth step's
    assert type(cli.trainer.lr_scheduler_configs[0].scheduler) is InverseSqrtDecay
    assert [p.shape[0] for n, p in cli.model.net.named_parameters() if "linear" in n] == [16, 8]
    config = yaml.safe_load((here / "out" / "trial" / "version_0" / "config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.25
    assert config["data"]["init_args"]["batch_size"] == 32
    assert config["name"] == "trial"


def test_short_override_keeps_the_rest(here: Path) -> None:
    cli = fit("--model.optimizer.lr", "0.01", "--trainer.logger", "false")
    optimizer = cli.trainer.optimizers[0]
    assert type(optimizer) is refnet.optim.Adam
    assert optimizer.param_groups[0]["initial_lr"] == 0.01


def test_implementation_reaches_the_net(here: Path) -> None:
    losses = {}
    for implementation in ("refnet", "torch"):
        cli = fit("--model.implementation", implementation, "--model.net.dropout", "0")
        package = {"refnet": refnet.nn, "torch": torch.nn}[implementation]
        assert type(cli.model.net.linear1) is package.Linear
        assert cli.summary.implementation == implementation
        losses[implementation] = _history(cli)[-1]["train_loss"]
    # Same weights, batches and rule: equal up to the rounding of float32 over four steps.
    assert losses["refnet"] == pytest.approx(losses["torch"], rel=1e-5)


def test_conv_and_float64(here: Path) -> None:
    small = ["--model.net.channels", "[4]", "--model.net.hidden", "8"]
    args = ["fit", "--config", "conv.yaml", *SHORT, *small, "--trainer.precision", "64-true"]
    cli = main(args)
    assert isinstance(cli.model.net, ConvNet)
    assert all(p.dtype == torch.float64 for p in cli.model.parameters())
    assert (here / "runs" / "conv" / "version_0" / "summary.json").is_file()


def test_bf16_mixed(here: Path) -> None:
    cli = fit("--trainer.precision", "bf16-mixed")
    assert cli.model.net.linear1.weight.dtype == torch.float32
    assert np.isfinite(_history(cli)[-1]["train_loss"])


def test_test_set_can_be_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = fit("--read_test", "false")
    assert cli.summary.test_accuracy is None
    assert "not read" in capsys.readouterr().out
    assert not (here / "runs" / "mlp" / "version_0" / "confusion_test.png").exists()
    assert fit("--data.test", "0").summary.test_accuracy is None


def test_early_stopping_stops(here: Path) -> None:
    stop = ["--early_stopping.patience", "1", "--early_stopping.min_delta", "100"]
    cli = main(["fit", "--config", "mlp", "--trainer.max_epochs", "9", *stop])
    assert cli.trainer.current_epoch == 2


def test_fast_dev_run_leaves_nothing(here: Path) -> None:
    cli = fit("--trainer.fast_dev_run", "true")
    assert cli.summary is None
    assert list(here.rglob("*")) == []


def test_a_net_of_ones_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mynets.py").write_text(
        "from torch import nn\n"
        "import refnet.nn as R\n"
        "class Mine(nn.Sequential):\n"
        "    def __init__(self, width: int = 8):\n"
        "        layers = R.Linear(64, width), R.Tanh(), R.Linear(width, 10)\n"
        "        super().__init__(nn.Flatten(), *layers)\n"
    )
    (here / "mine.yaml").write_text(
        "model:\n  net:\n    class_path: mynets.Mine\n    init_args: {width: 12}\n"
    )
    monkeypatch.syspath_prepend(here)
    cli = main(["fit", "--config", "mine.yaml", *SHORT])
    assert cli.model.net[1].out_features == 12
    assert (here / "runs" / "mine" / "version_0" / "summary.json").is_file()


def test_seed_makes_a_run_reproducible(here: Path) -> None:
    losses = [
        _history(fit("--seed_everything", seed))[-1]["train_loss"] for seed in ("1", "1", "2")
    ]
    assert losses[0] == losses[1] != losses[2]


def test_configs_are_found_by_name_or_path(here: Path) -> None:
    packaged = find_config("mlp")
    assert packaged == find_config("mlp.yaml") == find_config(str(packaged))
    (here / "mlp.yaml").write_text("")
    assert find_config("mlp.yaml") == Path("mlp.yaml")  # one's own comes first
    assert find_config("mlp") == packaged
    assert with_configs(["fit", "-c", "conv"]) == ["fit", "-c", str(find_config("conv"))]
    assert with_configs(["fit", "--config=conv"])[1:] == ["--config", str(find_config("conv"))]


def test_summary_is_that_of_the_best_epoch(here: Path) -> None:
    # The second epoch's learning rate ruins the net.
    worse = ["--model.lr_scheduler.gamma", "10000", "--trainer.max_epochs", "2"]
    cli = main(["fit", "--config", "mlp", *worse])
    first, second = (row["dev_acc"] for row in _history(cli))
    assert second < first
    assert cli.summary is not None
    assert cli.summary.dev_accuracy == pytest.approx(first)


def test_the_newest_run_has_the_highest_number(tmp_path: Path) -> None:
    for version in (2, 10, 9):
        folder = tmp_path / f"version_{version}" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
    assert find_checkpoint("best", tmp_path).parts[-3] == "version_10"


def test_an_interrupted_training_says_how_to_go_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
    trainer.checkpoint_callback.last_model_path = "runs/a b/last.ckpt"
    HowToGoOn().on_exception(trainer, Classifier(MLP()), KeyboardInterrupt())
    said = capsys.readouterr().out
    assert "interrupted in epoch 1" in said
    assert "fit --ckpt_path 'runs/a b/last.ckpt'" in said
    HowToGoOn().on_exception(trainer, Classifier(MLP()), ValueError())
    assert capsys.readouterr().out == ""


def test_a_training_that_is_terminated_does_not_look_like_a_success(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Classifier, "on_train_epoch_end", lambda self: terminate())
    with pytest.raises(SystemExit) as stopped:
        fit("--trainer.max_epochs", "3", "--save_every", "2")
    assert stopped.value.code == 143
    said = capsys.readouterr().out
    assert "interrupted in epoch 2" in said
    assert "fit --ckpt_path runs/mlp/version_0/checkpoints/last.ckpt" in said


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_without_a_test_set_none_is_offered(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", "--config", "mlp", "--data.test", "0", "--trainer.max_epochs", "1"])
    said = capsys.readouterr().out
    assert "not read" in said
    assert " test --ckpt_path" not in said
    assert "summary.json" in said
