"""Runs that are killed and resumed end with the same bits as runs that were left alone.

The file is also the program of the run that is killed by SIGKILL.
"""

from __future__ import annotations

import os
import pickle
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

import refnet
from lightning_modules import ExactResume
from refnet.optim.lr_scheduler import ExponentialDecay, InverseTimeDecay

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]
ROWS, BATCH, EPOCHS = 37, 8, 3  # five steps an epoch, of which the last is smaller
STEPS = -(-ROWS // BATCH)


class Noisy(Dataset[tuple[Tensor, Tensor]]):
    """Draws from all four generators that there may be."""

    def __init__(self) -> None:
        self.x = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
        self.own = np.random.default_rng(2)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        noise = torch.rand(()) + np.random.rand() + random.random() + self.own.random()
        return self.x[i] + 0.1 * noise.float(), (self.x[i].sum() > 0).long()


@dataclass
class Case:
    """What is trained how, and which checkpoint is resumed from."""

    optimizer: str = "Adam"
    manual: bool = False
    accumulate: int = 1
    schedule: str = "epoch"
    loader: dict[str, Any] = field(default_factory=dict)
    own_order: bool = False  # a generator of the loader's own, or the global one
    tensors: bool = False  # a dataset that draws nothing
    second: bool = False  # another loader, which begins again in the middle of the epoch
    trainer: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=lambda: {"every_n_train_steps": 4})
    save_at: int | None = None  # a batch after which to save by hand instead
    kill_at: int = 7  # in the middle of the second epoch, with batches counted from 0


KEPT = {"num_workers": 2, "persistent_workers": True}
# fmt: off
CASES = {
    "mid-epoch":             Case(),
    "own order, SGD":        Case("SGD", own_order=True, schedule="step"),
    "epoch's end, Momentum": Case("Momentum", checkpoint={"every_n_epochs": 1}),
    "last batch":            Case(checkpoint={"every_n_train_steps": 5}),
    "last batch, no val":    Case(checkpoint={"every_n_train_steps": 5},
                                  trainer={"limit_val_batches": 0}),
    "after validation":      Case(checkpoint={"save_on_train_epoch_end": False}),
    "validation in between": Case(checkpoint={"every_n_train_steps": 7}, kill_at=8,
                                  trainer={"val_check_interval": 2}),
    "between, after it":     Case(checkpoint={"save_on_train_epoch_end": False}, kill_at=8,
                                  trainer={"val_check_interval": 2}),
    "plateau, mid-epoch":    Case(schedule="plateau"),
    "plateau, by step":      Case(schedule="plateau by step",
                                  checkpoint={"every_n_train_steps": 6}),
    "plateau, epoch's end":  Case(schedule="plateau", checkpoint={"every_n_epochs": 1}),
    "accumulation":          Case("SGD", accumulate=2, checkpoint={"every_n_train_steps": 2}),
    "in an accumulation":    Case("RMSprop", accumulate=3, schedule="step", save_at=6),
    "manual":                Case(manual=True, checkpoint={"every_n_train_steps": 14}),
    "manual, epoch's end":   Case(manual=True, checkpoint={"every_n_epochs": 1}),
    "max_steps":             Case(trainer={"max_steps": 12, "max_epochs": -1},
                                  checkpoint={"every_n_epochs": 1}),
    "max_steps, mid-epoch":  Case(trainer={"max_steps": 12, "max_epochs": -1}),
    "bf16":                  Case(trainer={"precision": "bf16-mixed", "gradient_clip_val": 0.5}),
    "two loaders":           Case(second=True, kill_at=9),
    "workers":               Case(loader={"num_workers": 2}, own_order=True),
    "workers, epoch's end":  Case(loader={"num_workers": 2}, checkpoint={"every_n_epochs": 1}),
    "kept workers":          Case(loader=KEPT, own_order=True, tensors=True, kill_at=12,
                                  checkpoint={"every_n_train_steps": 11}),
    "kept, epoch's end":     Case(loader=KEPT, own_order=True, tensors=True,
                                  checkpoint={"every_n_epochs": 1}),
}
# fmt: on


