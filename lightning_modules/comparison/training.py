"""One training of the comparison, by a bare Trainer, with what is measured after every epoch."""

from __future__ import annotations

import copy
import math
import time
import warnings
from functools import cache, partial
from typing import Any, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything

from lightning_modules.classifier import Classifier
from lightning_modules.comparison.choices import HIDDEN, Setting
from lightning_modules.data import DigitsDataModule
from lightning_modules.data_preparation import PARTS, Part
from lightning_modules.nets import MLP
from lightning_modules.quiet import quiet
from refnet import optim
from refnet.optim import lr_scheduler


class Record(Callback):
    """Measure loss and error of the train and dev set before the first epoch and after each one.

    All of a set in evaluation mode, without penalties: what is compared is the same for every
    choice. Measuring is not part of the seconds, which are those of the processor.

    Args:
        data: that is trained on.
    """

    def __init__(self, data: DigitsDataModule) -> None:
        self.data = data
        self.history: dict[str, list[float]] = {
            name: []
            for name in ("train_loss", "train_error", "dev_loss", "dev_error", "steps", "seconds")
        }
        self.best: dict[str, Any] = {}
        self._seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the initial weights, and start the clock."""
        self._measure(trainer, pl_module)
        self._since = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, with the clock stopped."""
        self._seconds += time.process_time() - self._since
        self._measure(trainer, pl_module)
        self._since = time.process_time()

    def _measure(self, trainer: Trainer, model: LightningModule) -> None:
        row = {"steps": trainer.global_step, "seconds": self._seconds}
        for part in PARTS[:2]:
            row[f"{part}_loss"], row[f"{part}_error"] = measured(model, self.data, part)
        for name, value in row.items():
            self.history[name].append(float(value))
        if self.best_epoch == len(self.history["dev_loss"]) - 1:
            self.best = copy.deepcopy(model.state_dict())

    @property
    def best_epoch(self) -> int:
        """The epoch of the smallest dev loss; 0 is before the first. NaN is no minimum."""
        losses = [math.inf if math.isnan(x) else x for x in self.history["dev_loss"]]
        return losses.index(min(losses))


def measured(model: LightningModule, data: DigitsDataModule, part: Part) -> tuple[float, float]:
    """Return the mean loss and the share of wrong labels of a set, in evaluation mode."""
    x, y = data.dataset(part).tensors
    model.eval()
    with torch.no_grad():
        logits = model(x)
        loss = cast("Classifier", model).loss(logits, y)
    model.train()
    return float(loss), float((logits.argmax(1) != y).double().mean())


def train(setting: Setting, seed: int, epochs: int, subset: float = 1.0) -> dict[str, Any]:
    """Train once, and measure the epoch that the dev set is best at.

    Args:
        setting: what to train.
        seed: of the initial weights, the dropout masks, the order, and the subset.
        epochs: at least 1.
        subset: share of the training set.

    Returns:
        `dev_loss`, `dev_error` and `test_error` of the best epoch (errors in [0, 1]), `epoch`,
        which one that is, `seconds` of the processor, and `history`: a list for each quantity, from
        before the first epoch on.
    """
    _warm_up(setting.optimizer)
    model, record = fit(setting, seed, epochs, subset)
    history, best = record.history, record.best_epoch
    model.load_state_dict(record.best)
    return {
        "epoch": best,
        "dev_loss": history["dev_loss"][best],
        "dev_error": history["dev_error"][best],
        "test_error": measured(model, record.data, "test")[1],
        "seconds": history["seconds"][-1],
        "history": history,
    }


def fit(setting: Setting, seed: int, epochs: int, subset: float) -> tuple[Classifier, Record]:
    """Train with a bare Trainer: no logs, checkpoints or validation of its own."""
    quiet()
    torch.set_num_threads(1)
    seed_everything(seed, verbose=False)
    data = DigitsDataModule(setting.batch_size, subset=subset, sampling_seed=seed)
    decay = setting.decay and partial(getattr(lr_scheduler, setting.decay), **setting.decay_options)
    net = MLP(
        hidden=HIDDEN,
        batch_norm=setting.batch_norm,
        dropout=setting.dropout,
        initialization=setting.initialization,
    )
    optimizer = partial(getattr(optim, setting.optimizer), lr=setting.lr, **setting.options)
    model = Classifier(net, optimizer, decay or None, l2=setting.l2)
    record = Record(data)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*barebones.*")  # nothing is logged: yes
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            barebones=True,
            limit_val_batches=0,
            callbacks=[record],
        )
        trainer.fit(model, datamodule=data)
    return model, record


@cache
def _warm_up(optimizer: str) -> None:
    """Pay for imports and compiled loops once in a process, before the seconds count."""
    fit(Setting(lr=0.1, optimizer=optimizer), seed=0, epochs=1, subset=0.05)
