"""Is a tensor the reference's? The bound is what the reference itself makes of ±1 ulp."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, NULL, PASSING
from verification.tolerance import RESPONSE_64
from verification.training.lockstep import ROUNDING

BITWISE = "bitwise"
UNCLEAR = {torch.float64: 1e-3}  # a bound above that says nothing; 1 in the other dtypes


@dataclass(frozen=True)
class Judged:
    """Numbers and verdict of one tensor.

    Attributes:
        error: the largest difference, relative to the reference's largest element.
        response: that of the reference to ±1 ulp in everything that goes in.
        bound: the largest error that passes.
        rule: how the bound came about.
        verdict: "as good", "another function", "inconclusive" or "null direction".
        note: what the numbers don't say.
    """

    error: float
    response: float
    bound: float
    rule: str
    verdict: str
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with it."""
        return self.verdict in PASSING

    @property
    def rank(self) -> tuple[bool, float]:
        """What is worse has more: first what fails, then by how much of the bound is taken up."""
        used = self.error / self.bound if self.bound else math.inf if self.error else 0.0
        return not self.passed, math.inf if math.isnan(used) else used


def crash(error: Exception) -> Judged:
    """Return the verdict of something that raises an error."""
    note = f"{type(error).__name__}: {error}".splitlines()[0]
    return Judged(math.inf, math.nan, math.nan, "runs", ANOTHER, note)


def gap(value: Any, expected: Any) -> float:
    """Return max |value − expected|; infinite where shapes, dtypes, or places of NaN and ∞ differ.

    Args:
        value: a tensor; anything else is equal or not.
        expected: likewise.

    Example:
        >>> gap(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.0]))
        0.5
    """
    if not (isinstance(value, Tensor) and isinstance(expected, Tensor)):
        alike = type(value) is type(expected) and value == expected
        return 0.0 if alike else math.inf
    if value.shape != expected.shape or value.dtype != expected.dtype:
        return math.inf
    if not expected.is_floating_point() and not expected.is_complex():
        return 0.0 if torch.equal(value, expected) else math.inf
    apart = (value - expected).abs()
    largest = float(apart.max()) if apart.numel() else 0.0
    if math.isfinite(largest):
        return largest
    same = (value == expected) | (value.isnan() & expected.isnan())
    apart = torch.where(same, 0.0, apart)
    largest = float(apart.max())
    return largest if math.isfinite(largest) else math.inf


def size(expected: Any) -> float:
    """Return the largest absolute value, 1 where there is none or it is 0."""
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        return 1.0
    if math.isfinite(largest := _largest(expected)):
        return largest or 1.0
    return _largest(expected[torch.isfinite(expected)]) or 1.0


def judge(value: Any, expected: Any, responses: Iterable[Any]) -> Judged:
    """Judge a tensor: error ≤ 30 · max(P, eps), P the reference's response to ±1 ulp.

    Args:
        value: the candidate's.
        expected: the reference's.
        responses: those of the reference to changed inputs.

    Example:
        >>> x = torch.ones(2, dtype=torch.float64)
        >>> judge(x + 1e-15, x, [x + 1e-16]).verdict, judge(x + 1e-14, x, [x]).verdict
        ('as good', 'another function')
    """
    if value is None or expected is None:
        if value is expected:
            return Judged(0.0, 0.0, 0.0, BITWISE, AS_GOOD)
        note = "there is none" if value is None else "the reference has none"
        return Judged(math.inf, 0.0, 0.0, BITWISE, ANOTHER, note)
    note = ""
    if isinstance(value, Tensor) and isinstance(expected, Tensor):
        kinds = [(str(t.dtype).removeprefix("torch."), list(t.shape)) for t in (value, expected)]
        if kinds[0] != kinds[1]:
            note = "{} {}, the reference's {} {}".format(*kinds[0], *kinds[1])
    scale = size(expected)
    error = gap(value, expected) / scale
    if not isinstance(expected, Tensor) or not expected.is_floating_point():
        return Judged(error, 0.0, 0.0, BITWISE, ANOTHER if error else AS_GOOD, note)
    response = max((gap(r, expected) / scale for r in responses), default=0.0)
    eps = torch.finfo(expected.dtype).eps
    bound = RESPONSE_64 * max(response, eps)
    rule = f"{RESPONSE_64}·{'P' if response > eps else 'eps'}"
    if not math.isfinite(error):
        return Judged(error, response, bound, rule, ANOTHER, note or "NaN or ∞ in other places")
    if bound > UNCLEAR.get(expected.dtype, 1.0) and error > 0:
        return Judged(error, response, bound, rule, INCONCLUSIVE, "conditioning too bad")
    return Judged(error, response, bound, rule, AS_GOOD if error <= bound else ANOTHER, note)


def judge_beside(value: Any, expected: Any, responses: list[Any], terms: float) -> Judged:
    """Judge a tensor that may be nothing but rounding, which is a null direction.

    That is what the gradient of a bias before a batch norm is, and the running mean behind it: at
    most 1e-12 of the terms that cancel, in all parties.

    Args:
        value: the candidate's.
        expected: the reference's.
        responses: those of the reference to changed inputs.
        terms: the size of what it is computed from.

    Example:
        >>> x = torch.tensor([1e-17], dtype=torch.float64)
        >>> judge_beside(2 * x, x, [3 * x], 1.0).verdict, judge_beside(2 * x, x, [x], 1.0).verdict
        ('null direction', 'another function')
    """
    judged = judge(value, expected, responses)
    unclear = judged.bound > UNCLEAR.get(getattr(expected, "dtype", torch.float64), 1.0)
    if not unclear or not math.isfinite(judged.error):
        return judged
    rounding = max(ROUNDING, 10 * torch.finfo(expected.dtype).eps) * terms
    if max(_largest(tensor) for tensor in (value, expected, *responses)) > rounding:
        return judged
    return replace(judged, bound=math.inf, rule="not judged", verdict=NULL, note="rounding alone")


def judge_gradients(
    values: Mapping[str, Tensor | None],
    expected: Mapping[str, Tensor | None],
    responses: list[Mapping[str, Tensor | None]],
    cotangent: float = 0.0,
) -> Iterator[tuple[str, Judged]]:
    """Judge gradients, beside the largest of them and the cotangent that they come from."""
    terms = max([cotangent, *map(_largest, expected.values())])
    for name, right in expected.items():
        others = [party.get(name) for party in responses]
        yield name, judge_beside(values.get(name), right, others, terms)


def excess(ran: Judged, alone: Judged) -> float:
    """Return by how much an error in the run exceeds the local one; a missing tensor is its own."""
    if math.isfinite(ran.error) and math.isfinite(alone.error):
        return max(0.0, ran.error - alone.error)
    return math.inf if alone.passed else 0.0


def _largest(tensor: Tensor | None) -> float:
    return 0.0 if tensor is None or not tensor.numel() else float(tensor.abs().max())
