"""Uses that differ in the options, and in what becomes of them between two steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from verification.optimizers.uses.option_tables import CHANGED
from verification.optimizers.uses.steps import (
    F64,
    Make,
    Options,
    parameters,
    take_steps,
)


def schedule(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Somebody, or a schedule, sets what is in a group."""
    params = parameters()
    optimizer = make(params, **options)
    take_steps(optimizer, params)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5).step()
    take_steps(optimizer, params)
    optimizer.param_groups[0]["weight_decay"] = 0.3
    take_steps(optimizer, params)
    return optimizer, params


def defaults(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """No learning rate, and at first no option at all."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **{name: v for name, v in options.items() if name != "lr"})
    take_steps(optimizer, params)
    return optimizer, params


def changed(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Every option of a group is another one after three steps."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    take_steps(optimizer, params)
    for group in optimizer.param_groups:
        for name, value in CHANGED.items():
            # Where there was no momentum, RMSprop has no buffer.
            if name in group and (name != "momentum" or group[name]):
                group[name] = value
        if "maximize" in group:
            group["maximize"] = not group["maximize"]
    take_steps(optimizer, params)
    return optimizer, params


def tensor_rate(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """The learning rate is a tensor that somebody changes in place."""
    params, rate = parameters(((3, 2), (4,))), torch.tensor(0.05, dtype=F64)
    optimizer = make(params, **{**options, "lr": rate})
    take_steps(optimizer, params)
    rate.fill_(0.2)
    take_steps(optimizer, params)
    return optimizer, params


def by_place(make: Make, options: Options, arguments: Sequence[Any]) -> tuple[Any, list[Tensor]]:
    """The arguments are given by their places, without names."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, *arguments)
    take_steps(optimizer, params)
    return optimizer, params


def refused(make: Make, options: Options, wrong: Options) -> tuple[Any, list[Tensor]]:
    """An option has a value that no optimizer may take."""
    return make(parameters(), **{**options, **wrong}), []
