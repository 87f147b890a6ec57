"""Orders to a running training: what they change, what outlives the schedule, and the way back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import lr_scheduler as torch_schedules

import refnet.optim
from lightning_modules import MLP, Classifier, DigitsDataModule
from lightning_modules.panda import Panda
from lightning_modules.panda.__main__ import main
from lightning_modules.panda.hyperparameters import change_rates
from lightning_modules.panda.orders import parse
from refnet.optim import lr_scheduler as schedules

SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "InverseTimeDecay": lambda o: schedules.InverseTimeDecay(o, decay_rate=1.0),
    "ExponentialDecay": schedules.ExponentialDecay,
    "InverseSqrtDecay": schedules.InverseSqrtDecay,
    "StepLR": lambda o: torch_schedules.StepLR(o, step_size=2),
    "LambdaLR": lambda o: torch_schedules.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "CosineAnnealingLR": lambda o: torch_schedules.CosineAnnealingLR(o, T_max=20),
    "OneCycleLR": lambda o: torch_schedules.OneCycleLR(o, max_lr=0.1, total_steps=20),
    "CyclicLR": lambda o: torch_schedules.CyclicLR(
        o, base_lr=0.1, max_lr=1.0, step_size_up=4, cycle_momentum=False
    ),
    "SequentialLR": lambda o: torch_schedules.SequentialLR(
        o, [torch_schedules.ConstantLR(o), schedules.ExponentialDecay(o)], milestones=[5]
    ),
    "ReduceLROnPlateau": torch_schedules.ReduceLROnPlateau,
}


def rates(make: Callable[[Any], Any], factor: float | None) -> list[list[float]]:
    """Learning rates of two groups over ten epochs; scaled before the fourth, or not."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": lr} for lr in (0.2, 0.1)]
    optimizer = refnet.optim.SGD(groups, lr=1.0, momentum=0.9)
    schedule = make(optimizer)
    found = []
    for epoch in range(10):
        if epoch == 3 and factor is not None:
            trainer: Any = SimpleNamespace(
                optimizers=[optimizer], lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)]
            )
            change_rates(trainer, factor, scale=True)
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        schedule.step(*([1.0] if make is torch_schedules.ReduceLROnPlateau else []))
    return found


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_changed_rate_outlives_the_schedule(name: str) -> None:
    plain, scaled = (rates(SCHEDULES[name], factor) for factor in (None, 0.25))
    assert scaled[:3] == plain[:3]
    for before, after in zip(plain[3:], scaled[3:], strict=True):
        assert after == pytest.approx([0.25 * rate for rate in before])


class Script(Callback):
    """Write control files before given steps."""

    def __init__(self, folder: Path, orders: dict[int, Any]) -> None:
        self.folder, self.orders = folder, orders

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if order := self.orders.get(trainer.global_step):
            text = order if isinstance(order, str) else yaml.safe_dump(order)
            (self.folder / "control.yaml").write_text(text)


