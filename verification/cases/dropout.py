"""Dropout with the builtin's own masks: bit for bit the same, and the oracle's function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import (
    DTYPES,
    LAYOUTS,
    NO_LAYOUTS,
    SCALES,
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
from verification.oracles.dropout import dropout as oracle


def next_mask(input: Tensor, p: float, name: str = "dropout") -> Tensor:
    """Recover the keep-mask that a builtin draws next, and use up those random numbers.

    Args:
        input: shape, dtype and layout decide what is drawn.
        p: the probability of shutting off.
        name: "dropout", or "dropout1d", "dropout2d", "dropout3d" for masks of whole channels.

    Returns:
        A boolean tensor of the input's shape, true where it is kept.

    Example:
        >>> import torch
        >>> x = torch.ones(1000)
        >>> _ = torch.manual_seed(0); mask = next_mask(x, 0.3)
        >>> _ = torch.manual_seed(0); bool(((builtin.dropout(x, 0.3) != 0) == mask).all())
        True
    """
    kept: Tensor = getattr(builtin, name)(torch.ones_like(input), p) != 0
    return kept


def _seeded(function: Callable[[], Tensor], seed: Tensor) -> Tensor:
    """Call a function under a seed and put the random states back."""
    devices = [seed.device] if seed.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(seed))
        return _quietly(function)


def _quietly(function: Callable[..., Tensor], *args: Any, **options: Any) -> Tensor:
    """Call a function without the warnings about unusual shapes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def _adapt(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Hand the builtin's mask to a dropout with refnet's signature."""
    return lambda input, seed, mask, **options: _quietly(function, input, mask=mask, **options)


def _oracle(
    input: Any, seed: Any, mask: Any, p: float, cotangent: Any, training: bool = True,
    inplace: bool = False,
) -> Result:  # fmt: skip
    if not training:
        p, mask = 0.0, np.ones_like(mask)
    return oracle(input, p=p, mask=mask, cotangent=cotangent)


def _case(
    name: str,
    *shape: int,
    p: float,
    special: tuple[float, ...] = (),
    layout: str = "contiguous",
    values: Values = MappingProxyType({}),
    scale: float = 1.0,
    **options: bool,
) -> Case:
    def draw(rng: np.random.Generator) -> Arrays:
        input = normal(rng, *shape, scale=scale)
        input.flat[: len(special)] = special
        seed = np.array(rng.integers(2**31))
        return {"input": input, "seed": seed, "cotangent": normal(rng, *shape)}

    dtypes = holding(scale)
    return Case(name, draw, {"p": p, **options}, layout=layout, dtypes=dtypes, values=values)


SHAPES = {"1": (30,), "2": (6, 5), "3": (4, 4, 2), "4": (3, 4, 1, 2), "5": (3, 3, 1, 2, 2)}


def _options(dims: tuple[str, ...]) -> Options:
    return Options(
        {
            "dims": dims,
            "p": ("0", "0.1", "0.5", "0.9", "1"),
            "training": ("True", "False"),
            "inplace": ("True", "False"),
            "layout": LAYOUTS,
            "dtype": DTYPES,
        },
        (
            *NO_LAYOUTS,
            ("memory that repeats itself cannot be written over", {
                "layout": ["expanded"], "inplace": ["True"]}),
        ),
    )  # fmt: skip


def _pair(values: Values) -> Case:
    named = {name: value for name, value in values.items() if name != "dtype"}
    return _case(
        "pairs, " + ", ".join(f"{name} {value}" for name, value in named.items()),
        *shape_of(values, SHAPES),
        scale=spread(values)["scale"],
        p=float(values["p"]),
        layout=values["layout"],
        values=named,
        training=values["training"] == "True",
        inplace=values["inplace"] == "True",
    )


def _table(name: str, dims: tuple[str, ...], *cases: Case) -> OpTable:
    def complete(tensors: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        mask = _seeded(lambda: next_mask(tensors["input"], options["p"], name), tensors["seed"])
        return {**tensors, "mask": mask}

    def drawing(input: Tensor, seed: Tensor, mask: Tensor, **options: Any) -> Tensor:
        return _seeded(lambda: getattr(builtin, name)(input, **options), seed)

    options = _options(dims)
    return OpTable(
        name=name,
        candidate=getattr(functional, name),
        builtin=drawing,
        oracle=_oracle,
        differentiable=("input",),
        cases=cases + tuple(map(_pair, combinations(options))),
        bitwise=True,
        expanded=-1,
        options=options,
        space=space(options, **SCALES),
        make=_pair,
        adapt=_adapt,
        complete=complete,
    )


TABLES = (
    _table(
        "dropout",
        ("1", "2", "3", "4", "5"),
        _case("p=0.1", 40, 30, p=0.1),
        _case("p=0.5", 40, 30, p=0.5),
        _case("p=0.9", 40, 30, p=0.9),
        _case("p=0", 40, 30, p=0.0),
        _case("p=1", 40, 30, p=1.0),
        *(_case(f"{count} elements", count, p=0.4) for count in TAILS),
        _case("images, p=0.3", 4, 3, 6, 5, p=0.3),
        _case("inf and NaN, p=0.5", 64, p=0.5, special=(np.inf, -np.inf, np.nan) * 4),
        _case("inf and NaN, p=1", 64, p=1.0, special=(np.inf, -np.inf, np.nan) * 4),
    ),
    _table("dropout1d", ("2", "3"), _case("p=0.3", 20, 10, 4, p=0.3)),
    _table("dropout2d", ("2", "3", "4", "5"), _case("p=0.3", 20, 10, 2, 3, p=0.3)),
    _table("dropout3d", ("3", "4", "5"), _case("p=0.3", 10, 10, 2, 2, 3, p=0.3)),
)
