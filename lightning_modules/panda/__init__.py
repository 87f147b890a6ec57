"""Panda: watch one model and change its hyperparameters while it trains.

    python -m lightning_modules fit --config mlp --trainer.callbacks+=lightning_modules.panda.Panda
    python -m lightning_modules.panda runs/mlp/version_0                    # how is it doing?
    python -m lightning_modules.panda runs/mlp/version_0 --scale_lr 0.5     # half the learning rate
    python -m lightning_modules.panda runs/mlp/version_0 --rollback --lr 0.001

Instead of the command, a file will do: a `control.yaml` (or .json) in the run's folder, with lines
such as `lr: 0.001`. It is taken and removed, and what changed stands in `panda.csv`.

Source: lecture, "Babysitting one model".
"""

from __future__ import annotations

from lightning_modules.panda.callback import Panda

__all__ = ["Panda"]