class Notes(Callback):
    """Note with what each step begins; comes after the panda."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.weights.append(torch.nn.utils.parameters_to_vector(pl_module.parameters()).detach())
        dropout = [m.p for m in pl_module.modules() if isinstance(m, torch.nn.Dropout)]
        group = trainer.optimizers[0].param_groups[0]
        names = ("lr", "weight_decay")
        self.seen.append({"dropout": dropout, "l2": pl_module.l2, **{n: group[n] for n in names}})


def train(
    folder: Path, orders: dict[int, Any], epochs: int = 2, ckpt_path: str | None = None
) -> Notes:
    """Four steps in an epoch, each with the rate 0.1 / 2^epoch."""
    torch.manual_seed(0)
    model = Classifier(
        MLP(hidden=[8], dropout=0.25),
        optimizer=lambda p: refnet.optim.SGD(p, lr=0.1, momentum=0.9),
        lr_scheduler=lambda o: schedules.ExponentialDecay(o, gamma=0.5),
    )
    notes = Notes()
    checkpoint = ModelCheckpoint(filename="best", monitor="dev_loss", save_last=True)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        limit_train_batches=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Script(folder, orders), Panda(settle=0), notes, checkpoint],
    )
    trainer.fit(model, DigitsDataModule(), ckpt_path=ckpt_path, weights_only=True)
    return notes


def column(run: Notes, name: str) -> list[Any]:
    return [row[name] for row in run.seen]


def changes(folder: Path) -> list[tuple[Any, ...]]:
    table = pd.read_csv(folder / "panda.csv")
    assert list(table) == ["time", "epoch", "step", "name", "old", "new"]
    return list(table[["epoch", "step", "name", "old", "new"]].itertuples(index=False, name=None))


def test_orders_change_a_training(tmp_path: Path) -> None:
    orders = {2: {"lr": 0.01}, 5: {"scale_lr": 2, "dropout": 0.5, "weight_decay": 0.1, "l2": 1.0}}
    run = train(tmp_path, orders)
    assert column(run, "lr") == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.005] + [0.01] * 3)
    assert column(run, "dropout") == [[0.25]] * 5 + [[0.5]] * 3
    assert column(run, "weight_decay") == [0] * 5 + [0.1] * 3
    assert column(run, "l2") == [0] * 5 + [1] * 3
    assert changes(tmp_path) == [
        (0, 2, "lr", 0.1, 0.01),
        (1, 5, "lr", 0.005, 0.01),
        (1, 5, "weight_decay", 0.0, 0.1),
        (1, 5, "l2", 0.0, 1.0),
        (1, 5, "dropout", 0.25, 0.5),
    ]
    assert not list(tmp_path.glob("control*"))
    status = yaml.safe_load((tmp_path / "panda.json").read_text())
    assert (status["epoch"], status["step"], status["dropout"]) == (1, 8, 0.5)
    assert status["dev_loss"] > 0


def test_what_is_no_file_stops_no_training(tmp_path: Path) -> None:
    (tmp_path / "control-a.yaml").mkdir()
    (tmp_path / "control-b.yaml").symlink_to("nowhere")
    (tmp_path / "control-c.yaml").write_text("lr: 0.01")
    assert column(train(tmp_path, {}, epochs=1), "lr") == [0.01] * 4


@pytest.mark.parametrize("text", ["lr: " + "9" * 400, "lr: " + "9" * 5000, "[" * 5000, "lr: [1]",
    "lr: 2020-99-99", "? [a]\n: 1", "1: 2", "lr: &a [*a]", "\0"])  # fmt: skip
def test_whatever_a_file_says_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 0.01\ndropout: 1.5", "dropout must be from 0 to below 1, got 1.5"),
        ("lr: [", "no YAML"),
        ("lr", "must be a mapping"),
        ("", "must be a mapping"),
        ("lr: .nan", "lr must be above 0"),
        ("lr: true", "lr must be above 0, got True"),
        ("learning_rate: 1", "'learning_rate' is none of lr"),
        ("lr: 1\nscale_lr: 1", "lr and scale_lr exclude each other"),
        ("rollback: 3", "rollback must be true"),
        ("lr: 0.01\nl1: 0.5", "l1 can't be switched on later"),
        ("lr: 0.01\nrollback: true", "no checkpoint to go back to: none is written yet"),
    ],
)
def test_a_bad_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    with caplog.at_level(logging.WARNING, logger="lightning_modules.panda.callback"):
        run = train(tmp_path, {1: text or " "}, epochs=1)
    assert column(run, "lr") == [0.1] * 4
    assert column(run, "dropout") == [[0.25]] * 4
    assert message in caplog.text
    assert "nothing was changed" in caplog.text
    assert [r.name for r in caplog.records].count("lightning_modules.panda.callback") == 1
    assert (tmp_path / "control.yaml.rejected").is_file()
    ((_, _, name, _, said),) = changes(tmp_path)
    assert name == "rejected"
    assert message in said


def test_the_way_back(tmp_path: Path) -> None:
    """A rate that ruins the net, and back to the weights, the rate and the strengths of before."""
    ruin = {"lr": 50.0, "dropout": 0.75}
    run = train(tmp_path, {4: ruin, 9: {"rollback": True, "scale_lr": 0.5}}, epochs=3)
    assert not torch.equal(run.weights[8], run.weights[4])
    assert torch.equal(run.weights[9], run.weights[4])  # with which epoch 0 ended
    # A checkpoint is written when the schedule has moved on: the rate is that of epoch 1.
    assert column(run, "lr")[8:] == pytest.approx([25.0] + [0.5 * 0.05] * 3)
    assert column(run, "dropout")[8:] == [[0.75]] + [[0.25]] * 3
    assert ("rollback", 9.0, 4.0) in [row[2:] for row in changes(tmp_path)]


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")  # on purpose
def test_changes_outlive_a_resumption(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    train(first, {1: {"lr": 0.01, "dropout": 0.5, "l2": 2.0}}, epochs=1)
    run = train(second, {}, epochs=2, ckpt_path=str(first / "checkpoints" / "last.ckpt"))
    assert column(run, "lr") == pytest.approx([0.005] * 4)
    assert column(run, "dropout") == [[0.5]] * 4
    assert column(run, "l2") == [2.0] * 4


def test_a_file_that_is_being_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panda = Panda(settle=0.2)
    path = tmp_path / "control.yaml"
    path.write_text("lr: 0.0")
    assert panda._settled(tmp_path) == []
    path.write_text("lr: 0.01")
    assert panda._settled(tmp_path) == []  # it has changed
    later = panda._seen[path][1] + 0.25
    monkeypatch.setattr("lightning_modules.panda.callback.time.monotonic", lambda: later)
    assert panda._settled(tmp_path) == [(path, "lr: 0.01")]


def test_the_command_writes_an_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = tmp_path / "version_0", tmp_path / "version_1"
    older.mkdir()
    newer.mkdir()
    taken: list[Any] = []

    def take(seconds: float) -> None:
        (path,) = newer.glob("control-*.yaml")
        taken.append(parse(path.read_text()))
        (newer / "panda.csv").write_text("lr,0.1,0.01\n")
        path.unlink()

    monkeypatch.setattr("lightning_modules.panda.__main__.time.sleep", take)
    assert main([str(tmp_path), "--lr", "0.01", "--rollback"]) == 0
    assert taken == [{"lr": 0.01, "rollback": True}]
    assert capsys.readouterr().out == "lr,0.1,0.01\n"
    assert main([str(newer)]) == 0
    assert "no panda.json yet" in capsys.readouterr().out


def test_an_order_that_nobody_takes_is_withdrawn(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([".", "--lr", "0.01", "--timeout", "0.1"]) == 1
    assert "not taken in 0.1 seconds, and withdrawn" in capsys.readouterr().out
    assert list(here.iterdir()) == []

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_modules.panda.__main__.time.sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main([".", "--lr", "0.01"])
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere", "--lr", "1"], "there is no run in nowhere"),
        ([".", "--dropout", "1"], "--dropout must be from 0 to below 1, got 1"),
        ([".", "--lr", "1", "--scale_lr", "1"], "exclude each other"),
        ([".", "--lr", "1", "--timeout", "nan"], "--timeout must be above 0, got nan"),
        ([".", "--lr", "1", "--timeout", "0"], "--timeout must be above 0, got 0"),
    ],
)
def test_mistakes_are_explained(
    here: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert list(here.iterdir()) == []
