from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import (
    MLP,
    ArraysDataModule,
    Augmentation,
    BiasVariance,
    Classifier,
    DigitsDataModule,
)
from lightning_modules.bias_variance import RECIPE, THRESHOLD, diagnose
from lightning_modules.cli import main
from refnet.optim import SGD

LECTURE = [
    (0.01, 0.11, False, True),
    (0.15, 0.16, True, False),
    (0.15, 0.30, True, True),
    (0.005, 0.01, False, False),
]


@pytest.mark.parametrize(("train", "dev", "bias", "variance"), LECTURE)
@pytest.mark.parametrize("threshold", [0.01, THRESHOLD, 0.099])
def test_verdicts_of_the_lecture(
    train: float, dev: float, bias: bool, variance: bool, threshold: float
) -> None:
    found = diagnose(train, dev, threshold=threshold)
    assert (found.high_bias, found.high_variance) == (bias, variance)
    assert found.avoidable_bias == train
    assert found.variance == pytest.approx(dev - train)
    tried = " ".join(found.next_to_try)
    assert ("a bigger network" in tried) == bias
    assert ("more data" in tried) == variance
    words = {True: "high", False: "low"}
    assert found.verdict == f"{words[bias]} bias, {words[variance]} variance"


def test_what_people_get_wrong_is_no_bias() -> None:
    assert diagnose(0.15, 0.16, human_error=0.14).high_bias is False
    assert diagnose(0.15, 0.16, human_error=0.01).high_bias is True
    assert diagnose(0.01, 0.02, human_error=0.05).avoidable_bias == pytest.approx(-0.04)


def test_unknown_human_error_is_not_taken_for_zero() -> None:
    found = diagnose(0.15, 0.30, human_error=None)
    assert (found.avoidable_bias, found.high_bias, found.high_variance) == (None, None, True)
    assert found.verdict == "unknown bias, high variance"
    assert "--human_error" in found.next_to_try[0]
    assert diagnose(0.01, 0.02, human_error=None).high_bias is False  # whatever people do


def test_a_gap_as_large_as_the_threshold_is_low() -> None:
    assert diagnose(0.02, 0.05, threshold=0.03).high_variance is False  # 0.05 - 0.02 > 0.03
    assert diagnose(0.01, 0.0401, threshold=0.03).high_variance is True


