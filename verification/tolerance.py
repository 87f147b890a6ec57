"""The two questions that decide a verdict, and the third where bits are due.

Errors are measured against a float64 oracle, in the maximum norm and as root mean square, relative
to the size of the oracle's values. There are no fixed tolerances: the bounds come from how the
oracle itself responds when its inputs change by one unit in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
import torch

from verification.report import ANOTHER, AS_GOOD, BETTER, INCONCLUSIVE, PASSING, WORSE

DRAWS = 3  # of ±1 ulp, for the oracle's response
FLOOR_64 = 1e-11  # a right float64 computation on easy inputs gives 1e-16 … 1e-13
ROUNDING = 1e-9  # more than rounding makes of a builtin; the subtlest bug (ε 1.1e-5) makes 2e-7
RESPONSE_64 = 30  # torch's own error stays below 8 responses on inputs with an offset of 1e4
MARGIN, MARGIN_SMALL, SMALL = 2.5, 8.0, 300  # few elements: the maximum is a noisy statistic
OWN = 1.25  # refnet's own target, in place of the margins
NOTHING = 1e-16  # of the terms: what extended precision leaves where they cancel
ZEROS = "zeros stay 0"
BESIDE, WELL = 1e-12, 1e-13  # how close to the builtin in float64, and where
TELLS = 0.2  # an error below it tells a function from zeros, from twice it, from its negative
FAR = 1000  # bounds that no draw may exceed; a right batch norm of two values has used 98
CLEARLY = 1.25  # a ratio of errors that is more than noise
DEVIATIONS = 4  # of a sum's rounding; 2 exp(−4²/2) = 7e-4 is the chance of more
KINDS = {torch.finfo(d).eps: d for d in (torch.float32, torch.bfloat16, torch.float16)}
UNIT_32 = 2.0**-24  # the largest relative error of one addition in float32

Array = npt.NDArray[np.longdouble]


@dataclass(frozen=True)
class Judgement:
    """Numbers and verdict of a row; see `verification.report.Row`.

    `seed` is the place of the sample that decided: of the worst one, or of that in the middle.
    """

    error: float
    builtin_error: float
    bound: float
    rule: str
    verdict: str
    note: str = ""
    floor: float = math.nan
    seed: int | None = None


@dataclass(frozen=True)
class Sample:
    """One quantity of one case under one seed, from the three parties.

    `responses` are the oracle's values for inputs that are changed by random ±1 ulp of the tested
    dtype. `builtin` is None where there is none. `scale` is the yardstick of the errors, if the
    oracle's own size misleads. `independent` is the number of values that don't follow from each
    other, all of them unless told: the steps of a trajectory do. `shut` tells where the input is
    −∞, if that matters.
    """

    candidate: npt.NDArray[np.floating]
    builtin: npt.NDArray[np.floating] | None
    oracle: Array
    responses: list[Array]
    scale: float | None = None
    independent: int | None = None
    shut: npt.NDArray[np.bool_] | None = None


def distance(values: npt.ArrayLike, oracle: Array, norm: str = "max") -> float:
    """Return max or root mean square of |values − oracle|; infinite where NaN or ∞ don't agree.

    Example:
        >>> distance([1.0, np.nan], np.array([1.5, np.nan], dtype=np.longdouble))
        0.5
        >>> distance([1.0, 2.0], np.array([1.0, np.nan], dtype=np.longdouble))
        inf
    """
    values = np.asarray(values, dtype=np.longdouble)
    if values.shape != oracle.shape:
        return math.inf
    finite = np.isfinite(oracle)
    if not finite.all():  # a large net's parameters are not copied
        if not np.array_equal(values[~finite], oracle[~finite], equal_nan=True):
            return math.inf
        values, oracle = values[finite], oracle[finite]
    return _norm(values - oracle, norm)


def _norm(gap: Array, norm: str) -> float:
    if not gap.size:
        return 0.0
    size = np.abs(gap).max() if norm == "max" else np.sqrt((gap * gap).mean())
    return float(size) if np.isfinite(size) else math.inf


def size_of(oracle: Array, norm: str = "max") -> float:
    """Return max or root mean square of the finite values, 0 without any."""
    finite = np.isfinite(oracle)
    return _norm(oracle if finite.all() else oracle[finite], norm)


def same_algorithm(samples: list[Sample]) -> Judgement:
    """Question 1, in float64: is it the oracle's function?

    error ≤ max(1e-11, 30 · P64), P64 the oracle's response to ±1 ulp; for every seed. Where the
    builtin itself is beyond that, by rounding alone, P64 has missed what a case does to it (of two
    examples, say, the mean is rounded, and the output hardly depends on them): 2.5 times its error.
    """
    return worst(_same_algorithm(sample, seed) for seed, sample in enumerate(samples))


def worst(judged: Iterable[Judgement]) -> Judgement:
    """Return one that doesn't pass, else the one that uses most of its bound."""
    return max(judged, key=lambda j: (j.verdict not in PASSING, j.error / j.bound))


