"""Activations: around zero, saturated, and where there is no number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import (
    DTYPES,
    LAYOUTS,
    NO_LAYOUTS,
    TAILS,
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
from verification.oracles import activations as oracles

SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan)


def _case(
    name: str,
    *shape: int,
    scale: float = 1.0,
    offset: float = 0.0,
    special: bool = False,
    decades: tuple[float, float] | None = None,
    **options: Any,
) -> Case:
    def draw(rng: np.random.Generator) -> Arrays:
        input = normal(rng, *shape, scale=scale, offset=offset)
        if decades:
            input = np.sign(input) * 10 ** rng.uniform(*decades, shape)
        if special:
            input.flat[: len(SPECIAL)] = SPECIAL
        return {"input": input, "cotangent": normal(rng, *shape)}

    dtypes = DTYPES[:3] if decades else holding(scale, abs(offset), largest=3 * scale)
    return Case(name, draw, options, dtypes=dtypes)


def _cases(name: str = "", **options: Any) -> tuple[Case, ...]:
    return (
        _case(f"easy{name}", 20, 20, **options),
        _case(f"images{name}", 2, 3, 5, 4, **options),
        _case(f"to 1e4{name}", 20, 20, scale=3e3, **options),
        _case(f"to 30{name}", 20, 20, scale=10.0, **options),
        _case(f"to 90{name}", 20, 20, scale=30.0, **options),
        _case(f"from 1e-30 to 100{name}", 20, 20, decades=(-30.0, 2.0), **options),
        _case(f"near 1e-6{name}", 20, 20, scale=1e-6, **options),
        _case(f"near 1e-5{name}", 20, 20, scale=3e-5, **options),  # tanh is no longer z
        _case(f"about -40{name}", 20, 20, offset=-40.0, **options),
        _case(f"0, inf, NaN{name}", 20, special=True, **options),
        *(_case(f"{count} elements{name}", count, **options) for count in TAILS),
    )


SHAPES = {"1": (7,), "2": (4, 3), "3": (2, 4, 3), "4": (2, 3, 2, 2), "5": (2, 3, 1, 2, 2)}


def _options(**values: tuple[str, ...]) -> Options:
    return Options(
        {"dims": tuple(SHAPES), "layout": LAYOUTS, "dtype": DTYPES, **values},
        (
            *NO_LAYOUTS,
            ("memory that repeats itself cannot be written over", {
                "layout": ["expanded"], "inplace": ["True"]}),
            ("torch refuses its gradient", {
                "negative_slope": ["-0.5"], "inplace": ["True"]}),
        ),
    )  # fmt: skip


def _pair(values: Values) -> Case:
    shape, near = shape_of(values, SHAPES), spread(values)
    named = {name: value for name, value in values.items() if name != "dtype"}
    options: dict[str, Any] = {}
    if "inplace" in values:
        options["inplace"] = values["inplace"] == "True"
    if "negative_slope" in values:
        options["negative_slope"] = float(values["negative_slope"])
    return Case(
        "pairs, " + ", ".join(f"{name} {value}" for name, value in named.items()),
        lambda rng: {"input": normal(rng, *shape, **near), "cotangent": normal(rng, *shape)},
        options,
        layout=values["layout"],
        dtypes=holding(near["scale"], abs(near["offset"]), largest=3 * near["scale"]),
        values=named,
    )


def _table(
    name: str, cases: tuple[Case, ...], options: Options, *, bitwise: bool = False,
    every_size: tuple[str, ...] = ("output",),
) -> OpTable:  # fmt: skip
    return OpTable(
        name=name,
        candidate=getattr(functional, name),
        builtin=getattr(builtin, name),
        oracle=_without_inplace(getattr(oracles, name)),
        differentiable=("input",),
        cases=cases + tuple(map(_pair, combinations(options))),
        bitwise=bitwise,
        every_size=every_size,
        options=options,
        space=space(options, scale=("1", "1e-6", "10", "3e3"), offset=("0", "-40", "40")),
        make=_pair,
    )


def _without_inplace(oracle: Callable[..., Result]) -> Callable[..., Result]:
    return lambda inplace=False, **arguments: oracle(**arguments)


INPLACE = ("True", "False")
TABLES = (
    _table("relu", _cases(), _options(inplace=INPLACE), bitwise=True, every_size=()),
    _table(
        "leaky_relu",
        _cases()
        + _cases(", slope 0.2", negative_slope=0.2)
        + _cases(", slope -0.5", negative_slope=-0.5),
        _options(inplace=INPLACE, negative_slope=("0.01", "0.2", "-0.5")),
        every_size=("output", "grad input"),
    ),
    _table("tanh", _cases(), _options()),
    _table("sigmoid", _cases(), _options()),
)
