"""Small values beside large ones: what is wrong in them alone is seen, and what is right passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from verification.ops.small_values import RULE, small_values
from verification.public import verify_op
from verification.tolerance import Sample

EPS, TINY = 2.0**-52, 2.0**-1022


def cut_off(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    a = F.softmax(input, dim, dtype=dtype)
    return torch.where(a < 1e-12, 0 * a, a)


def no_left_tail(input: Tensor) -> Tensor:
    return torch.where(input < -25, 0 * input, torch.sigmoid(input))


def zero_near_zero(input: Tensor) -> Tensor:
    return torch.where(input.abs() < 1e-14, 0 * input, torch.tanh(input))


def beside_zero(input: Tensor) -> Tensor:
    return torch.where(input.abs() < 1e-15, input + 1e-12, torch.tanh(input))


HIDDEN = {
    "softmax": cut_off, "sigmoid": no_left_tail, "tanh": zero_near_zero,
    "tanh, values": beside_zero,
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", HIDDEN)
def test_small_values_are_seen(name: str, dtype: str) -> None:
    like = name.partition(",")[0]
    report = verify_op(HIDDEN[name], like=like, dtypes=[dtype])
    found = [row for row in report.failures if row.rule.startswith(RULE)]
    assert {row.quantity for row in found} == {"output"}
    assert all("values near 1e-" in row.note for row in found)


def clamped(op: Callable[..., Tensor], **limits: float) -> Callable[..., Tensor]:
    return lambda *args, **options: op(*args, **options).clamp(**limits)


LARGE = {
    "cross_entropy": clamped(F.cross_entropy, max=3e4),
    "log_softmax": clamped(F.log_softmax, min=-1e30 / 2),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("like", LARGE)
def test_what_cuts_off_large_values_is_seen(like: str, dtype: str) -> None:
    report = verify_op(LARGE[like], like=like, dtypes=[dtype], cases="scores to*")
    assert {"output", "grad input"} <= {row.quantity for row in report.failures}


def nearly_sure_is_sure(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
    a = F.log_softmax(input, dim, dtype=dtype)
    return torch.where(a > -1e-9, 0 * a, a)


def test_a_probability_of_nearly_one_is_seen() -> None:
    report = verify_op(nearly_sure_is_sure, like="log_softmax", dtypes=["float64"])
    assert {row.case for row in report.failures} == {"nearly certain"}


def sample(candidate: Any, builtin: Any, response: float = 0.0) -> list[Sample]:
    oracle = np.array([1.0, 1e-9, 2e-9, 0.0, np.inf], dtype=np.longdouble)
    parties = [np.where([False, True, True, False, False], x, oracle) for x in (candidate, builtin)]
    changed = oracle * (1 + response)
    return [Sample(*(p.astype(np.float64) for p in parties), oracle, [changed])]  # type: ignore[call-arg, arg-type]


def test_the_builtin_says_what_is_fair() -> None:
    found = small_values(sample(0.0, [1, 1e-9, 2e-9, 0, 1]), EPS, TINY)
    assert found is not None
    assert (found.error, found.verdict, found.note) == (1.0, "another function", "values near 1e-9")
    assert small_values(sample(0.0, 0.0), EPS, TINY) is None
    right = small_values(sample([1, 1e-9, 2e-9, 0, 1], [1, 1e-9, 2e-9, 0, 1]), EPS, TINY)
    assert right is not None
    assert right.verdict in ("as good", "better")


def test_the_response_gives_room() -> None:
    right, near = [1, 1e-9, 2e-9, 0, 1], [1, 1e-9, 2e-9 * (1 + 1e-6), 0, 1]
    for response, verdict in ((1e-9, "another function"), (1e-6, "as good")):
        found = small_values(sample(near, right, response), EPS, TINY)
        assert found is not None
        assert found.verdict == verdict
    assert small_values(sample(near, right, 0.1), EPS, TINY) is None  # it tells nothing
