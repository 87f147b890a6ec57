"""L2 and L1 penalties, the soft threshold, and least squares by proximal gradient descent.

Lecture -> code: lambda -> `l1`, `l2`, m -> `m`. Erratum 3: the slide has lambda/(2m) for L1 too, so
that its gradient is lambda/(2m) sign(W).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact


def penalty(w: npt.ArrayLike, l1: float, l2: float, m: int) -> Result:
    """Return lambda_1/(2m) sum |w| + lambda_2/(2m) sum w^2 and its gradient.

    Args:
        w: weights of any shape.
        l1: lambda_1.
        l2: lambda_2.
        m: number of training examples.

    Returns:
        "output" and "grad input".

    Example:
        >>> result = penalty([3.0, -4.0], l1=0.5, l2=0.5, m=10)  # 0.5/20 (7 + 25)
        >>> round(float(result.values["output"]), 4)
        0.8

    Source: lecture, "Regularization for logistic regression".
    """
    w, l1_, l2_ = exact(w), exact(l1), exact(l2)
    value = (l1_ * np.abs(w).sum() + l2_ * (w * w).sum()) / (2 * m)
    gradient = l1_ / (2 * m) * np.sign(w) + l2_ / m * w
    return Result({"output": value, "grad input": gradient})


def soft_threshold(w: npt.ArrayLike, threshold: npt.ArrayLike) -> Exact:
    """Return the v that minimizes (v - w)^2 / 2 + threshold |v|, case by case.

    Example:
        >>> soft_threshold([3.0, 0.5, -3.0], 1.0).astype(float)
        array([ 2.,  0., -2.])
    """
    w, t = exact(w), exact(threshold)
    return np.where(w > t, w - t, np.where(w < -t, w + t, exact(0)))


def least_squares(
    x: npt.ArrayLike, y: npt.ArrayLike, w: npt.ArrayLike, *, lr: float, l1: float, l2: float,
    steps: int,
) -> Exact:  # fmt: skip
    """Minimize 1/(2m) |X w - y|^2 + l2/(2m) |w|^2 + l1/(2m) |w|_1 by ISTA.

    Args:
        x: inputs (m, n).
        y: targets (m).
        w: where to begin (n).
        lr: the learning rate alpha.
        l1: lambda_1.
        l2: lambda_2.
        steps: how many.

    Returns:
        w after each step, (steps, n).

    Example:
        >>> least_squares([[1.0]], [3.0], [0.0], lr=1.0, l1=2.0, l2=0.0, steps=1).astype(float)
        array([[2.]])
    """
    x, y, w, alpha = exact(x), exact(y), exact(w), exact(lr)
    m, found = len(x), []
    for _ in range(steps):
        gradient = x.T @ (x @ w - y) / m + exact(l2) / m * w
        w = soft_threshold(w - alpha * gradient, alpha * exact(l1) / (2 * m))
        found.append(w)
    return np.stack(found)
