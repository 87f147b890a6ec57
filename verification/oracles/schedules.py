"""The lecture's "Learning rate decay": the learning rate of every epoch, in closed form.

Lecture -> code: alpha_0 -> `base`, decay_rate, the 0.95 of 0.95^epoch -> `gamma`, k. Epochs are
counted from 0, the initial rate's; k / √epoch counts from 1, as it has to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verification.oracles import Exact, exact


def inverse_time(base: float | Exact, epochs: Sequence[int], decay_rate: float | Exact) -> Exact:
    """alpha = alpha_0 / (1 + decay_rate epoch).

    Args:
        base: alpha_0.
        epochs: from 0, any number of them.
        decay_rate: how fast.

    Returns:
        The rate of each epoch.

    Example:
        The slide's four rates, of alpha_0 = 0.2 and decay_rate = 1:

        >>> inverse_time(0.2, range(5), 1.0).astype(float).round(3)
        array([0.2  , 0.1  , 0.067, 0.05 , 0.04 ])

    Source: lecture, "Learning rate decay".
    """
    return exact(base) / (1 + exact(decay_rate) * exact(epochs))


def exponential(base: float | Exact, epochs: Sequence[int], gamma: float | Exact = 0.95) -> Exact:
    """alpha = gamma^epoch alpha_0; the slide's gamma is 0.95. Arguments as of `inverse_time`.

    Example:
        >>> exponential(1.0, range(3)).astype(float).round(4)
        array([1.    , 0.95  , 0.9025])

    Source: lecture, "Learning rate decay".
    """
    return exact(gamma) ** exact(epochs) * exact(base)


def inverse_sqrt(base: float | Exact, epochs: Sequence[int], k: float | Exact = 1.0) -> Exact:
    """alpha = k / √epoch alpha_0, the first epoch being 1. Arguments as of `inverse_time`.

    Example:
        >>> inverse_sqrt(1.0, [0, 3], k=2.0).astype(float)
        array([2., 1.])

    Source: lecture, "Learning rate decay", k / √epoch and k / √t; without the shift the first epoch
    would divide by zero.
    """
    return exact(k) / np.sqrt(1 + exact(epochs)) * exact(base)
