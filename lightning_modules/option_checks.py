"""Options that make no sense together with the data, the checkpoint or the net, and sizes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from lightning_modules.data import ClassificationData
from lightning_modules.errors import UserError

LOGGED = ("dev_loss", "dev_acc", "train_loss", "train_acc")


def check_length(trainer: Any) -> None:
    """Refuse a fit without a single step: there would be nothing to measure.

    Raises:
        UserError: naming the option.
    """
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer[name] == 0:
            raise UserError(f"--trainer.{name} 0 leaves nothing to train")


def check_monitor(group: str, monitor: str | None, mode: str) -> None:
    """Refuse a quantity that is never logged, and the best accuracy being the lowest.

    Raises:
        UserError: naming the option.
    """
    if monitor not in LOGGED:
        raise UserError(f"--{group}.monitor must be one of {', '.join(LOGGED)}, got {monitor}")
    wanted = "max" if monitor.endswith("_acc") else "min"
    if mode != wanted:
        raise UserError(f"--{group}.monitor {monitor} needs --{group}.mode {wanted}, got {mode}")


def check_schedule(optimizers: Any) -> None:
    """Refuse a schedule that watches a quantity which is never logged.

    Raises:
        UserError: naming the option.
    """
    schedule = optimizers.get("lr_scheduler", {}) if isinstance(optimizers, dict) else {}
    monitor = schedule.get("monitor", LOGGED[0])
    if monitor not in LOGGED:
        raise UserError(
            f"--model.lr_scheduler.monitor must be one of {', '.join(LOGGED)}, got {monitor}"
        )


def check_net(path: str, checkpoint: dict[str, Any], net: nn.Module) -> None:
    """Refuse a checkpoint whose tensors have other names or shapes than the net's.

    Raises:
        UserError: naming the first tensor that differs.
    """
    there = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    here = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    if differing := sorted({name for name, _ in there.items() ^ here.items()}):
        first = differing[0]
        raise UserError(
            f"--ckpt_path: {path} holds another net: {len(differing)} tensors differ, such as "
            f"{first}, of shape {there.get(first)} there and {here.get(first)} here"
        )


def check_epochs(path: str, checkpoint: dict[str, Any], max_epochs: int | None) -> None:
    """Refuse to go on with a training that has had all of its epochs.

    Raises:
        UserError: naming the option that gives it more.
    """
    done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if max_epochs is not None and 0 <= max_epochs <= done:
        raise UserError(
            f"--ckpt_path: {path} has finished {done} epochs: to go on, give a larger "
            f"--trainer.max_epochs than {max_epochs}"
        )


def fit_sizes(model: Any, data: ClassificationData) -> None:
    """Give a net that was left at the digits' sizes those of other data.

    Args:
        model: the configuration of the model: `num_classes`, and `init_args` of its net.
        data: any data; for the digits nothing changes.
    """
    images = len(data.shape) == 3  # (C, H, W), else (n,)
    ours: dict[str, tuple[int, Any]] = {
        "in_features": (64, math.prod(data.shape)),
        "out_features": (10, data.num_classes),
    }
    if images:
        height, width = data.shape[1:]
        size = width if height == width else (height, width)
        ours |= {"in_channels": (1, data.shape[0]), "image_size": (8, size)}
    net = getattr(model.net, "init_args", None) or {}
    for name, (digits, found) in ours.items():
        if name in net and net[name] == digits:
            net[name] = found
    if model.num_classes == 10:
        model.num_classes = data.num_classes


def check_outputs(model: Any, data: ClassificationData) -> None:
    """Refuse a net that can't take the data, or that tells another number of classes apart.

    Raises:
        UserError: naming the option.
    """
    classes = model.confusion.num_classes
    was_training = model.training
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *data.shape))
    except RuntimeError as error:
        kind = "images" if len(data.shape) == 3 else "features"
        shape = ", ".join(map(str, data.shape))
        raise UserError(f"--model.net can't take {kind} (N, {shape}): {error}") from error
    finally:
        model.train(was_training)
    if tuple(logits.shape) != (1, classes) or classes < data.num_classes:
        raise UserError(
            f"--model.num_classes {classes}: the net has {logits.shape[-1]} outputs, "
            f"and there are {data.num_classes} classes"
        )
