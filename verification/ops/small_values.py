"""The question of `tolerance.same_algorithm` once more, where the largest values hide the others.

A softmax that makes 0 of every probability below 1e-12, or a sigmoid without its left tail, is as
near to the oracle as rounding, measured by the largest value. So values of one size are measured
against the largest of them, as far as the builtin itself is right there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from verification.report import ANOTHER
from verification.tolerance import (
    FLOOR_64,
    RESPONSE_64,
    Judgement,
    Sample,
    distance,
    response_of,
    size_of,
    verdict_of,
    worst,
)

RULE = "small values"
DECADES = 3  # that are measured together
ROOM = 8  # how often the builtin's error has to fit into a bound: another's may be rounded worse


def small_values(samples: list[Sample], eps: float, tiny: float) -> Judgement | None:
    """Ask for the function once more where the largest values hide the others: size by size.

    Values within three decades are measured against the largest of them:
    error ≤ 30 · max(P, eps), in float64 max(1e-11, 30 · P), P the oracle's response there; for
    every seed. The builtin says where that is fair: it has to use less than an eighth of the bound.
    What is within three decades of the largest of all, or below tiny / eps, where the dtype itself
    flushes, is left out.

    Returns:
        The worst; None where there are no such values.
    """
    judged = [
        _small_values(part, size, seed, eps)
        for seed, sample in enumerate(samples)
        for size, part in _by_size(sample, tiny / eps)
    ]
    return worst(filter(None, judged)) if any(judged) else None


def _small_values(sample: Sample, size: int, seed: int, eps: float) -> Judgement | None:
    scale, response = size_of(sample.oracle), response_of(sample)
    error = distance(sample.candidate, sample.oracle) / scale
    floor = max(FLOOR_64, RESPONSE_64 * eps)
    bound = max(floor, RESPONSE_64 * response)
    if sample.builtin is None or bound > 1 / 2:
        return None
    builtin = distance(sample.builtin, sample.oracle) / scale
    if builtin * ROOM > bound:
        return None
    rule = f"{RESPONSE_64}·P" if bound > floor else f"{floor:.0e}"
    verdict, note = verdict_of(error <= bound, error, builtin, ANOTHER), f"values near 1e{size}"
    return Judgement(error, builtin, bound, f"{RULE}: {rule}", verdict, note, response, seed)


def _by_size(sample: Sample, least: float) -> Iterator[tuple[int, Sample]]:
    """Yield the decade and the values of each size but the largest."""
    sizes = np.where(np.isfinite(sample.oracle), np.abs(sample.oracle), 0)
    judged = (sizes >= least) & (sizes <= sizes.max(initial=0) / 10**DECADES)
    decades = DECADES * np.floor(np.log10(sizes, where=judged, out=np.zeros_like(sizes)) / DECADES)
    for decade in np.unique(decades[judged]):
        here = judged & (decades == decade)
        builtin = None if sample.builtin is None else sample.builtin[here]
        responses = [response[here] for response in sample.responses]
        yield int(decade), Sample(sample.candidate[here], builtin, sample.oracle[here], responses)
