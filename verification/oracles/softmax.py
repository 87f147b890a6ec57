"""Softmax and its logarithm.

Lecture -> code: z -> `input`, a -> "output", C -> the size of axis `dim`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact, largest


def softmax(input: npt.ArrayLike, *, dim: int, cotangent: npt.ArrayLike) -> Result:
    """Turn the scores along one axis into probabilities.

    a_i = e^z_i / sum_j e^z_j;  dz_i = a_i (da_i - sum_j da_j a_j)

    Args:
        input: z, any shape with at least one axis.
        dim: the axis that sums to 1.
        cotangent: da = dL/d output, shape of the input.

    Returns:
        "output" and "grad input"; the scale of the latter is max|a da|, the size of the terms that
        cancel where one class has nearly all the probability.

    Example:
        >>> result = softmax([5.0, 2.0, -1.0, 3.0], dim=0, cotangent=[1.0, 0.0, 0.0, 0.0])
        >>> [round(float(a), 3) for a in result.values["output"]]
        [0.842, 0.042, 0.002, 0.114]

    Source: lecture, "Softmax layer". The slide "Gradient descent with softmax" has da = -1/a, which
    holds for the true class alone (erratum 4); here da is whatever follows the softmax.
    """
    a, da = np.exp(log_probabilities(exact(input), dim)), exact(cotangent)
    terms = a * da
    dz = terms - a * terms.sum(dim, keepdims=True)
    return Result({"output": a, "grad input": dz}, {"grad input": largest(dz, terms)})


def log_softmax(input: npt.ArrayLike, *, dim: int, cotangent: npt.ArrayLike) -> Result:
    """Take the logarithm of the softmax along one axis, without forming the softmax.

    log a_i = z_i - log sum_j e^z_j;  dz_i = g_i - a_i sum_j g_j, g the cotangent

    Args:
        input: z, any shape with at least one axis.
        dim: the axis whose exponentials sum to 1.
        cotangent: g = dL/d output, shape of the input.

    Returns:
        "output" and "grad input"; the scale of the latter is max|g|, as for the softmax.

    Example:
        >>> result = log_softmax([0.0, 0.0], dim=0, cotangent=[1.0, 0.0])
        >>> [round(float(v), 4) for v in result.values["output"]]
        [-0.6931, -0.6931]

    Source: lecture, "Softmax layer" and "Loss function softmax".
    """
    log_a, g = log_probabilities(exact(input), dim), exact(cotangent)
    dz = g - np.exp(log_a) * g.sum(dim, keepdims=True)
    return Result({"output": log_a, "grad input": dz}, {"grad input": largest(dz, g)})


def log_probabilities(z: Exact, dim: int) -> Exact:
    """Return log softmax(z) along one axis, right for large scores and for sure predictions.

    With M the largest score: log a_i = (z_i - M) - log(1 + r), r the sum of e^(z_j - M) over all
    classes but the largest. No exponential overflows, and a tiny r is not lost beside the 1.

    Args:
        z: scores, any shape with at least one axis.
        dim: the axis of the classes.

    Returns:
        An array of the same shape.

    Example:
        >>> float(log_probabilities(exact([1e4, 0.0]), 0)[1])
        -10000.0
    """
    if z.size == 0:
        return z
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
        shifted = z - z.max(dim, keepdims=True)
        terms = np.exp(shifted)
        top = z.argmax(dim, keepdims=True)
        # 1 is taken off, instead of writing 0, so that a NaN stays
        np.put_along_axis(terms, top, np.take_along_axis(terms, top, dim) - 1, dim)
        log_a: Exact = shifted - np.log1p(terms.sum(dim, keepdims=True))
    return log_a
