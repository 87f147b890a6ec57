"""The lecture's exponentially weighted average, of numbers, numpy arrays and tensors.

The optimizers write the same line for dW and dW² (`momentum.py`, `rmsprop.py`, `adam.py`); a test
holds their states against this one. Legend: V average, θ value, β decay, t count of the values.

Example:
    >>> average = ExponentialAverage(beta=0.9, bias_correction=True)
    >>> [round(average.update(temperature), 2) for temperature in (40.0, 49.0, 45.0)]
    [40.0, 44.74, 44.83]
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor

__all__ = ["ExponentialAverage", "corrected_beta", "exponential_average"]

Value = TypeVar("Value", float, np.ndarray[Any, Any], Tensor)


def exponential_average(
    average: Value | float, value: Value, beta: float, count: int | None = None
) -> Value:
    r"""Return the average one value later.

    V ← βV + (1 − β) θ, and with `count` = t its bias-corrected V / (1 − βᵗ)

    Args:
        average: V, of the shape of `value`; the number 0 before the first value.
        value: θ, a number, array or tensor.
        beta: β in [0, 1).
        count: t ≥ 1, `value` included. V is then returned corrected: go on from the other one.

    Returns:
        A new number, array or tensor; integers become floating.

    Example:
        >>> v1 = exponential_average(0.0, 10.0, beta=0.98)  # 0.02 θ₁
        >>> v2 = exponential_average(v1, 20.0, beta=0.98)  # 0.0196 θ₁ + 0.02 θ₂
        >>> round(v1, 4), round(v2, 4), round(exponential_average(v1, 20.0, 0.98, count=2), 4)
        (0.2, 0.596, 15.0505)

    Source: lecture, "Exponentially weighted averages", "Bias correction".
    """
    new = beta * average + (1 - beta) * value
    return new if count is None else new / (1 - beta**count)


def corrected_beta(beta: float, count: int) -> float:
    r"""Return the β with which value t goes into an average that is kept bias-corrected.

    V̂ₜ = β̂ₜ V̂ₜ₋₁ + (1 − β̂ₜ) θₜ  with  β̂ₜ = β (1 − βᵗ⁻¹) / (1 − βᵗ)

    By substitution of V = (1 − βᵗ) V̂ in the recursion. β̂₁ = 0, so that the first average is the
    first value; 1 − β̂ₜ falls from 1 to 1 − β.

    Args:
        beta: β in [0, 1).
        count: t ≥ 1.

    Example:
        >>> [round(corrected_beta(0.9, t), 3) for t in (1, 2, 10, 1000)]
        [0.0, 0.474, 0.846, 0.9]
    """
    return beta * (1 - beta ** (count - 1)) / (1 - beta**count)


class ExponentialAverage(Generic[Value]):
    r"""An average of about the last 1 / (1 − β) values.

    V₀ = 0,  Vₜ = βVₜ₋₁ + (1 − β) θₜ,  with bias correction Vₜ / (1 − βᵗ)

    A tensor's average has its dtype and device, and no graph.

    Args:
        beta: β in [0, 1); 0.9 averages over 10 values, 0.98 over 50.
        bias_correction: divide by 1 − βᵗ, so that the first averages are not too small.

    Raises:
        ValueError: β outside [0, 1); a value of another shape than the ones before; `value` asked
            for before there is one.

    Example:
        >>> average = ExponentialAverage(beta=0.98)
        >>> [round(average.update(value), 4) for value in (10.0, 20.0)]
        [0.2, 0.596]
        >>> round(average.corrected, 4)
        15.0505
        >>> average
        ExponentialAverage(beta=0.98, window=50, count=2)

    Source: lecture, "Exponentially weighted averages", "Bias correction".

    Differs from torch: `AveragedModel` with `get_ema_multi_avg_fn(β)` has no bias correction but
    starts from the first value, E₁ = θ₁; so that Eₜ = Vₜ + βᵗ θ₁.
    """

    def __init__(self, beta: float = 0.9, *, bias_correction: bool = False) -> None:
        self.beta = require_beta(beta)
        self.bias_correction = bias_correction
        self.count = 0
        self._average: Value | float = 0.0

    def __repr__(self) -> str:
        correction = ", bias_correction=True" if self.bias_correction else ""
        return (
            f"{type(self).__name__}(beta={self.beta}{correction}, "
            f"window={self.window:.6g}, count={self.count})"
        )

    @property
    def window(self) -> float:
        """1 / (1 − β): so many values are averaged; all older ones together weigh at most 1/e."""
        return 1 / (1 - self.beta)

    @property
    def value(self) -> Value:
        """The average of the values so far, corrected if that was asked for."""
        if self.bias_correction:
            return self.corrected
        value: Value = self._uncorrected() * 1  # not the average itself, which a caller may change
        return value

    @property
    def corrected(self) -> Value:
        """Vₜ / (1 − βᵗ), whatever `bias_correction` is."""
        value: Value = self._uncorrected() / (1 - self.beta**self.count)
        return value

    def update(self, value: Value) -> Value:
        """Take in θₜ and return the average."""
        if isinstance(value, Tensor):
            value = value.detach()
        if self.count and np.shape(value) != np.shape(self._average):
            raise ValueError(
                f"value has shape {tuple(np.shape(value))}, "
                f"the ones before had {tuple(np.shape(self._average))}"
            )
        self._average = exponential_average(self._average, value, self.beta)
        self.count += 1
        return self.value

    def state_dict(self) -> dict[str, Any]:
        """Return β, t, V (None before the first value), and whether it is corrected."""
        average = self._average if self.count else None
        return {
            "beta": self.beta,
            "count": self.count,
            "average": average,
            "bias_correction": self.bias_correction,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state."""
        self.beta = require_beta(state_dict["beta"])
        self.count = state_dict["count"]
        self.bias_correction = state_dict.get("bias_correction", self.bias_correction)
        self._average = state_dict["average"] if self.count else 0.0

    def _uncorrected(self) -> Any:
        if self.count == 0:
            raise ValueError("value of an ExponentialAverage before its first update")
        return self._average


def require_beta(beta: float) -> float:
    """Return β, or raise a ValueError if it is outside [0, 1).

    Example:
        >>> require_beta(1.0)
        Traceback (most recent call last):
        ValueError: beta must be in [0, 1), got 1.0
    """
    if not 0 <= beta < 1:  # NaN, too
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    return beta
