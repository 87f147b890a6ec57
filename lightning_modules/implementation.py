"""The switch `implementation: refnet | torch`: whose layers, loss and optimizer a run has."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import torch
from torch.optim import Optimizer

import refnet.nn

Implementation = Literal["refnet", "torch"]

_LAYERS: dict[str, ModuleType] = {"refnet": refnet.nn, "torch": torch.nn}


def layers(implementation: Implementation) -> ModuleType:
    """Return the namespace that layers and losses are taken from.

    Args:
        implementation: "refnet" or "torch".

    Returns:
        `refnet.nn` or `torch.nn`: the same names, arguments, parameters and initial weights.

    Raises:
        ValueError: for any other name.

    Example:
        >>> layers("torch").Linear(3, 2)
        Linear(in_features=3, out_features=2, bias=True)
    """
    if implementation not in _LAYERS:
        raise ValueError(f"implementation must be one of {sorted(_LAYERS)}, got {implementation!r}")
    return _LAYERS[implementation]


def torch_counterpart(optimizer: Optimizer) -> Optimizer:
    """Build the optimizer of `torch.optim` that has the name and the options of one of refnet's.

    Args:
        optimizer: a fresh optimizer. One that is not refnet's comes back as it is.

    Returns:
        The optimizer of torch, over the same parameter groups.

    Raises:
        ValueError: if torch has no optimizer of that name, or lacks an option that is in use.

    Example:
        >>> import refnet.optim
        >>> ours = refnet.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
        >>> theirs = torch_counterpart(ours)
        >>> type(theirs).__module__, theirs.param_groups[0]["lr"]
        ('torch.optim.sgd', 0.5)
    """
    ours = type(optimizer)
    if ours.__module__.split(".")[0] != "refnet":
        return optimizer
    theirs: type[Optimizer] | None = getattr(torch.optim, ours.__name__, None)
    if theirs is None:
        raise ValueError(
            f"implementation='torch' has no counterpart of the optimizer {ours.__name__}: "
            "choose one that torch.optim has too"
        )
    known = inspect.signature(theirs).parameters
    defaults = inspect.signature(ours).parameters
    for group in optimizer.param_groups:
        for name, value in group.items():
            in_use = name in defaults and value != defaults[name].default
            if name not in known and in_use:
                raise ValueError(
                    f"implementation='torch': torch.optim.{ours.__name__} has no option "
                    f"{name!r}, got {name}={value!r}"
                )
    groups = [
        {name: value for name, value in group.items() if name in known or name == "params"}
        for group in optimizer.param_groups
    ]
    build: Callable[[list[dict[str, Any]]], Optimizer] = theirs
    return build(groups)
