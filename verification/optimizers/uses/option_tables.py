"""What the optimizers of the uses are made with, and what none may be made with."""

from __future__ import annotations

from typing import Any

from verification.optimizers.uses.steps import Options

_DECAY = {"lr": 0.05, "weight_decay": 0.1}
# With an ε of 0 the smallest one that a candidate puts in its place shows.
_ADAM: tuple[Options, ...] = (
    {"lr": 0.05},
    {**_DECAY, "amsgrad": True, "maximize": True},
    {"lr": 0.05, "betas": (0.0, 0.99), "eps": 0.0},
)
OPTIONS: dict[str, tuple[Options, ...]] = {
    "SGD": ({"lr": 0.05}, {**_DECAY, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "Momentum": ({"lr": 0.05}, {**_DECAY, "momentum": 0.8, "maximize": True}),
    "RMSprop": (
        {"lr": 0.05},
        {**_DECAY, "momentum": 0.9, "centered": True, "maximize": True},
        {"lr": 0.05, "eps": 0.0},
    ),
    "Adam": _ADAM,
    "AdamW": _ADAM,
}
# The constructor's arguments after the parameters, in their order.
_ADAM_ARGUMENTS = (0.05, (0.8, 0.95), 1e-3, 0.1, True)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "SGD": (0.05, 0.9, 0.3, 0.1, False),
    "Momentum": (0.05, 0.8, 0.1),
    "RMSprop": (0.05, 0.9, 1e-3, 0.1, 0.8, True),
    "Adam": _ADAM_ARGUMENTS,
    "AdamW": _ADAM_ARGUMENTS,
}
_REFUSED: tuple[Options, ...] = ({"lr": -1.0}, {"weight_decay": -0.1})
_ADAM_REFUSED: tuple[Options, ...] = (
    *_REFUSED, {"eps": -1e-8}, {"betas": (1.0, 0.999)}, {"betas": (-0.1, 0.999)},
    {"betas": (0.9, 1.0)}, {"betas": (0.9, -0.1)},
)  # fmt: skip
REFUSED: dict[str, tuple[Options, ...]] = {
    "SGD": (*_REFUSED, {"momentum": -0.5}),
    "Momentum": (*_REFUSED, {"momentum": -0.5}),
    "RMSprop": (*_REFUSED, {"momentum": -0.5}, {"alpha": -0.1}, {"eps": -1e-8}),
    "Adam": _ADAM_REFUSED,
    "AdamW": _ADAM_REFUSED,
}
# What somebody sets in a group between two steps.
CHANGED: Options = {
    "lr": 0.02,
    "momentum": 0.6,
    "dampening": 0.2,
    "betas": (0.7, 0.95),
    "alpha": 0.8,
    "eps": 1e-3,
    "weight_decay": 0.3,
}
