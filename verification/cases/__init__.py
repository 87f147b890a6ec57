"""What is compared, on which inputs, with which option values: one table per op.

The only place that names the builtins. A table's inputs are NumPy float64 arrays drawn from a
generator; each party gets them rounded to the tested dtype, the oracle exactly these values. Every
draw has a random cotangent: summing an output instead hides a backward that returns zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from verification.cases.pairs import Options, Values

Arrays = dict[str, Any]  # name -> array, or None for an absent optional tensor
Draw = Callable[[np.random.Generator], Arrays]


# All but the first are written as they lie in memory; an expanded tensor repeats itself.
LAYOUTS = ("contiguous", "channels-last", "sliced", "expanded", "transposed")
NO_LAYOUTS = tuple(
    ("few dimensions have few layouts", {"dims": dims, "layout": [layout]})
    for layout, dims in (("channels-last", ["1", "2"]), ("transposed", ["1"]))
)
DTYPES = ("float64", "float32", "bfloat16", "float16")
# More than a vector of them, and no whole number of vectors: loops end in a tail.
TAILS = (67, 257, 1025, 4099)
MANY = 1000  # classes, whose sum one by one is rounded worse than the builtin's in blocks


@dataclass(frozen=True)
class Case:
    """One way of calling an op.

    Attributes:
        name: what is special about it.
        draw: makes the tensors, "cotangent" among them, from a generator.
        options: the arguments that are no tensors.
        layout: how input, cotangent and probabilities lie in memory, one of `LAYOUTS`.
        dtypes: those that can hold the values.
        wide: whether a half-precision input meets parameters and statistics in float32.
        hard: whether rounding the input changes everything, so that below float64 refnet's own
            target alone can be asked for.
        terms: how many numbers a right op may add one by one in float32, where they are many; see
            `tolerance.same_precision`. Refnet's own target makes no allowance.
        autocast: whether the call is made under `torch.autocast`, to bfloat16.
        values: by which values of the op's options the case counts for the coverage of pairs; of a
            case that `OpTable.make` made of more parameters, all of them.
    """

    name: str
    draw: Draw
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "contiguous"
    dtypes: tuple[str, ...] = DTYPES
    wide: bool = False
    hard: bool = False
    terms: int = 0
    autocast: bool = False
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class OpTable:
    """An op, its two other parties, and the cases that they meet in.

    Attributes:
        name: of the op.
        candidate: refnet's function.
        builtin: torch's.
        oracle: the NumPy function; takes the same names and the cotangent.
        differentiable: names of the tensors that get a gradient, where they are given.
        cases: the table.
        buffers: names of the tensors that are moved in place.
        parameters: names of the tensors that may be wider than the input.
        bitwise: whether the candidate's result must have every bit of the builtin's.
        zeros: quantities of the input's shape that may have to be 0 where the input is −∞.
        every_size: quantities whose small values have to be right beside large ones; none that are
            what a sum leaves over.
        rounded: the oracle's argument for the relative error of a number that whoever computes in
            float64 has to round on the way; its response knows of it.
        expanded: the dimension along which an expanded tensor repeats itself.
        options: which values the options have, for the coverage of pairs.
        space: all that a case can be made of, options and sizes, the simplest values first.
        make: makes a case of such values.
        adapt: turns a function with torch's signature into one that takes a case's names.
        complete: adds tensors that depend on the tested dtype and device, such as a mask.
    """

    name: str
    candidate: Callable[..., Any]
    builtin: Callable[..., Any]
    oracle: Callable[..., Any]
    differentiable: tuple[str, ...]
    cases: tuple[Case, ...]
    buffers: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    bitwise: bool = False
    zeros: tuple[str, ...] = ()
    every_size: tuple[str, ...] = ()
    rounded: str = ""
    expanded: int = 0
    options: Options | None = None
    space: Options | None = None
    make: Callable[[Values], Case] | None = None
    adapt: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function
    complete: Callable[[Arrays, dict[str, Any]], Arrays] = lambda tensors, options: tensors


def holding(scale: float = 1.0, offset: float = 0.0, largest: float = 0.0) -> tuple[str, ...]:
    """Return the dtypes that are compared at a scale of the input, an offset and a largest logit.

    float16 has its smallest normal number at 6e-5 and its largest at 65504, and squares have to
    fit; both half-precision dtypes keep two or three digits, which an offset or a large logit
    leaves nothing of.

    Example:
        >>> holding(scale=1e6)
        ('float64', 'float32', 'bfloat16')
    """
    half = offset <= 3e2 and largest <= 1e2
    fits = {"bfloat16": half, "float16": half and 1e-3 <= scale <= 1e2}
    return tuple(name for name in DTYPES if fits.get(name, True))


# Sizes of a case, the simplest first: of the dimensions (n, channels, side, side, side).
SIZES: dict[str, tuple[str, ...]] = {
    "n": ("2", "1", "3", "7", "40", "300", "0"),
    "channels": ("1", "2", "5", "17"),
    "side": ("1", "2", "3"),
}
SCALES = {"scale": ("1", "1e-6", "1e-3", "1e2", "1e6")}
OFFSETS = {"offset": ("0", "1e2", "1e4")}


def space(
    options: Options,
    *impossible: tuple[str, Mapping[str, list[str]]],
    **more: Sequence[str],
) -> Options:
    """Return an op's options together with sizes; what is impossible, and what takes too long.

    Example:
        >>> found = space(Options({"p": ("0", "1"), "dtype": DTYPES}), scale=("1", "1e6"))
        >>> list(found.values)
        ['p', 'n', 'channels', 'side', 'scale']
    """
    values = {name: found for name, found in options.values.items() if name != "dtype"}
    large = ("too large to be quick", {"n": ["300"], "dims": ["4", "5"]})
    if "inplace" in values:
        values["inplace"] = ("False", "True")
    return Options({**values, **SIZES, **more}, (*options.impossible, large, *impossible))


def shape_of(values: Values, otherwise: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return a shape of `dims` dimensions: (n, channels, side, …), or the usual one without sizes.

    Example:
        >>> shape_of({"dims": "3", "n": "7", "channels": "5", "side": "2"}, {})
        (7, 5, 2)
        >>> shape_of({"dims": "3"}, {"3": (2, 4, 3)})
        (2, 4, 3)
    """
    if "n" not in values:
        return otherwise[values["dims"]]
    side = int(values["side"])
    sizes = (int(values["n"]), int(values["channels"]), side, side, side)
    return sizes[: int(values["dims"])]


