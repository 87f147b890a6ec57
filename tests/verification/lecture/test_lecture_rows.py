"""Rows of initial weights and of regularization, and the bugs that they catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from refnet import init
from verification.lecture.init import init_rows
from verification.lecture.regularization import regularization_rows
from verification.mutants import Mutant, planted
from verification.mutants.init import ROWS as INIT
from verification.mutants.regularization import ROWS as REGULARIZATION
from verification.oracles.regularization import least_squares, penalty, soft_threshold
from verification.report import Row

Rows = Callable[..., Iterator[list[Row]]]
SUITES: dict[str, Rows] = {"init": init_rows, "regularization": regularization_rows}


@pytest.mark.parametrize("subject", SUITES)
def test_right_code_passes(subject: str) -> None:
    rows = [row for rows in SUITES[subject]() for row in rows]
    assert [row for row in rows if not row.passed] == []
    assert {row.subject for row in rows} == {subject}


@pytest.mark.parametrize("row", [*INIT, *REGULARIZATION], ids=lambda row: f"{row[0]}: {row[1]}")
def test_planted_bugs_are_caught(row: Any) -> None:
    with planted(Mutant(*row)):
        assert any(not row.passed for rows in SUITES[row[0]](quick=True) for row in rows)


def test_code_that_crashes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any, **options: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setitem(init.RULES, "xavier_normal", crash)  # type: ignore[arg-type]
    monkeypatch.setattr("refnet.regularization.soft_threshold", crash)
    for suite in SUITES.values():
        failed = [row for rows in suite(quick=True) for row in rows if not row.passed]
        assert "RuntimeError: no" in {row.note for row in failed}


def test_l1_leaves_zeros_that_the_oracle_shows_to_be_the_minimum() -> None:
    """|∂J/∂w| ≤ λ/(2m) where w = 0, and −λ/(2m) sign(w) elsewhere."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 8)), rng.normal(size=30)
    w = least_squares(x, y, np.zeros(8), lr=0.2, l1=9.0, l2=0.0, steps=3000)[-1]
    gradient = x.T @ (x @ w - y) / 30
    assert 0 < (w == 0).sum() < 8
    assert np.all(np.abs(gradient[w == 0]) <= 9.0 / 60)
    np.testing.assert_allclose(gradient[w != 0], -9.0 / 60 * np.sign(w[w != 0]), rtol=1e-12)


def test_the_threshold_is_a_minimum_and_the_gradient_a_slope() -> None:
    rng = np.random.default_rng(0)
    v = np.linspace(-3, 3, 6001)
    for w, t in rng.uniform(0, 2, size=(20, 2)):
        best = v[np.argmin((v - w) ** 2 / 2 + t * np.abs(v))]
        assert abs(soft_threshold(w, t) - best) <= 1e-3
    w, d = rng.normal(size=5), np.eye(5) * 1e-6
    for i in range(5):
        ends = [penalty(w + sign * d[i], 0.3, 2.0, 7).values["output"] for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / 2e-6
        assert abs(slope - penalty(w, 0.3, 2.0, 7).values["grad input"][i]) < 1e-8
