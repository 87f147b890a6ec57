"""The values of the options of an optimizer, alone and in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

Options = Mapping[str, Any]


def describe_all(options: Options) -> str:
    """Return the options as text.

    Example:
        >>> describe_all({"lr": torch.tensor([0.1])}), describe_all({})
        ('lr=Tensor[0.1]', 'defaults')
    """
    return " ".join(f"{name}={_text(value)}" for name, value in options.items()) or "defaults"


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        brackets = "[]" if isinstance(value, list) else "()"
        return f"{brackets[0]}{', '.join(map(_text, value))}{brackets[1]}"
    if not isinstance(value, Tensor):
        return str(value)
    return f"Tensor{[round(v, 6) for v in value.tolist()] if value.dim() else (value.item(),)}"


def _tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


_NUMBERS = (-1.0, math.nan, math.inf)
_LRS = (0.0, 0.05, 1, *_NUMBERS, _tensor(0.05)[0], _tensor(0.05), _tensor(0.1, 0.2), -_tensor(1))
_COMMON: dict[str, tuple[Any, ...]] = {
    "lr": _LRS,
    "weight_decay": (0.1, *_NUMBERS),
    "maximize": (True,),
    "foreach": (True, False),
    "differentiable": (True,),
}
_T = _tensor(0.8)[0], _tensor(0.9)[0]
_ADAM: dict[str, tuple[Any, ...]] = {
    **_COMMON,
    "betas": (
        (0.5, 0.8), (0.0, 0.9), [0.5, 0.8], (0, 0), (1.0, 0.9), (0.9, 1.0), (-0.1, 0.9),
        (0.9, math.nan), _T, (_tensor(0.8), _tensor(0.9)), (_tensor(0.8, 0.8), _T[1]), (0.9, _T[1]),
    ),
    "eps": (1e-3, 0.0, *_NUMBERS),
    "amsgrad": (True,),
    "fused": (True, False),
    "capturable": (True,),
}  # fmt: skip
OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "SGD": {
        **_COMMON,
        "weight_decay": (0.1, *_NUMBERS, _tensor(0.1)[0]),
        "momentum": (0.9, *_NUMBERS),
        "dampening": (0.5, -0.5),
        "nesterov": (True,),
        "fused": (True, False),
    },
    "RMSprop": {
        **_COMMON,
        "alpha": (0.5, 1.5, *_NUMBERS),
        "eps": (1e-3, 0.0, *_NUMBERS),
        "momentum": (0.9, *_NUMBERS),
        "centered": (True,),
        "capturable": (True,),
    },
    "Adam": {**_ADAM, "decoupled_weight_decay": (True,)},
    "AdamW": _ADAM,
}


def option_values(optimizer: str) -> list[Options]:
    """Return the defaults, then every value of every option of an optimizer."""
    table = OPTIONS[optimizer]
    return [{}, *({name: value} for name, values in table.items() for value in values)]


def option_pairs(optimizer: str) -> list[Options]:
    """Return all pairs of two options' values that are not refused by themselves."""
    table = OPTIONS[optimizer]
    some = {name: [v for v in values if _valid(v)] for name, values in table.items()}
    return [
        {a: first, b: second}
        for a, b in combinations(some, 2)
        for first in some[a]
        for second in some[b]
    ]


def _valid(value: Any) -> bool:
    items = value if isinstance(value, tuple | list) else (value,)
    return all(
        i.numel() == 1 and i >= 0 if isinstance(i, Tensor) else i is True or 0 <= i < math.inf
        for i in items
    ) and not (isinstance(value, tuple) and describe_all({"": value}) in _REFUSED)


_REFUSED = {describe_all({"": v}) for v in ((0, 0), (1.0, 0.9), (0.9, 1.0), (0.9, _T[1]))}
