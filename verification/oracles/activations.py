"""Activations: ReLU, leaky ReLU, tanh, sigmoid.

Each is a = g(z), with the backward pass dz = da * g'(z) of the lecture (z -> `input`,
da -> `cotangent`; arrays of one shape, any shape). Each returns "output" and "grad input".

Erratum 7: the slide's sigma(z) <= 1/4 means the derivative, sigma'(z) <= 1/4.

Source: lecture, "Calculate gradient with batch norm", "What causes vanishing/exploding gradient?".
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact, largest


def relu(input: npt.ArrayLike, *, cotangent: npt.ArrayLike) -> Result:
    """Cut off what is negative: g = max(z, 0); g' = 1 for z > 0, else 0 (at 0 too, as in torch).

    Example:
        >>> relu([-2.0, 0.0, 3.0], cotangent=[1.0, 1.0, 1.0]).values["grad input"].astype(float)
        array([0., 0., 1.])
    """
    z, da = exact(input), exact(cotangent)
    # written by z <= 0, so that the cotangent passes where z is NaN, as in torch
    return Result({"output": np.maximum(z, 0), "grad input": np.where(z <= 0, 0, da)})


def leaky_relu(
    input: npt.ArrayLike, *, negative_slope: float = 0.01, cotangent: npt.ArrayLike
) -> Result:
    """Flatten what is negative: g = z and g' = 1 for z > 0, else g = slope z and g' = slope.

    Example:
        >>> result = leaky_relu([-2.0, 3.0], negative_slope=0.5, cotangent=[1.0, 1.0])
        >>> result.values["output"].astype(float)
        array([-1.,  3.])
    """
    z, da = exact(input), exact(cotangent)
    slope = np.where(z > 0, np.longdouble(1), np.longdouble(negative_slope))
    return Result({"output": slope * z, "grad input": slope * da})


def tanh(input: npt.ArrayLike, *, cotangent: npt.ArrayLike) -> Result:
    """Squash to (-1, 1): g = tanh z; g' = 1 - tanh^2 z, computed as 1 / cosh^2 z.

    The two are equal; the second does not cancel where tanh is nearly 1. The first does: the scale
    of "grad input" is max|da|.

    Example:
        >>> tanh([0.0], cotangent=[2.0]).values["grad input"].astype(float)
        array([2.])
    """
    z, da = exact(input), exact(cotangent)
    with np.errstate(over="ignore"):
        dz = da / np.cosh(z) ** 2
    return Result({"output": np.tanh(z), "grad input": dz}, {"grad input": largest(da)})


def sigmoid(input: npt.ArrayLike, *, cotangent: npt.ArrayLike) -> Result:
    """Squash to (0, 1): g = 1 / (1 + e^-z); g' = g(z) (1 - g(z)) = g(z) g(-z), at most 1/4.

    1 - g cancels where g is nearly 1: the scale of "grad input" is max|da g|.

    Example:
        >>> sigmoid([0.0], cotangent=[1.0]).values["grad input"].astype(float)
        array([0.25])
    """
    z, da = exact(input), exact(cotangent)
    a = _logistic(z)
    dz = da * a * _logistic(-z)
    return Result({"output": a, "grad input": dz}, {"grad input": largest(da * a)})


def _logistic(z: Exact) -> Exact:
    """Return 1 / (1 + e^-z); only e^-|z| is formed, which cannot overflow."""
    small = np.exp(-np.abs(z))
    a: Exact = np.where(z >= 0, 1, small) / (1 + small)
    return a
