"""Inverted dropout, with a given mask.

Lecture -> code: keep_prob -> `1 - p`, d3 -> `mask`, a3 -> `input`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact


def dropout(
    input: npt.ArrayLike, *, p: float = 0.5, mask: npt.ArrayLike, cotangent: npt.ArrayLike
) -> Result:
    """Shut off the units outside the mask and scale up the others, as in training.

    a := a * d / keep_prob;  da_before = da * d / keep_prob

    Args:
        input: a, any shape.
        p: probability of shutting a unit off, 1 - keep_prob, in [0, 1].
        mask: d, boolean, True where a unit is kept, broadcast against the input.
        cotangent: dL/d output, shape of the input.

    Returns:
        "output" and "grad input". Both are products, as in the lecture: a non-finite value
        outside the mask gives NaN. p = 1 multiplies everything by zero.

    Raises:
        ValueError: p outside [0, 1].

    Example:
        >>> result = dropout([1.0, 2.0], p=0.75, mask=[True, False], cotangent=[1.0, 1.0])
        >>> result.values["output"].astype(float)
        array([4., 0.])

    Source: lecture, "Implementing dropout (Inverted dropout)".
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p: expected a probability in [0, 1], got {p}")
    kept = np.asarray(mask, dtype=bool)
    keep_prob = 1 - np.longdouble(p)

    def inverted(a: Exact) -> Exact:
        with np.errstate(invalid="ignore"):  # inf * 0
            return a * kept / keep_prob if p < 1 else a * exact(0.0)

    return Result({"output": inverted(exact(input)), "grad input": inverted(exact(cotangent))})