def _same_algorithm(sample: Sample, seed: int) -> Judgement:
    scale = _scale(sample)
    error = distance(sample.candidate, sample.oracle) / scale
    builtin = math.nan
    if sample.builtin is not None:
        builtin = distance(sample.builtin, sample.oracle) / scale
    response = response_of(sample)
    bound = max(FLOOR_64, RESPONSE_64 * response)
    rule = f"{FLOOR_64:.0e}" if bound == FLOOR_64 else f"{RESPONSE_64}·P64"
    if bound < builtin <= ROUNDING:
        bound, rule = MARGIN * builtin, f"{MARGIN}·builtin"
    verdict, note = verdict_of(error <= bound, error, builtin, ANOTHER), _odd(error, builtin, False)
    if bound > 1e-3:
        verdict, note = INCONCLUSIVE, "conditioning too bad"
    return Judgement(error, builtin, bound, rule, verdict, note, response, seed)


def _odd(error: float, builtin: float, exact: bool = True) -> str:
    """Say so where the builtin is no yardstick."""
    if math.isinf(builtin):
        return "the builtin is NaN or ∞ where the oracle is not, or the other way round"
    return "the builtin is exact" if exact and builtin == 0 and error > 0 else ""


def same_precision(samples: list[Sample], eps: float, terms: int = 0) -> Judgement:
    """Question 2, in the tested dtype: is it as accurate as the builtin?

    error ≤ m · max(the builtin's error, P) + ½ · eps · rms(y), in the maximum norm and as root mean
    square, the seed in the middle, and none beyond 1000 times that; P the oracle's response to
    ±1 ulp of the dtype. Where P is so large that this would let everything pass, 1.25 times the
    builtin's error decides if that says enough, and nothing is concluded otherwise.

    Where a right computation may add `terms` numbers one by one in float32, which the builtin does
    in blocks, 4 √terms · u · |y| more is allowed, u = 2⁻²⁴ and y the value that is off the most, so
    that large values don't hide a wrong small one. Each addition multiplies the sum so far
    by 1 + δ, |δ| ≤ u. The δ are of either sign and independent, as far as anybody can tell, so that
    a sum of positive numbers is off by more than λ √terms · u of itself with a probability of at
    most 2 exp(−λ²/2), and not, but for the worst of all cases, by terms · u (Higham and Mary 2019,
    "A new approach to probabilistic rounding error analysis"). Softmax's probabilities are
    off by as much as their normalizer, relatively, and so is the loss, its logarithm, absolutely.
    """
    return worst(_same_precision(samples, eps, norm, terms) for norm in ("max", "rms"))


