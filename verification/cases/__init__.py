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

Arrays = dict[str, Any]  # name -> array, or None for an absent optional tensor
Draw = Callable[[np.random.Generator], Arrays]


@dataclass(frozen=True)
class Case:
    """One way of calling an op.

    Attributes:
        name: what is special about it.
        draw: makes the tensors, "cotangent" among them, from a generator.
        options: the arguments that are no tensors.
    """

    name: str
    draw: Draw
    options: Mapping[str, Any] = field(default_factory=dict)


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
        bitwise: whether the candidate's result must have every bit of the builtin's.
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
    bitwise: bool = False
    adapt: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function
    complete: Callable[[Arrays, dict[str, Any]], Arrays] = lambda tensors, options: tensors


def normal(
    rng: np.random.Generator, *shape: int, scale: float = 1.0, offset: float = 0.0
) -> npt.NDArray[np.float64]:
    """Return normal random numbers of a scale around an offset."""
    return offset + scale * rng.standard_normal(shape)


def op_tables() -> dict[str, OpTable]:
    """Return all op tables by name."""
    from verification.cases import activations, batch_norm, cross_entropy, dropout, linear, softmax

    modules = (batch_norm, dropout, softmax, cross_entropy, linear, activations)
    return {table.name: table for module in modules for table in module.TABLES}
