"""What is compared, on which inputs, with which option values: one table per op.

The only place that names the builtins. A table's inputs are NumPy float64 arrays drawn from a
generator; each party gets them rounded to the tested dtype, the oracle exactly these values. Every
draw has a random cotangent: summing an output instead hides a backward that returns zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from verification.cases.pairs import Options

Arrays = dict[str, Any]  # name -> array, or None for an absent optional tensor
Draw = Callable[[np.random.Generator], Arrays]


# The last three are written as they lie in memory; an expanded tensor repeats itself.
LAYOUTS = ("contiguous", "channels-last", "sliced", "expanded")
DTYPES = ("float64", "float32", "bfloat16", "float16")


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
        values: by which values of the op's options the case counts for the coverage of pairs.
    """

    name: str
    draw: Draw
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "contiguous"
    dtypes: tuple[str, ...] = DTYPES
    wide: bool = False
    hard: bool = False
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
        expanded: the dimension along which an expanded tensor repeats itself.
        options: which values the options have, for the coverage of pairs.
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
    expanded: int = 0
    options: Options | None = None
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
    return {table.name: table for module in modules for table in module.TABLES}
