"""The rules: bounds as documented, every verdict reachable, NaN, ∞ and empty arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from verification.report import ANOTHER, AS_GOOD, BETTER, INCONCLUSIVE, WORSE
from verification.tolerance import (
    Sample,
    beside_builtin,
    distance,
    own_target,
    same_algorithm,
    same_bits,
    same_precision,
    size_of,
    well_conditioned,
)

NAN, INF = float("nan"), float("inf")
EPS = 2.0**-23


def exact(values: Any) -> Any:
    return np.array(values, dtype=np.longdouble)


def sample(
    error: float = 0.0, builtin: float | None = 0.0, response: float = 0.0, size: int = 10
) -> Sample:
    """Ones, of which the first is off by so much for each party: max norm 1, rms 1."""

    def off(gap: float) -> Any:
        return exact([1 + np.longdouble(gap), *[1] * (size - 1)])

    return Sample(
        candidate=off(error),
        builtin=None if builtin is None else off(builtin),
        oracle=exact(np.ones(size)),
        responses=[off(response / 2), off(-response), off(0)],
    )


@pytest.mark.parametrize(
    ("values", "oracle", "norm", "expected"),
    [
        ([1, 2], [1, 2.5], "max", 0.5),
        ([1, 2], [1, 4], "rms", 2**0.5),
        ([1, NAN], [1.5, NAN], "max", 0.5),
        ([INF, -INF, 1], [INF, -INF, 1], "max", 0.0),
        ([1, 2], [1, NAN], "max", INF),
        ([1, NAN], [1, 2], "max", INF),
        ([1, NAN], [1, 2], "rms", INF),
        ([1, INF], [1, 2], "max", INF),
        ([INF], [-INF], "max", INF),
        ([NAN], [INF], "max", INF),
        ([NAN], [NAN], "max", 0.0),
        ([], [], "rms", 0.0),
        (2.0, 1.0, "max", 1.0),
        (NAN, 1.0, "max", INF),
        ([1, 1], 1.0, "max", INF),
        ([[1, 1]], [1, 1], "max", INF),
        ([], [1], "max", INF),
    ],
)
def test_distance(values: Any, oracle: Any, norm: str, expected: float) -> None:
    assert distance(values, exact(oracle), norm) == pytest.approx(expected, rel=1e-15)


def test_distance_sees_below_float64() -> None:
    values = exact([1 + np.longdouble(2) ** -60])
    gap = distance(values, exact([1.0]))
    assert gap == (2.0**-60 if np.finfo(np.longdouble).nmant >= 60 else 0)


@pytest.mark.parametrize(
    ("values", "norm", "expected"),
    [
        ([3, -4], "max", 4),
        ([3, -4], "rms", 12.5**0.5),
        ([3, INF, NAN], "max", 3),
        ([INF], "max", 0),
        ([], "max", 0),
        ([], "rms", 0),
    ],
)
def test_size_of(values: Any, norm: str, expected: float) -> None:
    assert size_of(exact(values), norm) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "bound", "rule"),
    [
        (sample(), 1e-11, "1e-11"),
        (sample(response=1e-13), 1e-11, "1e-11"),
        (sample(response=1e-9), 3e-8, "30·P64"),
        (replace(sample(response=1e-9), scale=10.0), 3e-9, "30·P64"),
        (replace(sample(response=1e-9), scale=0.1), 3e-8, "30·P64"),
        (replace(sample(), responses=[]), 1e-11, "1e-11"),
    ],
)
def test_bound_of_the_algorithm(found: Sample, bound: float, rule: str) -> None:
    judged = same_algorithm([found])
    assert judged.bound == pytest.approx(bound)
    assert (judged.rule, judged.verdict) == (rule, AS_GOOD)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (sample(0.99e-11), AS_GOOD),
        (sample(1.01e-11), ANOTHER),
        (sample(2.9e-8, response=1e-9), AS_GOOD),
        (sample(3.1e-8, response=1e-9), ANOTHER),
        (sample(1e-13, builtin=1.2e-13), AS_GOOD),
        (sample(1e-13, builtin=1.3e-13), BETTER),
        (sample(0.0, builtin=1e-3), BETTER),
        (sample(1e-13, builtin=None), AS_GOOD),
        (sample(1e-10, builtin=None), ANOTHER),
        (sample(1e-10, builtin=1.0), ANOTHER),
        (sample(NAN), ANOTHER),
        (sample(INF), ANOTHER),
        (sample(0.0, response=4e-5), INCONCLUSIVE),
        (sample(0.0, response=NAN), INCONCLUSIVE),
        (sample(NAN, response=NAN), INCONCLUSIVE),
        (replace(sample(), candidate=exact(np.ones(9))), ANOTHER),
        (replace(sample(), candidate=exact(np.ones((10, 1)))), ANOTHER),
        (replace(sample(1e-10), scale=100.0), AS_GOOD),
    ],
)
def test_verdict_on_the_algorithm(found: Sample, verdict: str) -> None:
    assert same_algorithm([found]).verdict == verdict


def test_a_missing_builtin_has_no_error() -> None:
    for judged in (
        same_algorithm([sample(builtin=None)]),
        same_precision([sample(builtin=None, response=EPS)], EPS),
    ):
        assert np.isnan(judged.builtin_error)
        assert judged.verdict == AS_GOOD


@pytest.mark.parametrize(
    ("bad", "verdict"),
    [
        (sample(1e-9), ANOTHER),
        (sample(NAN), ANOTHER),
        (sample(0.0, response=1.0), INCONCLUSIVE),
        (sample(NAN, response=NAN), INCONCLUSIVE),
    ],
)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_seed_decides_on_the_algorithm(bad: Sample, verdict: str, position: int) -> None:
    samples = [sample(1e-12), sample(2e-12)]
    samples.insert(position, bad)
    assert same_algorithm(samples).verdict == verdict


def test_the_worst_seed_is_shown() -> None:
    assert same_algorithm([sample(1e-12), sample(3e-12), sample(0.0)]).error == pytest.approx(3e-12)


@pytest.mark.parametrize(
    ("found", "norm", "bound"),
    [
        (sample(builtin=1e-5), "max", 8 * 1e-5 + EPS / 2),
        (sample(builtin=1e-6, response=1e-5), "max", 8 * 1e-5 + EPS / 2),
        (sample(builtin=None, response=1e-5), "max", 8 * 1e-5 + EPS / 2),
        (sample(builtin=NAN, response=1e-5), "max", 8 * 1e-5 + EPS / 2),
        (sample(builtin=0.0), "max", EPS / 2),
        (sample(builtin=1e-5, size=300), "max", 2.5 * 1e-5 + EPS / 2),
        (sample(builtin=1e-5, size=299), "max", 8 * 1e-5 + EPS / 2),
        (replace(sample(builtin=1e-5, size=400), independent=12), "max", 8 * 1e-5 + EPS / 2),
        (replace(sample(builtin=1e-5), scale=10.0), "max", 8 * 1e-6 + EPS / 2),
        (sample(builtin=1e-5, size=400), "rms", 2.5 * 1e-5 / 20 + EPS / 2),
        (sample(response=1e-5, size=400), "rms", 2.5 * 1e-5 / 20 + EPS / 2),
    ],
)
def test_bound_of_the_precision(found: Sample, norm: str, bound: float) -> None:
    """An error in all elements alike is largest in rms, one in the first alone in max norm."""
    gap = bound * (1 - 1e-6) * max(1.0, found.scale or 0)
    spread = (
        np.full(found.oracle.size, gap) if norm == "rms" else gap * np.eye(found.oracle.size)[0]
    )
    judged = same_precision([replace(found, candidate=found.oracle + spread)], EPS)
    assert judged.rule.endswith(norm)
    assert judged.bound == pytest.approx(bound, rel=1e-6)
    assert judged.verdict in (AS_GOOD, BETTER)
    over = replace(found, candidate=found.oracle + spread * (1 + 1e-5))
    assert same_precision([over], EPS).verdict == WORSE


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (sample(1e-6, builtin=1.2e-6), AS_GOOD),
        (sample(1e-6, builtin=1.3e-6), BETTER),
        (sample(1e-6, builtin=1e-9), WORSE),
        (sample(0.2, builtin=0.2), INCONCLUSIVE),
        (sample(0.1, response=0.2), INCONCLUSIVE),
        (sample(0.1, builtin=0.2, response=0.2), INCONCLUSIVE),
        (sample(0.1, builtin=0.09, response=0.2), AS_GOOD),
        (sample(0.2, builtin=0.09, response=0.2), INCONCLUSIVE),
        (sample(0.0, response=0.2), AS_GOOD),
        (sample(0.0, response=INF), INCONCLUSIVE),
        (sample(NAN, builtin=1e-6), ANOTHER),
        (sample(INF, builtin=1e-6), ANOTHER),
        (replace(sample(builtin=1e-6), candidate=exact(1.0)), ANOTHER),
    ],
)
def test_verdict_on_the_precision(found: Sample, verdict: str) -> None:
    assert same_precision([found], EPS).verdict == verdict


def test_where_the_dtype_holds_nothing_nothing_is_right() -> None:
    tiny = exact([1e-12, 3e-12])
    zeros = np.zeros(2)
    underflow = Sample(zeros, zeros, tiny, [tiny])
    assert same_precision([underflow], 2.0**-10).verdict == AS_GOOD
    assert same_precision([underflow], 2.0**-23).verdict == INCONCLUSIVE
    other = replace(underflow, candidate=zeros + 1e-12)
    assert same_precision([other], 2.0**-10).verdict == INCONCLUSIVE


def test_the_floor_and_the_seed_that_decided_are_told() -> None:
    samples = [sample(e, builtin=1e-6, response=r) for e, r in ((1e-7, 0.1e-6), (3e-7, 3e-6))]
    worst = same_algorithm([sample(response=1e-12), sample(1e-9, response=2e-12)])
    assert (worst.seed, worst.floor) == (1, pytest.approx(2e-12, rel=1e-3))
    middle = own_target([samples[0], samples[1], sample(5e-6, 1e-6)], EPS)
    assert (middle.seed, middle.note) == (1, "seed 2 has 4 bounds")
    assert middle.floor == pytest.approx(3e-6, rel=1e-3)
    assert (
        same_bits([Sample(ONE, ONE, exact(ONE), []), Sample(ONE + 1, ONE, exact(ONE), [])]).seed
        == 1
    )
    assert beside_builtin([sample(), sample(1e-9)]).seed == 1


def test_a_builtin_that_is_no_number_is_mentioned() -> None:
    found = [sample(builtin=NAN)]
    for judged in (same_algorithm(found), same_precision(found, EPS), own_target(found, EPS)):
        assert (judged.verdict, judged.note[:15]) == (BETTER, "the builtin is ")


def test_noise_as_large_as_the_values_is_never_good() -> None:
    noise = sample(0.5, builtin=0.5, response=2.0)
    for judged in (same_algorithm([noise]), same_precision([noise], EPS), own_target([noise], EPS)):
        assert judged.verdict == INCONCLUSIVE


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        ([2e-6, 1e-7, 1e-7], AS_GOOD),  # 2.4 bounds
        ([1e-7, 2e-6, 1e-7], AS_GOOD),
        ([1e-7, 1e-5, 1e-7], AS_GOOD),
        ([1e-7, 1e-3, 1e-7], WORSE),  # beyond any chance
        ([2e-6, 2e-6, 1e-7], WORSE),
        ([1e-7, 1e-7, NAN], ANOTHER),
        ([1e-7, NAN, NAN], ANOTHER),
    ],
)
def test_the_median_seed_decides_on_the_precision(errors: list[float], verdict: str) -> None:
    samples = [sample(error, builtin=1e-7) for error in errors]
    assert same_precision(samples, EPS).verdict == verdict


def test_an_exact_builtin_is_mentioned() -> None:
    assert same_precision([sample(1e-9)], EPS).note == "the builtin is exact"
    assert same_precision([sample(0.0)], EPS).note == ""
    assert same_precision([sample(1e-9, builtin=1e-9)], EPS).note == ""


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_empty_arrays_agree(shape: tuple[int, ...]) -> None:
    empty = exact(np.ones(shape))
    found = Sample(empty, empty, empty, [empty])
    for judged in (same_algorithm([found]), same_precision([found], EPS), same_bits([found])):
        assert (judged.error, judged.verdict) == (0, AS_GOOD)


def test_zeros_are_judged_absolutely() -> None:
    zeros = exact(np.zeros(3))
    found = Sample(zeros + 1e-12, zeros, zeros, [zeros])
    assert same_algorithm([found]).verdict == AS_GOOD
    assert same_algorithm([replace(found, candidate=zeros + 1e-10)]).verdict == ANOTHER
    assert same_precision([found], EPS).verdict == WORSE
    assert same_precision([replace(found, candidate=zeros)], EPS).verdict == AS_GOOD


@pytest.mark.parametrize("values", [[NAN, NAN], [INF, NAN], [1.0, NAN]])
def test_values_that_are_no_numbers_agree(values: list[float]) -> None:
    a = exact(values)
    found = Sample(a, a, a, [a])
    for judged in (same_algorithm([found]), same_precision([found], EPS), same_bits([found])):
        assert judged.verdict == AS_GOOD


ONE = np.array([1.0, NAN, INF, 0.0], dtype=np.float32)


@pytest.mark.parametrize(
    ("candidate", "builtin", "same"),
    [
        (ONE, ONE.copy(), True),
        (ONE, np.array([1.0, NAN, INF, -0.0], dtype=np.float32), True),
        (np.nextafter(ONE[:1], np.float32(2)), ONE[:1], False),
        (np.nextafter(ONE[3:], np.float32(2)), ONE[3:], False),
        (np.nan_to_num(ONE), ONE, False),
        (ONE, np.nan_to_num(ONE), False),
        (ONE.astype(np.float64), ONE, False),
        (ONE[:3], ONE, False),
        (ONE[None], ONE, False),
        (ONE, None, False),
        (np.array([1, 2]), np.array([1, 2]), True),
        (np.array([1, 2]), np.array([1, 3]), False),
    ],
)
@pytest.mark.parametrize("others", [0, 1])
def test_bits(candidate: Any, builtin: Any, same: bool, others: int) -> None:
    fine = Sample(ONE, ONE, exact(ONE), [])
    judged = same_bits([fine] * others + [Sample(candidate, builtin, exact(ONE), [])])
    assert judged.verdict == (AS_GOOD if same else ANOTHER)
    assert (judged.error == 0) == same
    assert judged.rule == "bitwise"


@pytest.mark.parametrize(
    ("error", "builtin", "rule", "verdict"),
    [
        (0.9 * EPS, 0.0, "eps", AS_GOOD),
        (1.1 * EPS, 0.0, "eps", WORSE),
        (1.1 * EPS, 0.9 * EPS, "1.25·builtin", AS_GOOD),
        (12.4 * EPS, 10 * EPS, "1.25·builtin", AS_GOOD),
        (12.6 * EPS, 10 * EPS, "1.25·builtin", WORSE),
        (5 * EPS, 10 * EPS, "1.25·builtin", BETTER),
        (0.5 * EPS, INF, "eps", BETTER),
        (1.1 * EPS, NAN, "eps", WORSE),
        (NAN, 0.0, "eps", WORSE),
        (1.1 * EPS, None, "eps", WORSE),
    ],
)
def test_own_target(error: float, builtin: float | None, rule: str, verdict: str) -> None:
    judged = own_target([sample(error, builtin)], EPS)
    assert (judged.rule, judged.verdict) == (rule, verdict)


def test_own_target_takes_the_seed_in_the_middle() -> None:
    good, bad = sample(0.5 * EPS), sample(3 * EPS)
    assert own_target([good, good, good, bad, bad], EPS).verdict == AS_GOOD
    assert own_target([good, good, bad, bad, bad], EPS).verdict == WORSE


def test_own_target_measures_what_cancels_to_nothing_against_its_terms() -> None:
    nothing = Sample(
        candidate=exact([0.5 * EPS]), builtin=exact([0.0]), oracle=exact([1e-20]), responses=[],
        scale=1.0,
    )  # fmt: skip
    assert own_target([nothing], EPS).verdict == AS_GOOD
    something = replace(nothing, oracle=exact([1e-10]))
    assert own_target([something], EPS).verdict == WORSE


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.9e-12, AS_GOOD), (1.1e-12, ANOTHER), (NAN, ANOTHER)]
)
def test_beside_the_builtin(gap: float, verdict: str) -> None:
    assert beside_builtin([sample(0.0), sample(gap)]).verdict == verdict


def test_beside_the_builtin_is_not_beside_the_oracle() -> None:
    assert beside_builtin([sample(1e-9, builtin=1e-9)]).verdict == AS_GOOD
    assert beside_builtin([sample(0.0, builtin=1e-9)]).verdict == ANOTHER
    assert beside_builtin([sample(0.0, builtin=None)]).verdict == ANOTHER


def test_one_seed_of_one_quantity_that_is_badly_conditioned_speaks_for_the_case() -> None:
    good, bad = sample(response=0.9e-13), sample(response=1.1e-13)
    assert well_conditioned([[good, good], [good]])
    assert not well_conditioned([[good, good], [good, bad]])


def test_where_the_builtin_itself_is_beyond_the_bound_by_rounding() -> None:
    for error, builtin, verdict in (
        (4.9e-11, 2e-11, "as good"),
        (5.1e-11, 2e-11, "another function"),
        (2e-11, 0.9e-11, "another function"),  # the builtin is within it
        (2e-7, 1e-7, "another function"),  # that is no rounding
    ):
        values = np.ones(400, dtype=np.longdouble)
        judged = same_algorithm([Sample(values + error, values + builtin, values, [values])])
        assert judged.verdict == verdict


def test_what_is_below_the_smallest_normal_number_may_be_zero() -> None:
    right = np.full(400, 2e-308, dtype=np.longdouble)
    flushed = Sample(np.zeros(400), np.zeros(400), right, [right])
    assert same_algorithm([flushed]).verdict == "as good"
    right = np.full(400, 1e-300, dtype=np.longdouble)
    lost = Sample(np.zeros(400), np.zeros(400), right, [right])
    assert same_algorithm([lost]).verdict == "another function"
