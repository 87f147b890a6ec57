"""Trainings in one go: `experiments`, learning curves over the training set's size, comparison."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from lightning_modules import learning_curves
from lightning_modules.comparison import __main__ as comparison
from lightning_modules.comparison import report, training
from lightning_modules.comparison.choices import BASE, CHOICES, beside
from lightning_modules.experiments import Job, Runs, finish, load, save


def job(number: int) -> Job:
    return Job(f"job {number}", str(number), partial(square, number))


def square(number: int) -> dict[str, Any]:
    return {"square": number**2, "seconds": 0.0}


def interrupted(number: int) -> dict[str, Any]:
    raise KeyboardInterrupt


def test_finished_jobs_are_kept_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    broken = Job("broken", "9", partial(interrupted, 9))
    with pytest.raises(KeyboardInterrupt):
        finish([job(1), job(2), broken, job(3)], {}, partial(save, path))
    kept = load(path)
    assert set(kept) == {"1", "2"}
    found = finish([job(3), job(1)], kept, partial(save, path))
    assert list(found) == ["3", "1"]
    assert set(load(path)) == {"1", "2", "3"}
    assert [f.name for f in tmp_path.iterdir() if f.suffix != ".lock"] == ["runs.json"]


def test_two_commands_keep_each_others_jobs(tmp_path: Path) -> None:
    path = tmp_path / "runs.json"
    first, second = load(path), load(path)
    finish([job(1)], first, partial(save, path))
    finish([job(2)], second, partial(save, path))
    assert set(load(path)) == {"1", "2"}


def test_fresh_repeats_these_jobs_and_no_others(tmp_path: Path) -> None:
    path, again = tmp_path / "runs.json", Job("job 1", "1", lambda: {"new": True})
    finish([job(1), job(2)], {}, partial(save, path))
    finish([again], load(path), partial(save, path), fresh=True)
    assert load(path)["1"] == {"new": True}
    assert set(load(path)) == {"1", "2"}


def test_a_job_that_two_ask_for_runs_once() -> None:
    seen: list[int] = []

    def train() -> dict[str, Any]:
        seen.append(1)
        return {}

    finish([Job("a", "same", train), Job("b", "same", train)], {}, lambda runs: None)
    assert len(seen) == 1


def test_workers_are_processes() -> None:
    def train() -> dict[str, Any]:  # of no module: it travels as it is
        return {"process": os.getpid()}

    runs: Runs = {}
    finish([Job(f"job {n}", str(n), train) for n in range(3)], runs, lambda runs: None, workers=2)
    assert set(runs) == {"0", "1", "2"}
    assert os.getpid() not in {run["process"] for run in runs.values()}


ONE = ["--only", "batch_norm", "--seeds", "1", "--epochs", "1", "--subset", "0.05"]
ONE += ["--workers", "1"]


def test_comparison_from_end_to_end(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = comparison.train

    def stops(setting: Any, *args: Any) -> dict[str, Any]:
        if setting.batch_norm:
            raise KeyboardInterrupt
        return whole(setting, *args)

    monkeypatch.setattr(comparison, "train", stops)
    assert comparison.main(ONE) == 1
    assert "interrupted; what is finished is kept" in capsys.readouterr().out
    (first,) = load(here / "runs/comparison/runs.json").values()

    trained: list[bool] = []

    def counts(setting: Any, *args: Any) -> dict[str, Any]:
        trained.append(setting.batch_norm)
        return whole(setting, *args)

    monkeypatch.setattr(comparison, "train", counts)
    assert comparison.main(ONE) == 0
    assert trained == [True]  # the other one was finished
    runs = load(here / "runs/comparison/runs.json")
    assert first in runs.values()

    folder = here / "runs/comparison"
    table = pd.read_csv(folder / "comparison.csv")
    assert table["choice"].tolist() == ["without", "with"]
    assert table["test_error"].tolist() == [100 * run["test_error"] for run in runs.values()]
    page = (folder / "comparison.md").read_text()
    assert "| without | 0.3 |" in page
    assert "Trainings of each: 1, of 1 epochs on a share of 0.05 of the training set" in plain(page)
    assert "beats the two rates beside it with 20 epochs of the whole training set. With" in plain(
        page
    )
    assert "written by `python -m lightning_modules.comparison --epochs 1 --subset 0.05`" in plain(
        page
    )
    assert (folder / "images/comparison.png").is_file()
    picture = imread(folder / "images/comparison.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 50

    trained.clear()
    for other in (["--epochs", "2"], ["--seeds", "2"], ["--subset", "0.06"], ["--fresh"]):
        assert comparison.main([*ONE, *other]) == 0
    # epochs, one more seed, subset, and all again: 2 choices each
    assert len(trained) == 2 + 2 + 2 + 2


def plain(page: str) -> str:
    return " ".join(page.split())


def test_tuned_rates_are_of_a_group_and_choice(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two groups may call different settings by the same name; equal ones are trained once."""
    choices = {"a": {"none": BASE}, "b": {"none": BASE}, "c": {"none": replace(BASE, lr=1.0)}}
    trained: list[float] = []

    def stands_in(setting: Any, seed: int, epochs: int, subset: float) -> dict[str, Any]:
        trained.append(setting.lr)
        return {"dev_loss": setting.lr, "seconds": 0.0}

    monkeypatch.setattr(comparison, "CHOICES", choices)
    monkeypatch.setattr(comparison, "train", stands_in)
    args = ["--tune", "--workers", "1", "--only", *choices]
    assert comparison.main(args) == 0
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()] == ["a: none", "b: none", "c: none"]
    assert said.count("0.1: 0.1000  0.3: 0.3000  1: 1.0000") == 2
    assert said.count("0.3: 0.3000  1: 1.0000  3: 3.0000") == 1
    assert sorted(trained) == [0.1, 0.3, 1.0, 3.0]
    for number, other in enumerate((["--epochs", "3"], ["--subset", "0.5"]), start=2):
        assert comparison.main([*args, *other]) == 0
        assert len(trained) == 4 * number


