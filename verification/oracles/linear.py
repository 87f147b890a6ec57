"""Linear layer.

Lecture -> code: z = W a + b with examples in columns; here examples are in rows, so z = a W^T + b.
a -> `input`, W -> `weight`, b -> `bias`.
"""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact, largest


def linear(
    input: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    cotangent: npt.ArrayLike,
) -> Result:
    """Map each row of the input by a matrix and add a vector.

    z = a W^T + b;  da = dz W;  dW = dz^T a;  db = sum of dz over the rows

    Args:
        input: a, shape (*, in).
        weight: W, shape (out, in).
        bias: b, shape (out,), or None for 0.
        cotangent: dz = dL/d output, shape (*, out).

    Returns:
        "output", "grad input", "grad weight" and, with a bias, "grad bias".

    Example:
        >>> result = linear([[1.0, 2.0]], [[3.0, 4.0]], [5.0], cotangent=[[10.0]])
        >>> float(result.values["output"][0, 0])
        16.0
        >>> [float(v) for v in result.values["grad weight"][0]]
        [10.0, 20.0]

    Source: lecture, "Calculate gradient with batch norm": dW = dz a^T and da = W^T dz in columns.
    """
    a, w, dz = exact(input), exact(weight), exact(cotangent)
    rows = prod(a.shape[:-1])
    a_rows = a.reshape(rows, w.shape[1])
    dz_rows = dz.reshape(rows, w.shape[0])
    values = {
        "output": (a_rows @ w.T).reshape(dz.shape),
        "grad input": (dz_rows @ w).reshape(a.shape),
        "grad weight": dz_rows.T @ a_rows,
    }
    if bias is not None:
        values["output"] = values["output"] + exact(bias)
        values["grad bias"] = dz_rows.sum(0)
    return Result(values, _terms(np.abs(a_rows), np.abs(w), np.abs(dz_rows)))


def _terms(a: Exact, w: Exact, dz: Exact) -> dict[str, float]:
    """How large sums are without their signs: what is lost in them depends on the order."""
    return {
        "output": largest(a @ w.T),
        "grad input": largest(dz @ w),
        "grad weight": largest(dz.T @ a),
        "grad bias": largest(dz.sum(0)),
    }
