"""Candidates that are right nearly everywhere: what shows the rest, in a quick pass already."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from verification import verify_op


def blind_to_order(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Take a matrix that lies column by column for its transpose."""
    if input.dim() == 2 and input.shape[0] > 1 and input.stride(0) == 1:
        return F.softmax(input, 1 - dim % 2, dtype=dtype)
    return F.softmax(input, dim, dtype=dtype)


def without_tail(input: Tensor, inplace: bool = False) -> Tensor:
    """Leave out what is no whole vector of eight, once there are many."""
    found = F.relu_(input) if inplace else F.relu(input)
    tail = found.numel() % 8 if found.numel() > 64 else 0
    return found if not tail else torch.cat([found[:-tail], found[-tail:] * 2])


def promoting(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return float32 for half precision."""
    half = input.dtype in (torch.float16, torch.bfloat16) and dtype is None
    return F.log_softmax(input, dim, dtype=torch.float32 if half else dtype)


def lowered(input: Tensor, inplace: bool = False) -> Tensor:
    """Go to the lower dtype under autocast, as the builtin doesn't."""
    if torch.is_autocast_enabled("cpu"):
        return torch.sigmoid(input.bfloat16())
    return torch.sigmoid(input)


def rough(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Forget three bits more than the lower dtype does."""
    found = F.linear(input, weight, bias)
    return found * 1.03 if torch.is_autocast_enabled("cpu") else found


def now_and_then(counted: count[int]) -> Callable[..., Tensor]:
    """Be off by a thousandth once in a while, in float32 alone."""

    def candidate(input: Tensor) -> Tensor:
        found = torch.tanh(input)
        seldom = input.dtype == torch.float32 and next(counted) % 7 == 0
        return found * 1.001 if seldom else found

    return candidate


@pytest.mark.parametrize(
    ("candidate", "like", "case"),
    [
        (blind_to_order, "softmax", "transposed"),
        (without_tail, "relu", "67 elements"),
        (promoting, "log_softmax", "easy"),
        (lowered, "sigmoid", "easy, autocast"),
        (rough, "linear", "autocast"),
        (now_and_then(count()), "tanh", ""),
    ],
)
def test_is_seen_in_a_quick_pass(candidate: Any, like: str, case: str) -> None:
    found = {row.case for row in verify_op(candidate, like=like).failures}
    assert any(case in name for name in found)
