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
from verification.lecture.numerical_gradients import numerical_gradient_rows
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