def _same_precision(samples: list[Sample], eps: float, norm: str, terms: int) -> Judgement:
    errors, builtins, bounds, sources, floors = [], [], [], [], []
    added = f"+{DEVIATIONS}·√{terms}·u" if terms else ""
    for s in samples:
        scale = _scale(s)
        margin = MARGIN_SMALL if (s.independent or s.oracle.size) < SMALL else MARGIN
        builtin = math.nan if s.builtin is None else distance(s.builtin, s.oracle, norm) / scale
        response = max((distance(r, s.oracle, norm) for r in s.responses), default=0.0) / scale
        # where values cancel, what is rounded is as large as what they cancel from
        rounding = eps / 2 * max(size_of(s.oracle, "rms"), s.scale or 0) / scale
        # without a builtin nothing else tells what it costs to round the values themselves
        yardstick = max(rounding if s.builtin is None else 0.0, response)
        if math.isfinite(builtin):
            yardstick = max(builtin, response)
        errors.append(distance(s.candidate, s.oracle, norm) / scale)
        builtins.append(builtin)
        summing = (
            DEVIATIONS * math.sqrt(terms) * UNIT_32 * _size_at(s, norm) / scale if terms else 0
        )
        bounds.append(margin * yardstick + rounding + summing)
        floors.append(response)
        sources.append(
            f"{margin:g}·{'P' if yardstick == response else 'builtin'}+½eps{added}, {norm}"
        )
    bounds = [bound or 1e-300 for bound in bounds]
    middle, note = in_the_middle(errors, bounds)
    error, bound, rule, floor = errors[middle], bounds[middle], sources[middle], floors[middle]
    builtin = median(builtins) if not any(map(math.isnan, builtins)) else math.nan
    known = math.isfinite(floor)
    if bound >= 1 and known and error <= max(OWN * builtin, eps) < TELLS:
        bound, rule = max(OWN * builtin, eps), f"{OWN}·builtin, {norm}"
        verdict = verdict_of(True, median(errors), builtin, WORSE)
    elif bound >= 1 and known and error == _held(samples[middle], eps, norm):
        verdict, note = AS_GOOD, "the oracle's values, as the dtype holds them"
    elif bound >= 1:
        verdict, note = INCONCLUSIVE, "noise as large as the values"
    elif not all(map(math.isfinite, errors)):
        middle = max(range(len(errors)), key=errors.__getitem__)
        error, verdict, note = math.inf, ANOTHER, "NaN, ∞ or shapes differ"
    else:
        verdict = verdict_of(error <= bound, median(errors), builtin, WORSE)
        note = "; ".join(filter(None, (_odd(error, builtin), note)))
    return Judgement(error, builtin, bound, rule, verdict, note, floor, middle)


def _size_at(sample: Sample, norm: str) -> float:
    """Return the size of the value whose error is the largest, or the root mean square of all."""
    if norm == "rms" or sample.candidate.shape != sample.oracle.shape or not sample.oracle.size:
        return size_of(sample.oracle, "rms")
    gaps = np.nan_to_num(np.abs(sample.candidate - sample.oracle))
    return size_of(sample.oracle.flat[[gaps.argmax()]])


def _held(sample: Sample, eps: float, norm: str) -> float:
    """Return the error of the oracle's own values in the dtype: all of it, where it underflows."""
    values = torch.from_numpy(sample.oracle.astype(np.float64)).to(KINDS[eps])
    return distance(values.double().numpy(), sample.oracle, norm) / _scale(sample)


