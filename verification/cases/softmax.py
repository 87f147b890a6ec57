"""Softmax and log-softmax: any dimension, large and equal scores, −∞."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import Arrays, Case, OpTable, normal
from verification.oracles import softmax as oracles


def _case(name: str, *shape: int, dim: int, scale: float = 1.0, offset: float = 0.0,
          change: Callable[[np.ndarray], None] | None = None) -> Case:  # fmt: skip
    def draw(rng: np.random.Generator) -> Arrays:
        input = normal(rng, *shape, scale=scale, offset=offset)
        if change is not None:
            change(input)
        return {"input": input, "cotangent": normal(rng, *shape)}

    return Case(name, draw, {"dim": dim})


def _forbid_some(input: np.ndarray) -> None:
    input[::2, 1] = -np.inf


def _no_numbers(input: np.ndarray) -> None:
    input[:, 0], input[2, 1], input[3, 2] = -np.inf, np.inf, np.nan


def _level(input: np.ndarray) -> None:
    input[0] = 3.0


CASES = (
    _case("easy", 32, 10, dim=1),
    _case("two classes", 32, 2, dim=1),
    _case("one class", 8, 1, dim=1),
    _case("1000 classes", 8, 1000, dim=1),
    _case("a vector", 20, dim=0),
    _case("dim=0", 10, 7, dim=0),
    _case("dim=-1 of 3", 4, 5, 6, dim=-1),
    _case("dim=1 of 4", 2, 5, 3, 4, dim=1),
    _case("equal scores", 6, 5, dim=1, change=_level),
    _case("scores to 1e4", 32, 10, dim=1, scale=3e3),
    _case("offset 1e4", 32, 10, dim=1, offset=1e4),
    _case("scores near 1e-6", 32, 10, dim=1, scale=1e-6),
    _case("scores of -inf", 16, 5, dim=1, change=_forbid_some),
    _case("rows of -inf, of inf, of NaN", 16, 5, dim=-2, change=_no_numbers),
)

TABLES = (
    OpTable(
        name="softmax",
        candidate=functional.softmax,
        builtin=builtin.softmax,
        oracle=oracles.softmax,
        differentiable=("input",),
        cases=CASES,
    ),
    OpTable(
        name="log_softmax",
        candidate=functional.log_softmax,
        builtin=builtin.log_softmax,
        oracle=oracles.log_softmax,
        differentiable=("input",),
        cases=CASES,
    ),
)
