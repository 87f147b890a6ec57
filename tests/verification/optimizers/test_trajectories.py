"""The rules for trajectories, on numbers that can be checked by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from verification.optimizers.trajectories import beside_builtin, beside_oracle, drift, own_precision
from verification.tolerance import Sample

EPS = 2.0**-23
WAY = np.array([[3.0, 4.0], [0.0, 0.0], [3.0, 4.0]])  # norms 5, 0, 5; distances 0, 5, 10


def test_drift_is_the_worst_steps_share_of_size_and_distance() -> None:
    assert drift(WAY, WAY) == 0
    for step, size in enumerate((5.0, 5.0, 15.0)):
        other = WAY.copy()
        other[step] += [0.06, -0.08]
        assert drift(other, WAY) == pytest.approx(0.1 / size, rel=1e-12)
    both = WAY + np.array([[0.06, 0.08], [0.0, 0.0], [0.3, 0.4]])
    assert drift(both, WAY) == pytest.approx(0.5 / 15, rel=1e-12)


def test_drift_of_a_number_per_step() -> None:
    assert drift([1.0, 2.0, 4.0], [1.0, 2.0, 3.0]) == pytest.approx(1 / 5)


def test_drift_of_zeros_is_none_or_huge() -> None:
    assert drift(np.zeros((2, 3)), np.zeros((2, 3))) == 0
    assert drift(np.full((2, 3), 1e-30), np.zeros((2, 3))) > 1e300


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_to_agree(bad: float) -> None:
    way = WAY.copy()
    way[1, 1] = bad
    assert drift(way, WAY) == drift(WAY, way) == math.inf
    assert drift(way, way) == 0
    other = way.copy()
    other[0, 0] += 0.5
    assert 0 < drift(other, way) < 1


def test_another_shape_is_infinitely_far() -> None:
    assert drift(WAY[:, None], WAY) == drift(WAY[:2], WAY) == math.inf


def sample(error: float, builtin: float | None, response: float = 0.0) -> Sample:
    """A trajectory of ones; errors as shares of their size, without any distance."""
    ones = np.ones((4, 5), dtype=np.longdouble)
    known: Any = None if builtin is None else ones * (1 + np.longdouble(builtin))
    return Sample(ones * (1 + np.longdouble(error)), known, ones, [ones * (1 + response)])


def test_beside_the_builtin() -> None:
    for error, verdict in ((0.9e-12, "as good"), (1.1e-12, "another function")):
        judged = beside_builtin([sample(0.0, 0.0), sample(error, 0.0)])
        assert (judged.verdict, judged.bound) == (verdict, 1e-12)
        assert judged.error == pytest.approx(error, rel=1e-3)


def test_beside_the_builtin_where_every_rounding_grows() -> None:
    for error, verdict in ((2.9e-9, "as good"), (3.1e-9, "another function")):
        judged = beside_builtin([sample(0.0, 0.0), sample(error, 0.0, response=1e-10)])
        assert (judged.verdict, judged.seed) == (verdict, 1)
        assert judged.rule == "builtin to 30·P64·(norm + distance)"
    assert beside_builtin([sample(1e-2, 0.0, response=1e-1)]).verdict == "inconclusive"
    assert beside_builtin([sample(0.0, None)]).verdict == "another function"


def test_of_a_chaotic_run_the_oracles_response_counts() -> None:
    for error, verdict in ((7400 * EPS, "as good"), (7600 * EPS, "worse")):
        judged = own_precision([sample(error, 2000 * EPS, response=3000 * EPS)], EPS)
        assert (judged.verdict, judged.rule) == (verdict, "2.5·P, chaotic")
    tame = own_precision([sample(800 * EPS, 500 * EPS, response=900 * EPS)], EPS)
    assert (tame.verdict, tame.rule) == ("worse", "1.25·builtin")


def test_beside_the_oracle() -> None:
    for error, verdict in ((0.9e-11, "as good"), (1.1e-11, "another function")):
        judged = beside_oracle([sample(error, None), sample(0.0, None)])
        assert (judged.verdict, judged.bound) == (verdict, 1e-11)
    assert beside_oracle([sample(1e-13, 1e-12)]).verdict == "better"


def test_the_oracles_response_counts_where_it_is_large() -> None:
    judged = beside_oracle([sample(2.9e-9, None, response=1e-10)])
    assert (judged.verdict, judged.rule) == ("as good", "oracle to 30·P64·(norm + distance)")
    assert beside_oracle([sample(3.1e-9, None, response=1e-10)]).verdict == "another function"
    assert beside_oracle([sample(1e-2, None, response=1e-1)]).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("error", "builtin", "verdict", "bound"),
    [
        (12.4 * EPS, 10 * EPS, "as good", 12.5 * EPS),
        (12.6 * EPS, 10 * EPS, "worse", 12.5 * EPS),
        (7.9 * EPS, 10 * EPS, "better", 12.5 * EPS),
        (0.9 * EPS, 0.0, "as good", EPS),
        (1.1 * EPS, 0.0, "worse", EPS),
        (math.nan, 10 * EPS, "worse", 12.5 * EPS),
    ],
)
def test_own_precision(error: float, builtin: float, verdict: str, bound: float) -> None:
    judged = own_precision([sample(error, builtin)], EPS)
    assert judged.verdict == verdict
    assert judged.bound == pytest.approx(bound, rel=1e-3)


def test_own_precision_is_that_of_the_seed_in_the_middle() -> None:
    bad, good = sample(20 * EPS, 10 * EPS), sample(10 * EPS, 10 * EPS)
    assert own_precision([bad, bad, good, good, good], EPS).verdict == "as good"
    assert own_precision([good, good, bad, bad, bad], EPS).verdict == "worse"
