"""Exponentially weighted averages, as the sum that they are when written out.

V_t = (1 - b) (theta_t + b theta_(t-1) + ... + b^(t-1) theta_1); corrected, over 1 - b^t.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from verification.oracles import Result, exact


def averages(values: npt.ArrayLike, beta: float) -> Result:
    """Compute the averages after each value.

    Args:
        values: theta_1 to theta_n, (n).
        beta: b in [0, 1).

    Returns:
        "average" and "corrected", both (n).

    Example:
        >>> found = averages([1.0, 0.0], 0.98).values
        >>> round(float(found["average"][1]), 4), round(float(found["corrected"][1]), 3)
        (0.0196, 0.495)

    Source: lecture, "Exponentially weighted averages", "Bias correction".
    """
    theta, b = exact(values), exact(beta)
    sums, weights = [], []
    for t in range(1, len(theta) + 1):
        w = (1 - b) * b ** np.arange(t - 1, -1, -1)
        sums.append((w * theta[:t]).sum())
        weights.append(1 - b**t)
    found = exact(sums)
    return Result({"average": found, "corrected": found / exact(weights)})