@pytest.mark.parametrize(
    ("errors", "message"),
    [
        ((11.0, 0.5), r"train_error must be a fraction in \[0, 1\], got 11.0: 11.0 % is 0.11"),
        ((0.1, -0.5), r"dev_error must be a fraction in \[0, 1\], got -0.5$"),
        ((0.1, 0.5, math.nan), r"human_error must be a fraction in \[0, 1\], got nan$"),
        ((0.1, 0.5, 0.0, 3.0), r"threshold must be a fraction in \(0, 1\), got 3.0"),
    ],
)
def test_mistakes(errors: Sequence[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diagnose(*errors)


def test_the_recipe_names_options_that_exist() -> None:
    with (
        contextlib.redirect_stdout(io.StringIO()) as printed,
        pytest.raises(SystemExit) as left,
    ):
        main(["fit", "--config", "mlp", "--print_config"])
    assert left.value.code == 0
    help_text = io.StringIO()
    with contextlib.redirect_stdout(help_text), pytest.raises(SystemExit):
        main(["fit", "--help"])
    options = [o for rows in RECIPE.values() for _, names in rows for o in names]
    assert len(options) > 8
    for option in options:
        *_, last = option.removeprefix("--").split(".")
        assert option in help_text.getvalue() or f"{last}:" in printed.getvalue(), option


class Plain(pl.LightningModule):
    """A module that is no Classifier: always says class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.dropout = torch.nn.Dropout(1.0)  # in training mode every score is 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.dropout(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self(batch[0]).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(scores: list[list[float]], labels: list[int]) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.tensor(scores), torch.tensor(labels)), batch_size=2)


def trainer(folder: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    given = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    given |= {"enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(default_root_dir=folder, callbacks=list(callbacks), **{**given, **options})


def test_callback_measures_any_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero, one = [1.0, 0.0], [0.0, 1.0]
    train = loader([zero, one, zero, one], [0, 1, 0, 0])  # 1 of 4 wrong
    dev = loader([zero, one, one], [1, 0, 0])  # all wrong
    callback, model = BiasVariance(human_error=0.05), Plain()
    trainer(tmp_path, callback).fit(model, train, dev)
    found = json.loads((tmp_path / "bias_variance.json").read_text())
    assert (found["train_error"], found["dev_error"], found["human_error"]) == (0.25, 1.0, 0.05)
    assert found["avoidable_bias"] == pytest.approx(0.2)
    assert found["verdict"] == "high bias, high variance"
    assert [f.name for f in tmp_path.iterdir()] == ["bias_variance.json"]  # nothing half written
    said = capsys.readouterr().out
    assert "high bias, high variance" in said
    assert "try a bigger network: --model.net.hidden" in said
    assert model.dropout.training


def test_callback_measures_ours_without_augmentation_or_dropout(tmp_path: Path) -> None:
    data = DigitsDataModule(subset=0.3, augment=Augmentation(noise=3.0))
    model = Classifier(MLP(hidden=[64], dropout=0.5), lambda p: SGD(p, lr=0.3))
    callback = BiasVariance()
    trainer(tmp_path, callback, max_epochs=2).fit(model, data)
    assert callback.diagnosis is not None
    for part, error in (
        ("train", callback.diagnosis.train_error),
        ("dev", callback.diagnosis.dev_error),
    ):
        x, y = data.dataset(part).tensors  # type: ignore[arg-type]
        with torch.no_grad():
            assert error == pytest.approx(float((model.eval()(x).argmax(1) != y).double().mean()))


ZERO, TWO = torch.zeros, torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (ZERO(4, 1), TWO, r"but got scores \(2, 1\) and labels \(2,\)"),  # of one logit
        (ZERO(4, 2), TWO[:, None], r"but got scores \(2, 2\) and labels \(2, 1\)"),
        (ZERO(4, 2, 3, 3), TWO, r"but got scores \(2, 2, 3, 3\)"),
    ],
)
def test_scores_that_cannot_be_read_are_refused_before_the_training(
    x: torch.Tensor, y: torch.Tensor, message: str, tmp_path: Path
) -> None:
    model, data = Plain(), DataLoader(TensorDataset(x, y), batch_size=2)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, BiasVariance()).fit(model, data, data)
    assert model.global_step == 0


def test_two_dev_sets_are_refused_before_the_training(tmp_path: Path) -> None:
    class Two(Plain):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None: ...

    data = loader([[1.0, 0.0]], [0])
    with pytest.raises(ValueError, match="one dev set, but got 2"):
        trainer(tmp_path, BiasVariance()).fit(Two(), data, [data, data])


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_callback_needs_a_dev_set(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="BiasVariance needs a dev set"):
        trainer(tmp_path, BiasVariance()).fit(Plain(), loader([[1.0, 0.0]], [0]))
    with pytest.raises(ValueError, match="human_error must be a fraction"):
        BiasVariance(human_error=5)


def test_summary_has_the_verdict(run: Any) -> None:
    summary = json.loads((run.folder / "summary.json").read_text())
    found = diagnose(summary["train_error"] / 100, summary["dev_error"] / 100)
    assert summary["verdict"] == found.verdict
    assert summary["next_to_try"] == found.next_to_try
    assert (summary["human_error"], summary["train_total"]) == (0.0, 1257)
    assert found.verdict in run.output


def test_other_data_has_no_human_error_of_its_own(here: Path) -> None:
    assert DigitsDataModule.human_error == 0.0
    assert ArraysDataModule.human_error is None
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).numpy()
    np.savez(here / "a.npz", x=x, y=np.arange(60) % 2)
    args = ["fit", "--config", "mlp", "--trainer.max_epochs", "1", "--data", "ArraysDataModule"]
    args += ["--data.path", "a.npz", "--trainer.enable_progress_bar", "false"]
    for given, kept in (([], None), (["--human_error", "0.25"], 25.0)):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            summary = main([*args, *given]).summary
        assert summary is not None
        assert summary.human_error == kept
        assert (summary.avoidable_bias is None) == (kept is None)
        assert ("not given" in printed.getvalue()) == (kept is None)