class Net(pl.LightningModule):
    """Layers with buffers and masks, logs of every kind, and the optimizers of the case."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.case = case
        self.automatic_optimization = not case.manual
        self.body = nn.Sequential(
            refnet.nn.Linear(4, 6),
            refnet.nn.BatchNorm1d(6),
            refnet.nn.ReLU(),
            refnet.nn.Dropout(0.3),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), refnet.nn.Linear(6, 2))
        self.accuracy = MulticlassAccuracy(2)
        self.by_hand = MeanMetric()  # never reset

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch["first"] if self.case.second else batch
        if self.case.second:
            x = x + 0.01 * batch["second"][0][: len(x)].sum()
        logits = self.head(self.body(x))
        loss = refnet.functional.cross_entropy(logits, y)
        self.accuracy.update(logits, y)
        self.by_hand.update(loss)
        by_epoch = {"on_epoch": True, "on_step": False, "batch_size": len(y)}
        self.log("loss", loss, **by_epoch | {"on_step": True})
        self.log("largest", loss, **by_epoch, reduce_fx=max)
        self.log("accuracy", self.accuracy, **by_epoch)
        if batch_idx == 1:
            self.log("seldom", loss, **by_epoch | {"on_step": True})
        if self.case.manual:
            self._step_by_hand(loss, batch_idx)
        return loss

    def _step_by_hand(self, loss: Tensor, batch_idx: int) -> None:
        body, head, norm = self.optimizers()
        self.manual_backward(loss)
        for optimizer in (body, norm, *([head] if batch_idx % 2 else [])):  # head accumulates
            optimizer.step()
            optimizer.zero_grad()
        self.lr_schedulers().step()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("dev_loss", refnet.functional.cross_entropy(self.head(self.body(x)), y))

    def on_train_start(self) -> None:
        torch.rand(())  # hooks may draw, too

    def on_train_epoch_start(self) -> None:
        torch.rand(())

    def on_validation_epoch_start(self) -> None:
        torch.rand(())

    def on_train_epoch_end(self) -> None:
        self.log("by hand", self.by_hand.compute() + torch.rand(()))

    def configure_optimizers(self) -> Any:
        norm, linear = [*self.body[1].parameters()], [*self.body[0].parameters()]
        head = [*self.head.parameters()]
        if self.case.manual:
            optimizers = [
                refnet.optim.SGD(linear, lr=0.05, momentum=0.9, nesterov=True),
                refnet.optim.Momentum(head, lr=0.1, bias_correction=True),
                refnet.optim.RMSprop(norm, lr=0.01, centered=True),
            ]
            return optimizers, [InverseTimeDecay(optimizers[0], 0.1)]
        kind = getattr(refnet.optim, self.case.optimizer)
        options = {"SGD": {"momentum": 0.9}, "Adam": {"amsgrad": True}}
        groups = [{"params": linear + head}, {"params": norm, "weight_decay": 0.1, "lr": 0.02}]
        optimizer = kind(groups, lr=0.01, **options.get(self.case.optimizer, {}))
        if self.case.schedule.startswith("plateau"):
            by_step = self.case.schedule == "plateau by step"
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer, factor=0.9, patience=0, threshold=0.1
            )
            interval = {"interval": "step", "monitor": "loss"} if by_step else {}
            return [optimizer], [{"scheduler": schedule, "monitor": "dev_loss"} | interval]
        schedule = ExponentialDecay(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": self.case.schedule}]


class Record(pl.Callback):
    """Keep the loss of every batch and the metrics of every epoch; kill the run at a batch."""

    def __init__(self, kill_at: int | None, how: Any, save_at: int | None, folder: Path) -> None:
        self.kill_at, self.how, self.save_at, self.folder = kill_at, how, save_at, folder
        self.losses: dict[int, Tensor] = {}
        self.metrics: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.kill_at:
            self.how()

    def on_train_batch_end(self, trainer: Any, _: Any, outputs: Any, *__: Any) -> None:
        self.losses[trainer.fit_loop.total_batch_idx] = outputs["loss"].detach()
        if trainer.fit_loop.total_batch_idx == self.save_at:
            trainer.save_checkpoint(self.folder / "last.ckpt")

    def on_validation_end(self, trainer: Any, _: Any) -> None:
        if not trainer.sanity_checking:
            number = trainer.fit_loop.total_batch_idx + 1000
            self.metrics[number] = {"dev_loss": trainer.callback_metrics["dev_loss"].clone()}


class Rows(Logger):
    """Keep what is logged, by step and names."""

    name, version = "rows", 0

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows[f"{step} {sorted(metrics)}"] = metrics

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


class Metrics(pl.Callback):
    """Keep what an epoch came to, when all is logged."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def on_train_epoch_start(self, trainer: Any, *_: Any) -> None:
        self.record.metrics[trainer.current_epoch - 1] = dict(trainer.callback_metrics)


