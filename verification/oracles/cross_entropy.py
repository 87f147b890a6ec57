"""Softmax cross-entropy of class scores, with torch's options.

Lecture -> code: z -> `input`, y -> `target`, C -> number of classes. The class axis is the only one
of a (C,) input and the second of (N, C, d1, ...); a "row" is one example or pixel.

Erratum 4: the slide's da = -1/a is the derivative for the true class alone and 0 elsewhere; the
result dZ = A - Y, which is used here, is right.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact, largest
from verification.oracles.softmax import log_probabilities


def cross_entropy(
    input: npt.ArrayLike,
    target: npt.ArrayLike,
    weight: npt.ArrayLike | None = None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    cotangent: npt.ArrayLike,
) -> Result:
    """Compare the softmax of the scores with the true classes.

    L = -sum_c q_c log a_c,  q_c = w_c ((1 - s) y_c + s / C),  a = softmax(z);
    dz = a sum_c q_c - q, which is the lecture's A - Y for w = 1;  dy_c = -w_c (1 - s) log a_c

    The mean divides by the sum of the true classes' weights over the rows that are not ignored;
    for class probabilities, by the number of rows.

    Args:
        input: z, shape (C,), (N, C) or (N, C, d1, ...).
        target: y, class indices (integers; the input's shape without the class axis) or class
            probabilities (floating point; the input's shape).
        weight: w, one per class, shape (C,), or None for 1.
        ignore_index: rows with this class index have no loss and no gradient.
        label_smoothing: s, the share of the uniform distribution, in [0, 1].
        reduction: "none", "sum" or "mean".
        cotangent: dL/d output: shape of the rows for "none", otherwise a number.

    Returns:
        "output", "grad input" and, for class probabilities, "grad target". A mean over no rows is
        NaN, with a gradient of zero. The scale of "grad input" is the size of the terms A and Y,
        which cancel where the predictions are nearly right.

    Raises:
        IndexError: a class index outside [0, C) that is not `ignore_index`.
        ValueError: an unknown reduction, or a target whose shape does not fit.

    Example:
        >>> y_hat = np.array([0.3, 0.2, 0.1, 0.4])
        >>> result = cross_entropy(np.log(y_hat), 1, cotangent=1.0)
        >>> round(float(result.values["output"]), 6), round(float(-np.log(0.2)), 6)
        (1.609438, 1.609438)
        >>> [round(float(v), 6) for v in result.values["grad input"]]  # A - Y
        [0.3, -0.8, 0.1, 0.4]

    Source: lecture, "Loss function softmax" and "Gradient descent with softmax"; weights, smoothing
    and ignored rows, on which the lecture is silent, as torch documents them.
    """
    if reduction not in ("none", "sum", "mean"):
        raise ValueError(f"reduction: expected 'none', 'sum' or 'mean', got {reduction!r}")
    z, y = exact(input), np.asarray(target)
    axis = 0 if z.ndim == 1 else 1
    classes = z.shape[axis]
    rows = z.shape[:axis] + z.shape[axis + 1 :]
    by_index = np.issubdtype(y.dtype, np.integer)
    if y.shape != (rows if by_index else z.shape):
        raise ValueError(f"target: shape {y.shape} does not fit an input of shape {z.shape}")
    w = np.broadcast_to(
        exact(1.0) if weight is None else exact(weight).reshape((-1,) + (1,) * (z.ndim - 1 - axis)),
        z.shape,
    )
    smoothing = np.longdouble(label_smoothing)
    log_a = log_probabilities(z, axis)

    if by_index:
        kept = y != ignore_index
        index = np.expand_dims(_checked(np.where(kept, y, 0), classes), axis)
        own_weight = np.take_along_axis(w, index, axis).squeeze(axis)
        own = -own_weight * np.take_along_axis(log_a, index, axis).squeeze(axis)
        one_hot = np.zeros_like(z)
        np.put_along_axis(one_hot, index, 1, axis)
        total = np.where(kept, own_weight, 0).sum()
    else:
        kept = np.ones(rows, dtype=bool)
        one_hot = exact(y)
        own = -(w * one_hot * log_a).sum(axis)
        total = exact(kept.size)

    loss = own
    if label_smoothing:  # else 0 * log 0 of a class that does not count would spoil the row
        loss = (1 - smoothing) * own - smoothing / classes * (w * log_a).sum(axis)
    loss = np.where(kept, loss, 0)
    q = w * ((1 - smoothing) * one_hot + smoothing / classes)

    with np.errstate(divide="ignore", invalid="ignore"):  # a mean over no rows
        divisor = total if reduction == "mean" else exact(1.0)
        output: Exact = loss if reduction == "none" else loss.sum() / divisor
        row_cotangent = np.where(kept, exact(cotangent) / divisor, 0)
        # of a row that is nearly certain, 1 + r in the logarithm loses r's last digits
        ones = np.where(kept, np.abs(q).sum(axis), 0)
        size = largest(ones if reduction == "none" else np.asarray(ones.sum() / divisor))
    row_cotangent = np.expand_dims(row_cotangent, axis)

    predicted = row_cotangent * np.exp(log_a) * q.sum(axis, keepdims=True)
    true = row_cotangent * q
    values = {"output": output, "grad input": predicted - true}
    if not by_index:
        values["grad target"] = -row_cotangent * w * (1 - smoothing) * log_a
    return Result(values, {"output": size, "grad input": largest(predicted, true)})


def _checked(index: npt.NDArray[np.integer], classes: int) -> npt.NDArray[np.integer]:
    """Return the class indices; NumPy alone would count negative ones from the end."""
    wrong = index[(index < 0) | (index >= classes)]
    if wrong.size:
        raise IndexError(f"target: class {wrong[0]} is out of bounds for {classes} classes")
    return index
