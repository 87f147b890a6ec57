"""What can be ordered of a running training, as a control file says it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import yaml

Orders = dict[str, float]
# What can be ordered: from (inclusive or not), to (not inclusive), and what it says in --help.
ORDERS: dict[str, tuple[str, str]] = {
    "lr": ("above 0", "learning rate from now on; a schedule goes on from there"),
    "scale_lr": ("above 0", "factor on the learning rate"),
    "weight_decay": ("at least 0", "of the groups of parameters that have one, all if none has"),
    "l2": ("at least 0", "the model's λ of L2 regularization"),
    "l1": ("at least 0", "the model's λ of L1 regularization"),
    "dropout": ("from 0 to below 1", "of the layers that have one, all if none has"),
    "rollback": ("true", "back to the best checkpoint of the run: weights, optimizer, schedule, "
        "strengths; other orders come after it"),
}  # fmt: skip
_HOLDS: dict[str, Callable[[Any], bool]] = {
    "above 0": lambda v: 0 < v < math.inf,
    "at least 0": lambda v: 0 <= v < math.inf,
    "from 0 to below 1": lambda v: 0 <= v < 1,
    "true": lambda v: v is True,
}


def parse(text: str) -> Orders:
    """Read a control file: a mapping, in YAML or JSON, of names in `ORDERS` to values.

    Raises:
        ValueError: naming the first thing that makes no sense; there is nothing that half counts.

    Example:
        >>> parse("lr: 1e-3")
        {'lr': 0.001}
        >>> parse("lr: -1")
        Traceback (most recent call last):
        ValueError: lr must be above 0, got -1
    """
    try:
        orders = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:  # brackets in brackets in brackets
        raise ValueError(f"no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(orders, dict) or not orders:
        raise ValueError(f"must be a mapping such as 'lr: 0.001', got {text.strip()[:40]!r}")
    for name, value in orders.items():
        if name not in ORDERS:
            raise ValueError(f"{name!r} is none of {', '.join(ORDERS)}")
        orders[name] = _number(value) if name != "rollback" else value
        if not _HOLDS[ORDERS[name][0]](orders[name]):
            raise ValueError(f"{name} must be {ORDERS[name][0]}, got {value}")
    if {"lr", "scale_lr"} <= orders.keys():
        raise ValueError("lr and scale_lr exclude each other")
    return cast("Orders", orders)


def _number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)  # YAML takes 1e-3 for text
    except (TypeError, ValueError, OverflowError):
        return math.nan
