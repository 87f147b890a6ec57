"""The linear layer: any leading shape, with and without a bias, cancellation in the sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import (
    DTYPES,
    LAYOUTS,
    NO_LAYOUTS,
    OFFSETS,
    SCALES,
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
from verification.oracles.linear import linear as of_matrix


def _case(name: str, *leading: int, inputs: int, outputs: int = 6, bias: bool = True,
          scale: float = 1.0, offset: float = 0.0, special: tuple[float, ...] = ()
          ) -> Case:  # fmt: skip
    def draw(rng: np.random.Generator) -> Arrays:
        weight = normal(rng, outputs, inputs)
        np.fill_diagonal(weight[: len(special)], special)  # each in a row and a column of its own
        return {
            "input": normal(rng, *leading, inputs, scale=scale, offset=offset),
            "weight": weight,
            "bias": normal(rng, outputs) if bias else None,
            "cotangent": normal(rng, *leading, outputs),
        }

    return Case(name, draw, dtypes=holding(scale, offset))


OPTIONS = Options(
    {
        "dims": ("1", "2", "3", "4", "5"),
        "bias": ("True", "False"),
        "weight": ("matrix", "vector"),
        "layout": LAYOUTS,
        "dtype": DTYPES,
    },
    (
        *NO_LAYOUTS,
        ("of one example there is one layout", {"dims": ["1"], "layout": ["expanded"]}),
        ("torch fails", {"dims": ["2"], "weight": ["vector"], "bias": ["True"]}),
    ),
)  # fmt: skip
FEATURES = {"inputs": ("1", "2", "8", "100"), "outputs": ("1", "2", "6")}
LEADING = {dims: (4, 3, 1, 2) for dims in OPTIONS.values["dims"]}


def _pair(values: Values) -> Case:
    leading = shape_of(values, LEADING)[: int(values["dims"]) - 1]
    inputs = int(values.get("inputs", 5))
    outputs = (int(values.get("outputs", 3)),) if values["weight"] == "matrix" else ()

    def draw(rng: np.random.Generator) -> Arrays:
        return {
            "input": normal(rng, *leading, inputs, **spread(values)),
            "weight": normal(rng, *outputs, inputs),
            "bias": normal(rng, *outputs) if values["bias"] == "True" else None,
            "cotangent": normal(rng, *leading, *outputs),
        }

    named = {name: value for name, value in values.items() if name != "dtype"}
    return Case(
        "pairs, " + ", ".join(f"{name} {value}" for name, value in named.items()),
        draw,
        layout=values["layout"],
        dtypes=holding(**spread(values)),
        values=named,
    )


def _oracle(input: Any, weight: Any, bias: Any, cotangent: Any) -> Result:
    """A weight that is a vector is a matrix with one row, whose dimension is left out."""
    if weight.ndim == 2:
        return of_matrix(input, weight, bias, cotangent=cotangent)
    row = None if bias is None else bias[None]
    values = of_matrix(input, weight[None], row, cotangent=cotangent[..., None]).values
    squeezed = {"output": values["output"][..., 0], "grad weight": values["grad weight"][0]}
    if bias is not None:
        squeezed["grad bias"] = values["grad bias"][0]
    return Result(values | squeezed)


TABLES = (
    OpTable(
        name="linear",
        candidate=functional.linear,
        builtin=builtin.linear,
        oracle=_oracle,
        differentiable=("input", "weight", "bias"),
        cases=(
            _case("easy", 32, inputs=8),
            _case("no bias", 32, inputs=8, bias=False),
            _case("one example, no batch", inputs=8),
            _case("one example", 1, inputs=8),
            _case("(2, 3, 4, in)", 2, 3, 4, inputs=8),
            _case("(2, 1, 3, 1, 2, in)", 2, 1, 3, 1, 2, inputs=8),
            _case("no examples", 0, inputs=8),
            _case("1 input, 1 output", 16, inputs=1, outputs=1),
            _case("1000 inputs", 16, inputs=1000),
            _case("scale 1e6", 32, inputs=8, scale=1e6),
            _case("scale 1e-6", 32, inputs=8, scale=1e-6),
            _case("offset 1e4", 32, inputs=100, offset=1e4),
            _case("offset 3e2", 32, inputs=100, offset=3e2),
            _case("weights of inf, -inf, NaN", 16, inputs=8, special=(np.inf, -np.inf, np.nan)),
            *map(_pair, combinations(OPTIONS)),
        ),
        options=OPTIONS,
        space=space(OPTIONS, **FEATURES, **SCALES, **OFFSETS),
        make=_pair,
    ),
)
