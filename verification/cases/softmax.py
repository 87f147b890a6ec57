"""Softmax and log-softmax: any dimension, large and equal scores, −∞."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import (
    DTYPES,
    LAYOUTS,
    MANY,
    NO_LAYOUTS,
    OFFSETS,
    Arrays,
    Case,
    OpTable,
    holding,
    normal,
    shape_of,
    space,
    spread,
)
from verification.cases.pairs import Options, Values, combinations
from verification.oracles import Result
from verification.oracles import softmax as oracles


def _case(name: str, *shape: int, dim: int, scale: float = 1.0, offset: float = 0.0,
          change: Callable[[np.ndarray], None] | None = None, rare: bool = False,
          up: float = 1.0) -> Case:  # fmt: skip
    def draw(rng: np.random.Generator) -> Arrays:
        input = normal(rng, *shape, scale=scale, offset=offset)
        if change is not None:
            change(input)
        cotangent = normal(rng, *shape, scale=up)
        if rare:  # the gradient is made of probabilities that the output's largest hide
            input[:, 0] -= 80
            cotangent[:, 0] *= 1e35
        return {"input": input, "cotangent": cotangent}

    dtypes = DTYPES[:2] if rare or up != 1 else holding(scale, offset, largest=offset + 3 * scale)
    terms = shape[dim] if shape[dim] >= MANY else 0
    return Case(name, draw, {"dim": dim}, dtypes=dtypes, terms=terms)


def _forbid_some(input: np.ndarray) -> None:
    input[::2, 1] = -np.inf


def _no_numbers(input: np.ndarray) -> None:
    input[:, 0], input[2, 1], input[3, 2] = -np.inf, np.inf, np.nan


def _favour(input: np.ndarray) -> None:
    input[:, 0] += np.linspace(16, 24, len(input))


def _level(input: np.ndarray) -> None:
    input[0] = 3.0


CASES: tuple[Case, ...] = (
    _case("easy", 32, 10, dim=1),
    _case("two classes", 32, 2, dim=1),
    _case("one class", 8, 1, dim=1),
    _case("67 classes", 9, 67, dim=1),
    _case("257 rows", 257, 3, dim=1),
    _case("67 columns, dim=0", 5, 67, dim=0),
    _case("1000 classes", 8, 1000, dim=1),
    _case("4097 classes", 3, 4097, dim=1),
    _case("4097 classes, dim=0", 4097, 2, dim=0),
    _case("4097 classes, dim=1 of 3", 1, 4097, 2, dim=1),
    _case("a vector", 20, dim=0),
    _case("dim=0", 10, 7, dim=0),
    _case("dim=-1 of 3", 4, 5, 6, dim=-1),
    _case("dim=-2 of 4", 2, 5, 3, 4, dim=-2),
    _case("dim=-3 of 4", 2, 5, 3, 4, dim=-3),
    _case("probabilities near 1e-35", 16, 5, dim=1, rare=True),
    _case("dim=1 of 4", 2, 5, 3, 4, dim=1),
    _case("nearly certain", 32, 2, dim=1, change=_favour),
    _case("equal scores", 6, 5, dim=1, change=_level),
    _case("scores to 1e4", 32, 10, dim=1, scale=3e3),
    _case("scores to 1e30", 32, 10, dim=1, scale=3e29),  # nobody has to cut them off
    _case("scores to 1e4, dim=0", 10, 32, dim=0, scale=3e3),
    _case("offset 1e4", 32, 10, dim=1, offset=1e4),
    _case("scores near 1e-6", 32, 10, dim=1, scale=1e-6),
    _case("scores to 90", 32, 10, dim=1, scale=30.0),
    _case("scores of -inf", 16, 5, dim=1, change=_forbid_some),
    _case("scores of -inf, cotangent 1e30", 16, 5, dim=1, change=_forbid_some, up=1e30),
    _case("rows of -inf, of inf, of NaN", 16, 5, dim=-2, change=_no_numbers),
)

OPTIONS = Options(
    {
        "dims": ("1", "2", "3", "4", "5"),
        "dim": ("first", "last", "middle", "counted from the end"),
        "dtype argument": ("", "float32"),
        "layout": LAYOUTS,
        "dtype": DTYPES,
    },
    (
        ("a float64 input would be rounded", {
            "dtype argument": ["float32"], "dtype": ["float64"]}),
        *NO_LAYOUTS,
    ),
)  # fmt: skip
SHAPES = {"1": (7,), "2": (4, 3), "3": (2, 4, 3), "4": (2, 3, 2, 2), "5": (2, 3, 1, 2, 2)}


def _pair(values: Values) -> Case:
    shape, near = shape_of(values, SHAPES), spread(values)
    middle = len(shape) // 2
    where = {"first": 0, "last": -1, "middle": middle, "counted from the end": -len(shape)}
    named = {name: value for name, value in values.items() if name != "dtype"}
    cast = values["dtype argument"]
    dtypes = holding(**near, largest=near["offset"] + 3 * near["scale"])
    return Case(
        "pairs, " + ", ".join(f"{name} {value}" for name, value in named.items() if value),
        lambda rng: {"input": normal(rng, *shape, **near), "cotangent": normal(rng, *shape)},
        {"dim": where[values["dim"]]} | ({"dtype": getattr(torch, cast)} if cast else {}),
        layout=values["layout"],
        dtypes=dtypes[1:] if cast else dtypes,
        values=named,
    )


CASES += tuple(map(_pair, combinations(OPTIONS)))


def _table(name: str) -> OpTable:
    exactly = getattr(oracles, name)

    def oracle(input: Any, dim: int, cotangent: Any, dtype: torch.dtype | None = None) -> Result:
        result: Result = exactly(input, dim=dim, cotangent=cotangent)  # a cast up changes nothing
        return result

    return OpTable(
        name=name,
        candidate=getattr(functional, name),
        builtin=getattr(builtin, name),
        oracle=oracle,
        differentiable=("input",),
        cases=CASES,
        zeros=("output", "grad input") if name == "softmax" else (),
        every_size=("output",) if name == "softmax" else (),  # a logarithm is 0 but for rounding
        options=OPTIONS,
        space=space(OPTIONS, scale=("1", "1e-6", "30", "3e3"), **OFFSETS),
        make=_pair,
    )


TABLES = (_table("softmax"), _table("log_softmax"))