def test_a_killed_comparison_goes_on(here: Path) -> None:
    """SIGKILL while it trains: what was finished is there, whole."""
    args = [sys.executable, "-m", "lightning_modules.comparison", *ONE, "--seeds", "50"]
    path = here / "runs/comparison/runs.json"
    with subprocess.Popen(args, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not path.is_file() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    done = len(load(path))
    assert 0 < done < 100
    assert comparison.main(ONE) == 0
    assert len(load(path)) in (done, done + 1)


def test_settings_reach_the_training() -> None:
    setting = CHOICES["optimizer"]["Adam"]
    model, record = training.fit(setting, seed=0, epochs=2, subset=0.1)
    optimizer = model.trainer.optimizers[0]
    assert type(optimizer).__module__ == "refnet.optim.adam"
    assert optimizer.defaults["lr"] == setting.lr
    assert record.history["steps"] == [0, 2, 4]  # 126 examples by 64
    settings = [s for choices in CHOICES.values() for s in choices.values() if s != BASE]
    for setting in settings:
        model, _ = training.fit(setting, seed=0, epochs=1, subset=0.02)
        changed = {
            "Adam": setting.optimizer != type(model.trainer.optimizers[0]).__name__,
            "norm": setting.batch_norm != hasattr(model.net, "norm1"),
            "dropout": model.net.get_submodule("dropout1").p != setting.dropout,
            "l2": model.l2 != setting.l2,
            "decay": bool(setting.decay) != bool(model.trainer.lr_scheduler_configs),
            "batch": model.trainer.datamodule.batch_size != setting.batch_size,  # type: ignore[attr-defined]
        }
        assert not any(changed.values()), (setting, changed)


def test_the_best_epoch_is_what_is_measured() -> None:
    found = training.train(BASE, seed=0, epochs=3, subset=0.2)
    history = found["history"]
    assert found["dev_loss"] == min(history["dev_loss"]) == history["dev_loss"][found["epoch"]]
    assert len(history["train_loss"]) == 4
    assert history["seconds"][0] == 0
    assert history["seconds"] == sorted(history["seconds"])
    worse = training.train(replace(BASE, lr=1e30), seed=0, epochs=1, subset=0.2)
    assert worse["epoch"] == 0  # the test error is that of the initial weights, not of the last
    model, record = training.fit(replace(BASE, lr=0.0), seed=0, epochs=1, subset=0.2)
    assert worse["test_error"] == training.measured(model, record.data, "test")[1]


def test_a_training_that_diverges_is_said_to(tmp_path: Path) -> None:
    setting = replace(BASE, lr=1e30)
    runs = [training.train(setting, seed=0, epochs=1, subset=0.05)]
    assert np.isnan(runs[0]["history"]["train_loss"][-1])
    assert runs[0]["epoch"] == 0  # before it
    groups = {"optimizer": {"too far": setting}}
    results = {"optimizer": {"too far": runs}}
    report.write(tmp_path, groups, results, epochs=20, subset=1.0)
    assert "| too far | 1e+30 | diverged |" in (tmp_path / "comparison.md").read_text()
    page = plain((tmp_path / "comparison.md").read_text())
    assert "each beats the two rates beside it by the dev loss of the best epoch" in page
    assert "was written by `python -m lightning_modules.comparison`." in page
    lines = report.rates({"x": {0.1: [{"dev_loss": 1.0}], 1.0: [{"dev_loss": float("nan")}]}})
    assert lines[0].endswith("better than the table's: 0.1")


def test_every_rate_is_on_the_ladder() -> None:
    for choices in CHOICES.values():
        for setting in choices.values():
            lower, rate, higher = beside(setting.lr)
            assert rate == setting.lr
            assert beside(lower)[2] == beside(higher)[0] == rate


SMALL = ["--fractions", "0.05", "0.1", "--seeds", "2"]
SHORT = ["--", "--trainer.max_epochs", "1"]


def test_learning_curves(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert learning_curves.main([*SMALL, *SHORT]) == 0
    said = capsys.readouterr().out
    assert "bias and variance: high bias" in said
    folder = here / "runs/learning_curves/mlp"
    table = pd.read_csv(folder / "errors.csv")
    assert table["m"].tolist() == [63, 126]
    runs = list(load(folder / "runs.json").values())
    assert len(runs) == 4
    assert [run["test_accuracy"] for run in runs] == [None] * 4
    small = [run["dev_error"] for run in runs if run["train_total"] == 63]
    assert table.loc[0, ["dev_error", "dev_error_min", "dev_error_max"]].tolist() == pytest.approx(
        [np.mean(small), min(small), max(small)]
    )
    assert small[0] != small[1]  # another seed is another draw
    assert imread(folder / "errors.png").size > 10_000

    def never(args: list[str]) -> dict[str, Any]:
        raise RuntimeError("ran again")

    monkeypatch.setattr(learning_curves, "fit", never)
    assert learning_curves.main([*SMALL, *SHORT]) == 0
    for other in ([*SMALL, *SHORT, "--model.l2", "1"], [*SMALL, "--human_error", "0.1", *SHORT]):
        with pytest.raises(RuntimeError, match="ran again"):
            learning_curves.main(other)


@pytest.mark.parametrize(
    ("main", "args", "message"),
    [
        (learning_curves.main, ["--fractions", "0.5", "1.5"], "--fractions must be in (0, 1], got"),
        (learning_curves.main, ["--human_error", "5"], "--human_error must be a fraction"),
        (learning_curves.main, ["--config", "nothing"], "'nothing' is no file"),
        (
            learning_curves.main,
            ["--", "--data.subset", "0.5"],
            "--data.subset: that is --fractions",
        ),
        (learning_curves.main, ["--", "--data.subset=0.5"], "--data.subset=0.5: that is --fract"),
        (learning_curves.main, ["--", "--seed_everything", "3"], "that is --seeds, before --"),
        (
            learning_curves.main,
            ["--seeds", "1", "--", "--trainer.max_epochs", "0"],
            "--trainer.max_epochs 0 leaves nothing to train",
        ),
        (learning_curves.main, ["--out", "damaged"], "is not a file that this command wrote"),
        (comparison.main, ["--seeds", "0"], "must be a whole number of at least 1, got 0"),
        (comparison.main, ["--subset", "0"], "--subset must be a fraction in (0, 1], got 0"),
        (comparison.main, ["--subset", "0.001"], "subset=0.001 leaves 1 of 1257 training examples"),
        (comparison.main, ["--runs", "damaged/runs.json"], "--runs: damaged/runs.json is not"),
    ],
)
def test_mistakes(
    main: Any, args: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "damaged").mkdir()
    (here / "damaged/runs.json").write_text("{")
    with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()):
        main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_refused_option_says_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        learning_curves.main(["--fractions", "0.001", "--seeds", "1", *SHORT])
    assert stopped.value.code == 2
    assert "subset=0.001 leaves 1 of 1257 training examples" in capsys.readouterr().err
