"""Difference quotients: errors of order ε and ε², and where rounding takes over."""

from __future__ import annotations

import numpy as np
import pytest

from verification.lecture.numerical_gradients import EPS, FUNCTIONS, errors, order, slope


@pytest.mark.parametrize("function", FUNCTIONS)
def test_golden_slopes_1_and_2(function: str) -> None:
    assert order(function, "one-sided") == pytest.approx(1, abs=0.05)
    assert order(function, "two-sided") == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(("name", "best"), [("one-sided", 2.0**-26), ("two-sided", 2.0**-17.5)])
def test_below_the_best_eps_rounding_takes_over(name: str, best: float) -> None:
    """The error is least at ε ≈ √u (one-sided) or ∛u (two-sided), and then grows like u/ε."""
    for function in FUNCTIONS:
        found = errors(function, name)
        assert 1 / 30 < EPS[found.argmin()] / best < 30
        small = best / 30 > EPS
        assert slope(EPS[small], found[small]) == pytest.approx(-1, abs=0.25)


def test_a_slope_needs_two_errors() -> None:
    assert np.isnan(slope([0.1, 0.01], [0.0, 1e-3]))
