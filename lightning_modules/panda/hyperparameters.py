"""Where the hyperparameters of a running training are, and how they are changed there."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def hyperparameters(trainer: Trainer, module: LightningModule) -> dict[str, float]:
    """Return what can be changed, and how it stands: of the first group, or layer, that has it."""
    found: dict[str, float] = {}
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    for i, group in enumerate(groups):
        found[f"lr {i}" if i else "lr"] = float(group["lr"])
    if "weight_decay" in groups[0]:
        found["weight_decay"] = next(
            (float(g["weight_decay"]) for g in groups if g.get("weight_decay")), 0.0
        )
    found |= {name: getattr(module, name) for name in ("l2", "l1") if hasattr(module, name)}
    if layers := dropouts(module).values():
        found["dropout"] = next((layer.p for layer in layers if layer.p), 0.0)
    return found


def dropouts(module: nn.Module) -> dict[str, _DropoutNd]:
    """Return the dropout layers, by name."""
    return {name: m for name, m in module.named_modules() if isinstance(m, _DropoutNd)}


def strengths(module: LightningModule) -> dict[str, float]:
    """Return what is in the model and not in its optimizer: l2, l1, dropout layer by layer."""
    found = {name: float(getattr(module, name)) for name in ("l2", "l1") if hasattr(module, name)}
    return found | {f"dropout of {name}": m.p for name, m in dropouts(module).items()}


def restore(module: LightningModule, saved: dict[str, float]) -> None:
    """Set what `strengths` returned."""
    layers = {f"dropout of {name}": layer for name, layer in dropouts(module).items()}
    for name, value in saved.items():
        if name in layers:
            layers[name].p = value
        else:
            setattr(module, name, value)


def change_rates(trainer: Trainer, value: float, scale: bool) -> None:
    """Set or scale the learning rates, and by the same factor what schedules compute them from."""
    for optimizer in trainer.optimizers:
        factors = []
        for group in optimizer.param_groups:
            old = float(group["lr"])
            factors.append(value if scale else value / old)
            new = old * value if scale else value
            group["lr"] = group["lr"].fill_(new) if torch.is_tensor(group["lr"]) else new
            for name in ("initial_lr", "max_lr", "min_lr"):  # as schedules of torch keep them
                if name in group:
                    group[name] = group[name] * factors[-1]
        for config in trainer.lr_scheduler_configs:
            if config.scheduler.optimizer is optimizer:
                _scale_schedule(config.scheduler, factors)


def _scale_schedule(schedule: Any, factors: list[float]) -> None:
    for name in ("base_lrs", "max_lrs", "_last_lr"):
        if rates := getattr(schedule, name, None):
            setattr(schedule, name, [r * f for r, f in zip(rates, factors, strict=True)])
    for inner in getattr(schedule, "_schedulers", []):  # SequentialLR, ChainedScheduler
        _scale_schedule(inner, factors)
