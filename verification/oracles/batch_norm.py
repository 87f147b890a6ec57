"""Batch normalization: the lecture's forward pass and its backward chain, step by step.

Lecture -> code: gamma -> `weight`, beta -> `bias`, the beta of the running average
-> `1 - momentum`, m -> `count`, the number of values per channel. The lecture has examples in
columns, here they are in rows: (N, C, *) with all axes but C normalized together.

Erratum 10: for test time the slide averages mu twice; the second average is that of sigma^2.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact, largest


def batch_norm(
    input: npt.ArrayLike,
    running_mean: npt.ArrayLike | None,
    running_var: npt.ArrayLike | None,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    *,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cotangent: npt.ArrayLike,
    mean_error: float = 0.0,
) -> Result:
    """Normalize each channel, then scale and shift it.

    z_norm = (z - mu) / sqrt(sigma^2 + eps);  z~ = gamma z_norm + beta

    In training, mu and sigma^2 are the mean and the biased variance of the batch, and
    running <- (1 - momentum) running + momentum * statistic. As in torch, `running_var` averages
    the **unbiased** variance (count - 1 in the denominator), which the lecture does not say.
    Otherwise mu and sigma^2 are the running statistics, which stay as they are.

    Args:
        input: z, shape (N, C, *).
        running_mean: shape (C,), or None in training.
        running_var: shape (C,), or None in training.
        weight: gamma, shape (C,), or None for 1.
        bias: beta, shape (C,), or None for 0.
        training: whether to normalize by the statistics of the batch.
        momentum: share of the new statistic in the running average.
        eps: added to the variance, inside the root.
        cotangent: dL/dz~, shape of the input.
        mean_error: what mu is off by, relative to it: to see what rounding it does. Two values
            close together become -1 and 1 whatever they are, but not if mu lies off their middle.

    Returns:
        "output", "grad input", "grad weight", "grad bias", "running_mean", "running_var": those
        of the arguments that are given. In training the scale of "grad input" is the larger of
        max|dz| and max|dz_norm / sqrt(sigma^2 + eps)|: with two values per channel dz is pure
        cancellation.

    Raises:
        ValueError: one value per channel in training; no running statistics otherwise.

    Example:
        >>> z = [[1.0], [3.0]]
        >>> result = batch_norm(z, [0.0], [1.0], training=True, eps=0.0, cotangent=[[1.0], [0.0]])
        >>> [[float(v) for v in row] for row in result.values["output"]]
        [[-1.0], [1.0]]
        >>> float(result.values["running_mean"][0])  # 0.9 * 0 + 0.1 * 2
        0.2

    Source: lecture, "Implement Batch Normalization", "Batch norm derivation", "Batch norm at test
    time".
    """
    z, dz_tilde = exact(input), exact(cotangent)
    axes = tuple(axis for axis in range(z.ndim) if axis != 1)
    column = (1, -1) + (1,) * (z.ndim - 2)  # a (C,) array against (N, C, *)
    gamma = exact(1.0) if weight is None else exact(weight).reshape(column)
    beta = exact(0.0) if bias is None else exact(bias).reshape(column)
    buffers = {
        name: exact(value)
        for name, value in (("running_mean", running_mean), ("running_var", running_var))
        if value is not None
    }
    count = z.size // z.shape[1] if z.shape[1] else 0
    if training and count == 1:
        raise ValueError(f"input: more than 1 value per channel needed in training, got {z.shape}")
    if not training and len(buffers) < 2:
        raise ValueError("running_mean, running_var: both needed when training=False, got None")

    if training and count:
        mu, centered = _center(z, axes)
        with np.errstate(invalid="ignore"):
            centered = centered - mu * exact(mean_error) if mean_error else centered
        var = (centered**2).mean(axes, keepdims=True)
        share = np.longdouble(momentum)
        statistics = {"running_mean": mu, "running_var": var * count / (count - 1)}
        for name, old in buffers.items():
            buffers[name] = (1 - share) * old + share * statistics[name].reshape(-1)
    elif training:  # an empty batch: nothing to normalize, nothing to average
        centered, var = z, exact(1.0)
    else:
        centered = z - buffers["running_mean"].reshape(column)
        var = buffers["running_var"].reshape(column)

    std = np.sqrt(var + np.longdouble(eps))
    z_norm = centered / std
    dz_norm = dz_tilde * gamma
    if training and count:
        # the lecture's chain; each sum runs over the values of a channel: shape (1, C, 1, ...)
        dvar = (dz_norm * centered * exact(-0.5) * std**-3).sum(axes, keepdims=True)
        dmu = (dz_norm * -1 / std).sum(axes, keepdims=True)
        dmu = dmu + dvar * (-2 * centered).sum(axes, keepdims=True) / count
        dz = dz_norm / std + dvar * 2 * centered / count + dmu / count
        scales = {"grad input": largest(dz, dz_norm / std)}
    else:
        dz, scales = dz_norm / std, {}

    values = {"output": gamma * z_norm + beta, "grad input": dz}
    if weight is not None:
        values["grad weight"] = (dz_tilde * z_norm).sum(axes)
    if bias is not None:
        values["grad bias"] = dz_tilde.sum(axes)
    return Result(values | buffers, scales)


def _center(z: Exact, axes: tuple[int, ...]) -> tuple[Exact, Exact]:
    """Return the mean over the axes and z - mean, both right for data far from zero.

    The mean of the residuals corrects the first mean. It is taken off the residuals, not added
    to the mean first: there its digits would be lost. The mean of a channel with an infinity is
    infinite, and has nothing to be corrected by.
    """
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be
        first = z.mean(axes, keepdims=True)
        residual = z - first
        correction = residual.mean(axes, keepdims=True)
    return np.where(np.isinf(first), first, first + correction), residual - correction
