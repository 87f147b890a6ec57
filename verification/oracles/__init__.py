"""Oracles: every op and optimizer once more, in NumPy, straight from the lecture.

One file per op or optimizer, written without torch and without a look at refnet's code, so that
an error in one of the two is not repeated in the other. All arithmetic is in `np.longdouble`
(64 bits of mantissa on x86, the same as float64 on some other machines) and no result is rounded
to float64. Hyperparameters are taken as the exact value of the float that was given, so `1 - beta`
is that of the exact beta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Exact: TypeAlias = npt.NDArray[np.longdouble]


def exact(values: npt.ArrayLike) -> Exact:
    """Return a new longdouble array with the same values; no bit is lost or added.

    Args:
        values: array, number or nested list of real numbers, any shape.

    Returns:
        A copy of the same shape; 0-d for a number.

    Example:
        >>> exact([0.1]).astype(float) == 0.1
        array([ True])
    """
    return np.array(values, dtype=np.longdouble)


def largest(*arrays: Exact) -> float:
    """Return the largest finite absolute value in all the arrays, 0 if there is none.

    Args:
        arrays: any shapes.

    Returns:
        max |x| over the finite x, for a scale: an infinite one would let every error pass.

    Example:
        >>> largest(exact([1.0, -3.0]), exact([np.inf]))
        3.0
    """
    return max(float(np.abs(x[np.isfinite(x)]).max(initial=0)) for x in arrays)


@dataclass(frozen=True)
class Result:
    """What an op returns, by name of the quantity.

    Attributes:
        values: "output"; "grad <input>" for each differentiable input that was given; the new
            value of each buffer under its own name. All arrays, 0-d for numbers.
        scales: a yardstick for the errors of a quantity whose own size misleads, because it is
            what cancellation leaves over. A quantity that is not named is its own yardstick.

    Example:
        >>> Result({"output": exact(2.0)}).values["output"].shape
        ()
    """

    values: dict[str, Exact]
    scales: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Turn the scalars, which NumPy makes of 0-d results, back into arrays."""
        arrays = {name: np.asarray(value) for name, value in self.values.items()}
        object.__setattr__(self, "values", arrays)
