"""Optimizers: option values alone and in combination, run as whole trajectories.

Gradients span the decades, one decade per tensor, since ε bugs show at small ones and β₂ bugs over
many; some steps have gradients of zero, some none at all, and the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from refnet import optim
from verification.oracles.adam import adam
from verification.oracles.adamw import adamw
from verification.oracles.momentum import momentum
from verification.oracles.rmsprop import rmsprop
from verification.oracles.sgd import sgd

Options = Mapping[str, Any]
GRADIENT_SCALES = (1e-8, 1e-4, 1.0, 1e4)


@dataclass(frozen=True)
class OptimizerTable:
    """An optimizer, its two other parties, and the options that they are run with.

    Attributes:
        name: of the optimizer.
        candidate: refnet's class.
        builtin: makes torch's from parameters and the same options, or returns None where torch has
            no such optimizer.
        oracle: runs a trajectory of one parameter in NumPy.
        options: the table.
        own_state: names of state that the builtin doesn't keep.
    """

    name: str
    candidate: Callable[..., torch.optim.Optimizer]
    builtin: Callable[..., torch.optim.Optimizer | None]
    oracle: Callable[..., Any]
    options: tuple[Options, ...]
    own_state: tuple[str, ...] = ()


def _sgd_as_momentum(
    params: list[torch.Tensor],
    *,
    lr: float,
    momentum: float = 0.9,
    bias_correction: bool = False,
    **others: Any,
) -> torch.optim.Optimizer | None:
    """The lecture's rule from torch's SGD: dampening β, and zero buffers laid in beforehand."""
    if bias_correction:
        return None
    optimizer = torch.optim.SGD(params, lr=lr, momentum=momentum, dampening=momentum, **others)
    for param in params:
        optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    return optimizer


def _rmsprop(
    params: list[torch.Tensor], *, eps_inside_root: bool = False, **options: Any
) -> torch.optim.Optimizer | None:
    return None if eps_inside_root else torch.optim.RMSprop(params, **options)


def _each(base: Options, *changes: Options) -> tuple[Options, ...]:
    return tuple({**base, **change} for change in ({}, *changes))


_DECAY, _UP = {"weight_decay": 0.1}, {"maximize": True}
_ADAM = _each(
    {"lr": 0.01},
    {"betas": (0.5, 0.9)},
    {"eps": 1e-4},
    {"eps": 0.0},
    _DECAY,
    {"amsgrad": True},
    _UP,
    {**_DECAY, "amsgrad": True},
    {**_UP, "amsgrad": True},
    {**_DECAY, **_UP, "amsgrad": True, "eps": 1e-6, "betas": (0.8, 0.95)},
)

TABLES = (
    OptimizerTable(
        name="SGD",
        candidate=optim.SGD,
        builtin=torch.optim.SGD,
        oracle=sgd,
        options=(
            {"lr": 0.1},
            {"lr": 0.1, **_DECAY},
            {"lr": 0.1, **_DECAY, **_UP},
            *(
                {"lr": 0.1, "momentum": 0.9, "dampening": d, "weight_decay": w, "maximize": m}
                for d, w, m in product((0.0, 0.4), (0.0, 0.1), (False, True))
            ),
            {"lr": 0.1, "momentum": 0.9, "nesterov": True},
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, **_DECAY},
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, **_DECAY, **_UP},
        ),
    ),
    OptimizerTable(
        name="Momentum",
        candidate=optim.Momentum,
        builtin=_sgd_as_momentum,
        oracle=momentum,
        own_state=("step",),
        options=_each(
            {"lr": 0.1},
            {"momentum": 0.5},
            {"momentum": 0.98},
            _DECAY,
            _UP,
            {**_DECAY, **_UP},
            {"bias_correction": True},
            {"bias_correction": True, "momentum": 0.98, **_DECAY, **_UP},
        ),
    ),
    OptimizerTable(
        name="RMSprop",
        candidate=optim.RMSprop,
        builtin=_rmsprop,
        oracle=rmsprop,
        options=_each(
            {"lr": 0.01},
            {"alpha": 0.9},
            {"eps": 1e-4},
            _DECAY,
            {"momentum": 0.9},
            {"centered": True},
            _UP,
            {**_DECAY, **_UP, "momentum": 0.5, "centered": True, "alpha": 0.9, "eps": 1e-6},
            {"eps_inside_root": True},
            {"eps_inside_root": True, "eps": 1e-4, "alpha": 0.9},
            {"eps_inside_root": True, "momentum": 0.5},
            {"momentum": 0.9, **_DECAY},
            {"eps_inside_root": True, **_DECAY, **_UP, "momentum": 0.5, "centered": True},
        ),
    ),
    OptimizerTable(
        name="Adam",
        candidate=optim.Adam,
        builtin=torch.optim.Adam,
        oracle=adam,
        options=(
            *_ADAM,
            *_each(
                {"lr": 0.01, **_DECAY, "decoupled_weight_decay": True},
                {"amsgrad": True},
                _UP,
            ),
        ),
    ),
    OptimizerTable(
        name="AdamW",
        candidate=optim.AdamW,
        builtin=torch.optim.AdamW,
        oracle=adamw,
        options=_ADAM,
    ),
)


def optimizer_tables() -> dict[str, OptimizerTable]:
    """Return all optimizer tables by name."""
    return {table.name: table for table in TABLES}
