"""Activations: around zero, saturated, and where there is no number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import Arrays, Case, OpTable, normal
from verification.oracles import activations as oracles

SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan)


def _case(
    name: str,
    *shape: int,
    scale: float = 1.0,
    offset: float = 0.0,
    special: bool = False,
    **options: Any,
) -> Case:
    def draw(rng: np.random.Generator) -> Arrays:
        input = normal(rng, *shape, scale=scale, offset=offset)
        if special:
            input.flat[: len(SPECIAL)] = SPECIAL
        return {"input": input, "cotangent": normal(rng, *shape)}

    return Case(name, draw, options)


def _cases(name: str = "", **options: Any) -> tuple[Case, ...]:
    return (
        _case(f"easy{name}", 20, 20, **options),
        _case(f"images{name}", 2, 3, 5, 4, **options),
        _case(f"to 1e4{name}", 20, 20, scale=3e3, **options),
        _case(f"to 30{name}", 20, 20, scale=10.0, **options),
        _case(f"near 1e-6{name}", 20, 20, scale=1e-6, **options),
        _case(f"about -40{name}", 20, 20, offset=-40.0, **options),
        _case(f"0, inf, NaN{name}", 20, special=True, **options),
    )


def _table(name: str, cases: tuple[Case, ...], *, bitwise: bool = False) -> OpTable:
    parties: Mapping[str, Any] = {
        "candidate": getattr(functional, name),
        "builtin": getattr(builtin, name),
        "oracle": getattr(oracles, name),
    }
    return OpTable(name=name, differentiable=("input",), cases=cases, bitwise=bitwise, **parties)


TABLES = (
    _table("relu", _cases(), bitwise=True),
    _table(
        "leaky_relu",
        _cases()
        + _cases(", slope 0.2", negative_slope=0.2)
        + _cases(", slope -0.5", negative_slope=-0.5),
    ),
    _table("tanh", _cases()),
    _table("sigmoid", _cases()),
)