def in_the_middle(
    errors: Sequence[float], bounds: Sequence[float], responses: Sequence[float] = ()
) -> tuple[int, str]:
    """Return which seed is in the middle by its share of the bound, and what the worst one has.

    An accuracy is that of the one in the middle, since the builtin's own error may be small by
    chance. But one that is beyond any chance decides: code may be wrong now and then.

    Args:
        errors: of each seed.
        bounds: likewise.
        responses: of the oracle, which tell what chance makes, where the bounds don't know of them.

    Example:
        >>> in_the_middle([1.0, 9.0, 2.0], [4.0, 4.0, 4.0])
        (2, 'seed 1 has 2.2 bounds')
        >>> in_the_middle([0.1, 900.0, 0.2], [0.4, 0.4, 0.4])
        (1, '')
    """
    used = [error / bound for error, bound in zip(errors, bounds, strict=True)]
    order = sorted(range(len(used)), key=used.__getitem__)
    middle, last = order[(len(order) - 1) // 2], order[-1]
    for i, (error, *known) in enumerate(zip(errors, bounds, responses or bounds, strict=True)):
        if (
            error > FAR * max(known) and max(known) < 1
        ):  # noise as large as the values tells nothing
            return i, ""
    over = used[middle] <= 1 < used[last]
    return middle, f"seed {last} has {used[last]:.2g} bounds" if over else ""


def own_target(samples: list[Sample], eps: float) -> Judgement:
    """Refnet's own target below float64: 1.25 times the builtin's error, or one eps of the scale.

    In the maximum norm over max |y|, the seed in the middle. A quantity that is 0 but for the
    oracle's own rounding is measured against what cancels in it.
    """
    errors, builtins, bounds, floors = [], [], [], []
    for s in samples:
        size, terms = size_of(s.oracle), s.scale or 0.0
        scale = (size if size > NOTHING * terms else terms) or 1.0
        builtin = math.nan if s.builtin is None else distance(s.builtin, s.oracle) / scale
        errors.append(distance(s.candidate, s.oracle) / scale)
        builtins.append(builtin)
        bounds.append(max(OWN * builtin, eps) if math.isfinite(builtin) else eps)
        floors.append(max((distance(r, s.oracle) for r in s.responses), default=0.0) / scale)
    middle, note = in_the_middle(errors, bounds, floors)
    error, builtin, bound = errors[middle], builtins[middle], bounds[middle]
    rule = "eps" if bound == eps else f"{OWN}·builtin"
    verdict = verdict_of(error <= bound, error, builtin, WORSE)
    note = "; ".join(filter(None, (_odd(error, builtin, False), note)))
    if error > eps and floors[middle] >= 1 and verdict in PASSING:
        verdict, note = INCONCLUSIVE, "noise as large as the values"
    return Judgement(error, builtin, bound, rule, verdict, note, floors[middle], middle)


def well_conditioned(quantities: Iterable[list[Sample]]) -> bool:
    """Return whether P64 ≤ 1e-13 for every quantity of a case and every seed.

    A case is judged as a whole: at N = 2 the output of batch norm hardly responds to the last bits
    of the input, while the mean that it is computed by is rounded in them.
    """
    return all(response_of(s) <= WELL for samples in quantities for s in samples)


def beside_builtin(samples: list[Sample]) -> Judgement:
    """In float64, in a well conditioned case: the builtin to 1e-12, for every seed."""
    judged = []
    for seed, s in enumerate(samples):
        gap, error = math.inf, math.nan
        if s.builtin is not None:
            gap = distance(s.candidate, np.asarray(s.builtin, dtype=np.longdouble)) / _scale(s)
            error = distance(s.builtin, s.oracle) / _scale(s)
        verdict = AS_GOOD if gap <= BESIDE else ANOTHER
        rule, floor = "builtin to 1e-12", response_of(s)
        judged.append(Judgement(gap, error, BESIDE, rule, verdict, "", floor, seed))
    return worst(judged)


def _scale(sample: Sample) -> float:
    """Return what errors are measured against: the size, where flushing to zero doesn't show."""
    size = max(size_of(sample.oracle), sample.scale or 0)
    kind = sample.candidate.dtype if sample.candidate.dtype.kind == "f" else np.float64
    return max(size, float(np.finfo(kind).tiny / np.finfo(kind).eps)) if size else 1.0


def response_of(sample: Sample) -> float:
    """Return the oracle's largest response to ±1 ulp, relative."""
    largest = max((distance(r, sample.oracle) for r in sample.responses), default=0.0)
    return largest / _scale(sample)


def same_bits(samples: list[Sample]) -> Judgement:
    """Question 3, where bits are due: the builtin's very values, NaN where it has NaN.

    The signs of zeros and NaN are left out.
    """
    gaps = [
        math.inf if s.builtin is None or s.candidate.dtype != s.builtin.dtype
        else distance(s.candidate, np.asarray(s.builtin, dtype=np.longdouble)) for s in samples
    ]  # fmt: skip
    gap = max(gaps)
    verdict = AS_GOOD if gap == 0 else ANOTHER
    return Judgement(gap, 0.0, 0.0, "bitwise", verdict, seed=gaps.index(gap))


def same_zeros(samples: list[Sample], tiny: float) -> Judgement | None:
    """Where the input is −∞, what the oracle makes 0 of it: e^−∞ is nothing else.

    Whatever it is multiplied by, the scale of a loss among them, an almost 0 becomes seen.

    Args:
        samples: of one quantity.
        tiny: the dtype's smallest normal number; what is below it may be flushed.

    Returns:
        The worst; None where there is no such place.
    """
    places = [(s.oracle == 0) & s.shut for s in samples if s.shut is not None]
    if not any(place.any() for place in places):
        return None
    gaps = [
        size_of(s.candidate[place].astype(np.longdouble))
        if s.candidate.shape == s.oracle.shape else math.inf
        for s, place in zip(samples, places, strict=True)
    ]  # fmt: skip
    gap = max(gaps)
    verdict = AS_GOOD if gap <= tiny else ANOTHER
    return Judgement(gap, 0.0, tiny, ZEROS, verdict, seed=gaps.index(gap))


def verdict_of(holds: bool, error: float, builtin: float, otherwise: str) -> str:
    """Return the verdict of an error that holds its bound, or another."""
    if not holds:
        return otherwise
    return BETTER if error * CLEARLY < builtin else AS_GOOD