class Spread(TypedDict):
    """How the numbers of an input are spread."""

    scale: float
    offset: float


def spread(values: Values) -> Spread:
    """Return the scale and the offset of a case's input, 1 and 0 where nothing is said."""
    return {"scale": float(values.get("scale", 1)), "offset": float(values.get("offset", 0))}


def normal(
    rng: np.random.Generator, *shape: int, scale: float = 1.0, offset: float = 0.0
) -> npt.NDArray[np.float64]:
    """Return normal random numbers of a scale around an offset."""
    return offset + scale * rng.standard_normal(shape)


def op_tables() -> dict[str, OpTable]:
    """Return all op tables by name."""
    from verification.cases import (
        activations,
        batch_norm,
        batch_norm_module,
        cross_entropy,
        dropout,
        linear,
        softmax,
    )

    modules = (
        batch_norm, batch_norm_module, dropout, softmax, cross_entropy, linear, activations,
    )  # fmt: skip
    return {table.name: _with_autocast(table) for module in modules for table in module.TABLES}


def _with_autocast(table: OpTable) -> OpTable:
    """Add the first case once more under autocast, where each op has a dtype of its own."""
    first = table.cases[0]
    case = replace(first, name=f"{first.name}, autocast", dtypes=("float32",), autocast=True,
                   values={})  # fmt: skip
    return replace(table, cases=(*table.cases, case))
