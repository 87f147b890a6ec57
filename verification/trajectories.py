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
    """In float64: the builtin's trajectory to 1e-12 of size and distance, for every seed."""
    drifts = [drift(s.candidate, s.builtin) for s in samples if s.builtin is not None]
    error, builtin = max(drifts), max(_builtins(s) for s in samples)
    verdict = AS_GOOD if error <= TO_BUILTIN else ANOTHER
    rule = f"builtin to {TO_BUILTIN:.0e}·{SCALE}"
    return Judgement(error, builtin, TO_BUILTIN, rule, verdict, seed=drifts.index(error))


def beside_oracle(samples: list[Sample]) -> Judgement:
    """In float64: the oracle's trajectory to 1e-11 of size and distance, for every seed.

    Or to 30 times the oracle's response to ±1 ulp, where that is more: where decay outweighs the
    gradients, steps of a set length jump to and fro about zero, and every rounding grows.
    """
    judged = worst(_beside_oracle(sample, seed) for seed, sample in enumerate(samples))
    return replace(judged, floor=_response(samples[judged.seed or 0]))


def _beside_oracle(sample: Sample, seed: int) -> Judgement:
    error, builtin = drift(sample.candidate, sample.oracle), _builtins(sample)
    bound, limit = TO_ORACLE, f"{TO_ORACLE:.0e}"
    response = _response(sample) if error > bound else 0.0  # asked only then: it takes long
    if RESPONSE_64 * response > bound:
        bound, limit = RESPONSE_64 * response, f"{RESPONSE_64}·P64"
    verdict = INCONCLUSIVE if bound > 1e-3 else _verdict(error, builtin, bound, ANOTHER)
    return Judgement(error, builtin, bound, f"oracle to {limit}·{SCALE}", verdict, seed=seed)


def own_precision(samples: list[Sample], eps: float) -> Judgement:
    """Below float64: at most 1.25 times the builtin's drift from the oracle, or one eps.

    The seed in the middle.
    """
    errors = [drift(s.candidate, s.oracle) for s in samples]
    builtins = [_builtins(s) for s in samples]
    bounds = [max(OWN * builtin, eps) if math.isfinite(builtin) else eps for builtin in builtins]
    middle, note = in_the_middle(errors, bounds)
    error, builtin, bound = errors[middle], builtins[middle], bounds[middle]
    rule = f"oracle to eps·{SCALE}" if bound == eps else f"{OWN}·builtin"
    verdict, floor = _verdict(error, builtin, bound, WORSE), _response(samples[middle])
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
