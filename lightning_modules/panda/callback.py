"""The callback that takes orders while a model trains."""

from __future__ import annotations

import contextlib
import csv
import logging
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_modules.callbacks import is_trial, run_folder
from lightning_modules.files import to_json, write_whole
from lightning_modules.panda.hyperparameters import (
    change_rates,
    dropouts,
    hyperparameters,
    restore,
    strengths,
)
from lightning_modules.panda.orders import Orders, parse

log = logging.getLogger(__name__)
COLUMNS = ("time", "epoch", "step", "name", "old", "new")


class Panda(Callback):
    """Take orders for a training from files in its folder; keep a log of what changed.

    A changed learning rate outlives the schedule: its initial rates are scaled by the same factor,
    so that it goes on from the new rate in the shape that it had. A file with a mistake is renamed
    to `*.rejected`, with a warning, and changes nothing. `rollback` restores weights, buffers,
    optimizer, schedule and strengths of the best checkpoint; the count of epochs and steps, the
    order of the data and other callbacks go on. Changes are part of a checkpoint. After each epoch
    `panda.json` says how the run is doing.

    Args:
        every: steps between two looks into the folder.
        settle: seconds for which a file must not have changed before it is read: somebody may
            still be writing it.

    Raises:
        ValueError: every is below 1, or settle negative.

    Example:
        >>> trainer = Trainer(callbacks=[Panda(every=10)], logger=False)
    """

    def __init__(self, every: int = 1, settle: float = 1.0) -> None:
        if every < 1 or not settle >= 0:
            raise ValueError(f"every must be at least 1 and settle 0, got {every} and {settle}")
        self.every, self.settle = every, settle
        self._seen: dict[Path, tuple[tuple[int, int], float]] = {}
        self._strengths: dict[str, float] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the strengths of the checkpoint that is resumed."""
        restore(pl_module, self._strengths)
        self._strengths = strengths(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Look for orders, and follow them before the step."""
        if batch_idx % self.every or is_trial(trainer):
            return
        folder = run_folder(trainer)  # on every process: it is broadcast
        found = self._settled(folder) if trainer.is_global_zero else []
        if trainer.world_size > 1:
            found = trainer.strategy.broadcast(found)
        for path, text in found:
            try:
                rows = self._follow(parse(text), trainer, pl_module)
            except ValueError as error:
                log.warning(f"{path}: {error}; nothing was changed")
                rows = [("rejected", path.name, str(error))]
            if trainer.is_global_zero:
                _record(folder / "panda.csv", trainer, rows)
                if rows[:1] and rows[0][0] == "rejected":
                    with contextlib.suppress(FileNotFoundError):  # withdrawn meanwhile
                        path.replace(path.with_name(f"{path.name}.rejected"))
                else:
                    path.unlink(missing_ok=True)

    def _settled(self, folder: Path) -> list[tuple[Path, str]]:
        """Return the control files that nobody is writing any more, in the order of their names."""
        now, ready = time.monotonic(), []
        paths = sorted(p for p in folder.glob("control*") if p.suffix in (".yaml", ".json"))
        self._seen = {path: seen for path, seen in self._seen.items() if path in paths}
        for path in paths:
            try:
                stat, text = path.stat(), path.read_text(encoding="utf-8", errors="replace")
            except OSError:  # gone meanwhile, or no file that can be read: no reason to crash
                continue
            signature = stat.st_mtime_ns, stat.st_size
            if path not in self._seen or self._seen[path][0] != signature:
                self._seen[path] = signature, now
            if now - self._seen[path][1] >= self.settle:
                ready.append((path, text))
        return ready

    def _follow(
        self, orders: Orders, trainer: Trainer, module: LightningModule
    ) -> list[tuple[str, Any, Any]]:
        """Follow orders and return what changed: names, old and new values."""
        before = hyperparameters(trainer, module)
        for name in orders.keys() - before.keys() - {"scale_lr", "rollback"}:
            raise ValueError(f"this model has no {name}")
        decays = getattr(module, "l2_as", None) == "decay"
        if "weight_decay" in orders and decays:
            raise ValueError("the model's weight_decay is λ/m of its l2: change that")
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if orders.get("l1") and not before["l1"] and "l1" not in groups[0]:
            raise ValueError("l1 can't be switched on later: begin with a small one")
        if orders.keys() & {"lr", "scale_lr"} and not all(float(g["lr"]) > 0 for g in groups):
            raise ValueError("the learning rate is 0 at this moment of the schedule: try again")
        checkpoint = _best(trainer) if "rollback" in orders else {}  # all that can fail is above
        rows: list[tuple[str, Any, Any]] = []
        if checkpoint:
            self._roll_back(checkpoint, trainer, module)
            rows.append(("rollback", trainer.global_step, checkpoint["global_step"]))
        for name, value in orders.items():
            if name in ("lr", "scale_lr"):
                change_rates(trainer, value, scale=name == "scale_lr")
            elif name == "weight_decay":
                for group in [g for g in groups if g.get(name)] or groups:
                    group[name] = value
            elif name == "dropout":
                layers = dropouts(module).values()
                for layer in [layer for layer in layers if layer.p] or layers:
                    layer.p = value
            elif name != "rollback":
                setattr(module, name, value)
        self._strengths = strengths(module)
        after = hyperparameters(trainer, module)
        return rows + [(n, before[n], after[n]) for n in after if before[n] != after[n]]

    def _roll_back(
        self, checkpoint: dict[str, Any], trainer: Trainer, module: LightningModule
    ) -> None:
        module.load_state_dict(checkpoint["state_dict"])
        for optimizer, state in zip(
            trainer.optimizers, checkpoint["optimizer_states"], strict=True
        ):
            optimizer.load_state_dict(state)
            optimizer.zero_grad()  # of an unfinished accumulation
        for config, state in zip(
            trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=True
        ):
            config.scheduler.load_state_dict(state)
        restore(module, checkpoint.get("callbacks", {}).get(self.state_key, {}))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write how the run is doing."""
        if trainer.state.fn != "fit" or trainer.sanity_checking or is_trial(trainer):
            return
        folder = run_folder(trainer)
        if trainer.is_global_zero:
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            status = {"epoch": trainer.current_epoch, "step": trainer.global_step, **logged}
            status |= hyperparameters(trainer, pl_module)
            write_whole(folder / "panda.json", to_json(status))

    def state_dict(self) -> dict[str, Any]:
        """Return the strengths, as plain numbers; the rest is in optimizer and schedule."""
        return dict(self._strengths)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember them until the training starts."""
        self._strengths = dict(state_dict)


def _best(trainer: Trainer) -> dict[str, Any]:
    path = str(getattr(trainer.checkpoint_callback, "best_model_path", ""))
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # unpickling a damaged file can raise anything
        raise ValueError(f"no checkpoint to go back to: {path or 'none is written yet'}") from error


def _record(path: Path, trainer: Trainer, rows: Sequence[tuple[str, Any, Any]]) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([COLUMNS] if new else [])
        when = datetime.now().isoformat(timespec="seconds")
        writer.writerows((when, trainer.current_epoch, trainer.global_step, *row) for row in rows)
