"""The stricter rules for trajectories: how far two of them drift apart, as a share of the way.

A value that has moved far and come back is small, and its rounding is not: a gap is measured
against the size of the value and the distance that it has travelled so far, after every step.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from verification.report import ANOTHER, AS_GOOD, BETTER, INCONCLUSIVE, PASSING, WORSE
from verification.tolerance import (
    CLEARLY,
    MARGIN,
    OWN,
    RESPONSE_64,
    Judgement,
    Sample,
    distance,
    in_the_middle,
    worst,
)

TO_BUILTIN, TO_ORACLE = 1e-12, 1e-11  # in float64: 200 steps of a few roundings each are 1e-14
SCALE = "(norm + distance)"
FAR = 1e-3  # a bound that tells nothing any more
CHAOS = 1000  # times eps: who responds so to ±1 ulp of the inputs multiplies every rounding


def drift(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the largest over the steps of ‖values − reference‖₂ / (‖reference‖₂ + distance).

    Args:
        values: a value after each step, (steps, …).
        reference: likewise; the distance is what it has travelled since the first step.

    Returns:
        The ratio; infinite where the shapes, or the places of NaN and ∞, don't agree.

    Example:
        >>> drift([[1.0], [0.0]], [[1.0], [0.5]])  # 0.5 / (0.5 + 0.5)
        0.5
    """
    a, b = np.asarray(values, np.longdouble), np.asarray(reference, np.longdouble)
    if math.isinf(distance(a, b)):
        return math.inf
    finite = np.isfinite(b)
    a, b = (np.where(finite, x, 0).reshape(len(x), -1) for x in (a, b))
    moved = np.linalg.norm(np.diff(b, axis=0, prepend=b[:1]), axis=1)
    size = np.linalg.norm(b, axis=1) + np.cumsum(moved)
    gap = np.linalg.norm(a - b, axis=1)
    size = np.maximum(size, np.finfo(np.longdouble).tiny)
    return float((gap / size).max())


def beside_builtin(samples: list[Sample]) -> Judgement:
    """In float64: the builtin's trajectory to 1e-12 of size and distance, for every seed.

    Or to 30 times the oracle's response, as in `beside_oracle`: where every rounding grows, only
    who rounds like the builtin in every operation, its square root included, stays beside it.
    """
    return worst(_beside_builtin(sample, seed) for seed, sample in enumerate(samples))


def _beside_builtin(sample: Sample, seed: int) -> Judgement:
    error = math.inf if sample.builtin is None else drift(sample.candidate, sample.builtin)
    bound, limit = _or_response(sample, error, TO_BUILTIN)
    verdict = INCONCLUSIVE if bound > FAR else AS_GOOD if error <= bound else ANOTHER
    rule = f"builtin to {limit}·{SCALE}"
    return Judgement(error, _builtins(sample), bound, rule, verdict, seed=seed)


def _or_response(sample: Sample, error: float, bound: float) -> tuple[float, str]:
    """Return a bound, or 30 responses where an error needs them: to ask takes long."""
    response = RESPONSE_64 * _response(sample) if error > bound else 0.0
    return (response, f"{RESPONSE_64}·P64") if response > bound else (bound, f"{bound:.0e}")


def beside_oracle(samples: list[Sample]) -> Judgement:
    """In float64: the oracle's trajectory to 1e-11 of size and distance, for every seed.

    Or to 30 times the oracle's response to ±1 ulp, where that is more: where decay outweighs the
    gradients, steps of a set length jump to and fro about zero, and every rounding grows.
    """
    judged = worst(_beside_oracle(sample, seed) for seed, sample in enumerate(samples))
    return replace(judged, floor=_response(samples[judged.seed or 0]))


def _beside_oracle(sample: Sample, seed: int) -> Judgement:
    error, builtin = drift(sample.candidate, sample.oracle), _builtins(sample)
    bound, limit = _or_response(sample, error, TO_ORACLE)
    verdict = INCONCLUSIVE if bound > FAR else _verdict(error, builtin, bound, ANOTHER)
    return Judgement(error, builtin, bound, f"oracle to {limit}·{SCALE}", verdict, seed=seed)


def own_precision(samples: list[Sample], eps: float) -> Judgement:
    """Below float64: at most 1.25 times the builtin's drift from the oracle, or one eps.

    The seed in the middle. Where the trajectory is chaotic, it is luck who of two is nearer: there
    it is the rule for everybody, 2.5 times the builtin's drift or the oracle's response to ±1 ulp.
    """
    errors = [drift(s.candidate, s.oracle) for s in samples]
    builtins = [_builtins(s) for s in samples]
    bounds = [max(OWN * builtin, eps) if math.isfinite(builtin) else eps for builtin in builtins]
    middle, note = in_the_middle(errors, bounds)
    error, builtin, bound = errors[middle], builtins[middle], bounds[middle]
    rule = f"oracle to eps·{SCALE}" if bound == eps else f"{OWN}·builtin"
    floor = _response(samples[middle])
    if floor > CHAOS * eps:
        bound, rule = MARGIN * max(builtin, floor), f"{MARGIN}·P, chaotic"
    verdict = _verdict(error, builtin, bound, WORSE)
    if error > eps and floor >= 1 and verdict in PASSING:
        verdict, note = INCONCLUSIVE, "noise as large as the values"
    return Judgement(error, builtin, bound, rule, verdict, note, floor, middle)


def _builtins(sample: Sample) -> float:
    return math.nan if sample.builtin is None else drift(sample.builtin, sample.oracle)


def _response(sample: Sample) -> float:
    return max((drift(response, sample.oracle) for response in sample.responses), default=0.0)


def _verdict(error: float, builtin: float, bound: float, otherwise: str) -> str:
    if not error <= bound:
        return otherwise
    return BETTER if error * CLEARLY < builtin else AS_GOOD
