"""Gradient flow, difference quotients, averages, gradient check: rows, and the bugs they catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from verification.lecture import averages, checked_gradients, gradient_flow, numerical_gradients
from verification.lecture.averages import average_rows
from verification.lecture.checked_gradients import gradient_check_rows
from verification.lecture.gradient_flow import gradient_flow_rows
from verification.lecture.numerical_gradients import (
    EPS,
    FUNCTIONS,
    errors,
    numerical_gradient_rows,
    order,
    slope,
)
from verification.report import Row

SUITES: dict[str, Callable[..., Iterator[list[Row]]]] = {
    "gradient_flow": gradient_flow_rows,
    "numerical_gradients": numerical_gradient_rows,
    "averages": average_rows,
    "gradient_check": gradient_check_rows,
}


@pytest.mark.parametrize("subject", SUITES)
def test_right_code_passes(subject: str) -> None:
    rows = [row for rows in SUITES[subject]() for row in rows]
    assert [row for row in rows if not row.passed] == []
    assert {row.subject for row in rows} == {subject}


def test_code_that_crashes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(gradient_flow.gradient_flow, "factors", crash)
    monkeypatch.setattr(numerical_gradients, "quotient", crash)
    monkeypatch.setattr(averages, "corrected_beta", crash)
    monkeypatch.setattr(checked_gradients, "gradient_check", crash)
    for suite in SUITES.values():
        rows = [row for rows in suite() for row in rows]
        assert {row.note for row in rows if not row.passed} == {"RuntimeError: no"}


def test_gradients_vanish_explode_and_meet_dead_units() -> None:
    """What is compared is not always of the same size, nor always 0."""
    found = {}
    for activation in gradient_flow.ACTIVATIONS:
        for size in gradient_flow.SIZES:
            w, b, x = gradient_flow._draw(activation, 20, size)
            chain = gradient_flow.chain_of_units(w, b, x, activation).values
            found[activation, size] = chain["grad b"][0]
    for activation in ("sigmoid", "tanh"):
        assert np.abs(found[activation, "|w| ≤ 1"]).max() < 1e-12
        assert np.abs(found[activation, "w σ' > 1"]).min() > 10
    assert 0 < np.mean(found["relu", "|w| ≤ 1"] == 0) < 1


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