class Killed(Exception):
    """Ends a run where SIGKILL would."""


def kill() -> None:
    raise Killed


def sigkill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fit(
    case: Case,
    folder: Path,
    kill_at: int | None = None,
    how: Any = kill,
    resume: bool = False,
    exact: bool = True,
) -> dict[str, Any]:
    """Train, and return everything that a training leaves."""
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(99 if resume else 4)  # what a resumed run begins with shall not matter
    net, data, dev = Net(case), Noisy(), Noisy()
    order = torch.Generator().manual_seed(77 if resume else 5) if case.own_order else None
    rows = TensorDataset(data.x, data.x.sum(1).gt(0).long()) if case.tensors else data
    train: Any = DataLoader(rows, BATCH, shuffle=True, generator=order, **case.loader)
    if case.second:
        train = {"first": train, "second": DataLoader(Noisy(), 2 * BATCH, shuffle=True)}
    record = Record(kill_at, how, case.save_at, folder)
    checkpoint = ModelCheckpoint(folder, "{epoch}-{step}", save_last=True, **case.checkpoint)
    if case.save_at is not None:
        checkpoint = ModelCheckpoint(folder, every_n_train_steps=1000)
    trainer = pl.Trainer(
        **{"max_epochs": EPOCHS, "accelerator": "cpu", "devices": 1} | case.trainer,
        accumulate_grad_batches=case.accumulate,
        default_root_dir=folder,
        callbacks=[*([ExactResume()] if exact else []), record, Metrics(record), checkpoint],
        logger=Rows(),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    path = str(folder / "last.ckpt") if resume else None
    trainer.fit(net, train, DataLoader(dev, BATCH), ckpt_path=path, weights_only=True)
    record.metrics[10_000] = dict(trainer.callback_metrics)
    return {
        "weights": net.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "losses": record.losses,
        "rows": trainer.logger.rows,
        "metrics": record.metrics,
        "by hand": net.by_hand.compute(),
        "random": [torch.get_rng_state(), np.random.rand(), random.random()],
        "steps": [trainer.global_step, trainer.fit_loop.epoch_loop._batches_that_stepped],
    }


def differences(path: str, want: Any, got: Any) -> list[str]:
    """Name what isn't the same to the last bit; a resumed run lacks the earlier losses."""
    if isinstance(want, dict):
        part = path in (".losses", ".metrics", ".rows")
        keys = got.keys() if part else want.keys() | got.keys()
        missing = [f"{path}.{key}" for key in keys if key not in want or key not in got]
        both = [key for key in keys if key in want and key in got]
        return missing + [d for k in both for d in differences(f"{path}.{k}", want[k], got[k])]
    if isinstance(want, list | tuple):
        pairs = enumerate(zip(want, got, strict=True))
        return [d for i, (a, b) in pairs for d in differences(f"{path}[{i}]", a, b)]
    if isinstance(want, Tensor):
        return [] if torch.equal(want, got) and want.dtype == got.dtype else [path]
    return [] if want == got else [f"{path}: {want} and {got}"]


@pytest.mark.parametrize("name", CASES)
def test_resumed_equals_uninterrupted(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    want = fit(case, tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        fit(case, tmp_path / "killed", case.kill_at)
    got = fit(case, tmp_path / "killed", resume=True)
    assert STEPS * EPOCHS > len(got["losses"]) > 0
    assert differences("", want, got) == []


def test_the_comparison_sees_a_run_that_is_not_exact(tmp_path: Path) -> None:
    case = CASES["mid-epoch"]
    want = fit(case, tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        fit(case, tmp_path / "killed", case.kill_at, exact=False)
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        got = fit(case, tmp_path / "killed", resume=True, exact=False)
    found = differences("", want, got)
    for part in (".weights.body.0.weight", ".losses.8", ".metrics.1.loss_epoch", ".random[0]"):
        assert part in found


def test_an_uninterrupted_run_is_the_one_without_the_callback(tmp_path: Path) -> None:
    for name in ("own order, SGD", "workers"):
        runs = [fit(CASES[name], tmp_path / f"{exact}", exact=exact) for exact in (True, False)]
        assert differences("", *runs) == []


SIGKILLED = Case("SGD", loader={"num_workers": 1}, own_order=True, kill_at=8, schedule="step",
                 checkpoint={"every_n_train_steps": 6})  # fmt: skip


def test_sigkill_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", __file__, str(tmp_path / "killed")]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    got = fit(SIGKILLED, tmp_path / "killed", resume=True)
    assert min(got["losses"]) == 6  # the seventh and eighth batch had gone with the process
    assert differences("", fit(SIGKILLED, tmp_path / "uninterrupted"), got) == []


def test_the_command_line_resumes_from_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # not for the program above, which they would slow down
    from lightning_modules.callbacks import HowToGoOn
    from lightning_modules.cli import main as command_line

    monkeypatch.chdir(tmp_path)
    args = ["fit", "--config", "mlp", "--trainer.max_epochs", "2", "--save_every", "3"]
    args += [
        "--data.batch_size",
        "256",
        "--trainer.enable_progress_bar",
        "false",
        "--read_test",
        "false",
    ]
    want = command_line([*args, "--name", "uninterrupted"])
    with monkeypatch.context() as patch:
        stop = Record(8, kill, None, tmp_path).on_train_batch_start
        patch.setattr(HowToGoOn, "on_train_batch_start", lambda _, trainer, *__: stop(trainer))
        with pytest.raises(Killed):
            command_line(args)
    folder = tmp_path / "runs" / "mlp" / "version_0" / "checkpoints"
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 6
    got = command_line([*args, "--ckpt_path", "last"])
    assert differences("", trained(want), trained(got)) == []


def trained(cli: Any) -> dict[str, Any]:
    (pictures,) = [c for c in cli.trainer.callbacks if type(c).__name__ == "Pictures"]
    return {
        "weights": cli.model.state_dict(),
        "optimizer": cli.trainer.optimizers[0].state_dict(),
        "history": pictures.history,
        "random": [torch.get_rng_state(), cli.datamodule.state_dict()["order"]],
    }


class Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter(torch.ones(8, 4))


@pytest.mark.parametrize(
    "loader", [DataLoader(Stream()), [torch.ones(8, 4)]], ids=["stream", "list"]
)
def test_data_without_a_place_is_refused(loader: Any) -> None:
    trainer = pl.Trainer(**QUIET, max_epochs=1, callbacks=[ExactResume()])
    with pytest.raises(MisconfigurationException, match="cannot find its place again in a"):
        trainer.fit(Net(Case()), loader)


QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "limit_val_batches": 0,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def test_a_loader_that_knows_its_place_is_left_alone(tmp_path: Path) -> None:
    class Stateful(DataLoader[Any]):
        def state_dict(self) -> dict[str, Any]:
            return {"place": 1}

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    kinds = []

    class Look(pl.Callback):
        def on_train_start(self, trainer: Any, _: Any) -> None:
            kinds.append(type(trainer.train_dataloader))

    for loader in (Stateful(Noisy(), BATCH), DataLoader(Noisy(), BATCH)):
        pl.Trainer(**QUIET, max_epochs=1, callbacks=[ExactResume(), Look()]).fit(
            Net(Case()), loader
        )
        kinds.append(type(loader))
    assert [kind.__name__ for kind in kinds] == [
        *("Stateful", "Stateful"),
        *("ResumableDataLoader", "DataLoader"),  # and itself again afterwards
    ]


def test_a_loader_of_a_fit_that_failed_serves_another(tmp_path: Path) -> None:
    loader = DataLoader(Noisy(), BATCH, shuffle=True)
    for kill_at in (3, None, None):
        record = Record(kill_at, kill, None, tmp_path)
        trainer = pl.Trainer(**QUIET, max_epochs=1, callbacks=[ExactResume(), record])
        torch.manual_seed(0)
        try:
            trainer.fit(Net(Case()), loader)
        except Killed:
            assert type(loader).__name__ == "ResumableDataLoader"
        else:
            assert len(record.losses) == STEPS
            assert type(loader) is DataLoader


def test_evaluation_is_left_alone(tmp_path: Path) -> None:
    trainer = pl.Trainer(**QUIET | {"limit_val_batches": 1.0}, callbacks=[ExactResume()])
    loader = DataLoader(Noisy(), BATCH)
    torch.manual_seed(0)
    want = trainer.validate(Net(Case()), loader, verbose=False)
    trainer.save_checkpoint(tmp_path / "validated.ckpt")
    assert type(loader) is DataLoader
    torch.manual_seed(0)
    path = tmp_path / "validated.ckpt"
    net, loader = Net(Case()), DataLoader(Noisy(), BATCH)
    state = torch.get_rng_state()
    trainer.validate(net, loader, ckpt_path=path, verbose=False)
    assert len(want) == 1
    assert not torch.equal(state, torch.get_rng_state())  # it drew, and nothing was set back


def resumed_in_a_hurry(folder: Path, loader: Any, **options: Any) -> None:
    """Train an epoch, and resume it from its end."""
    for path in (None, folder / "end.ckpt"):
        trainer = pl.Trainer(**QUIET, max_epochs=2 if path else 1, callbacks=[ExactResume()])
        net = Net(Case())
        if path:
            for name, value in options.items():
                setattr(net, name, value)
        trainer.fit(net, loader, ckpt_path=path)
        trainer.save_checkpoint(folder / "end.ckpt")


def test_what_is_not_exact_is_said(tmp_path: Path) -> None:
    loader = DataLoader(Noisy(), BATCH, **KEPT)
    with pytest.warns(UserWarning, match=r"persistent workers: if the dataset \(Noisy\) draws"):
        resumed_in_a_hurry(tmp_path, loader)
    with pytest.warns(UserWarning, match=r"other generators: \['model.extra'\]"):
        resumed_in_a_hurry(tmp_path, DataLoader(Noisy(), BATCH), extra=torch.Generator())

    plain = pl.Trainer(**QUIET, max_epochs=1)
    plain.fit(Net(Case()), DataLoader(Noisy(), BATCH))
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    trainer = pl.Trainer(**QUIET, max_epochs=2, callbacks=[ExactResume()])
    with pytest.warns(UserWarning, match="written without ExactResume"):
        trainer.fit(Net(Case()), DataLoader(Noisy(), BATCH), ckpt_path=tmp_path / "plain.ckpt")

    often = {"max_epochs": 1, "reload_dataloaders_every_n_epochs": 1}
    with pytest.warns(UserWarning, match="reload_dataloaders_every_n_epochs=1: Lightning begins"):
        pl.Trainer(**QUIET, **often, callbacks=[ExactResume()]).fit(
            Net(Case()), DataLoader(Noisy(), BATCH)
        )


def test_a_checkpoint_in_the_middle_of_a_batch_starts_the_batch_again(tmp_path: Path) -> None:
    options = {"save_on_exception": True, "every_n_epochs": 1}
    case = Case(checkpoint=options, tensors=True)
    with (
        pytest.warns(UserWarning, match="in the middle of a batch"),
        pytest.raises(Killed),
    ):
        fit(case, tmp_path, 7)
    got = fit(case, tmp_path, resume=True)
    assert len(got["losses"]) == EPOCHS * STEPS - 7


if __name__ == "__main__":
    fit(SIGKILLED, Path(sys.argv[1]), SIGKILLED.kill_at, sigkill)


class _Failing(pl.LightningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise ValueError("no way")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)


def test_a_loader_is_the_users_own_after_a_fit_that_failed() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(8, 1)), batch_size=2)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[ExactResume()],
    )  # fmt: skip
    with pytest.raises(ValueError, match="no way"):
        trainer.fit(_Failing(), loader)
    copy = pickle.loads(pickle.dumps(loader))
    assert type(copy) is DataLoader
    assert len(list(copy)) == 4
    assert not {"callback", "_place"} & vars(copy).keys()
