"""What a candidate changes in the process is seen, said, and put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from verification import process_state
from verification.public import verify_op, verify_optimizer

CHANGES: dict[str, Callable[[], Any]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(3),
    "gradient mode": lambda: torch.set_grad_enabled(False),
    "autocast on the CPU": lambda: torch.set_autocast_enabled("cpu", True),
    "anomaly detection": lambda: torch.set_anomaly_enabled(True),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "denormals flushed": lambda: torch.set_flush_denormal(True),
    "float32 matmul on the CPU": lambda: setattr(
        torch.backends.mkldnn.matmul,
        "fp32_precision",
        "bf16",  # type: ignore[attr-defined]
    ),
    "NumPy's errors": lambda: np.seterr(over="raise"),
    "the generator's seed": lambda: torch.manual_seed(7),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_and_put_back(name: str) -> None:
    def tanh(input: Tensor) -> Tensor:
        if calls:
            return torch.tanh(input)
        calls.append(1)  # once is enough
        output = torch.tanh(input)
        CHANGES[name]()
        return output

    calls: list[int] = []
    before = process_state.state()
    report = verify_op(tanh, like="tanh", cases="easy", dtypes=["float64"])
    assert process_state.put_back(before) == []
    said = [row.note for row in report.failures]
    assert any(name in note and "became" in note for note in said)
    rows = [row for row in report.rows if row.quantity == "global state"]
    assert rows[-1].passed  # in the part after it
    assert name == "gradient mode" or not rows[0].passed


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        a = torch.tanh(z)
        ctx.save_for_backward(a)
        return a

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:  # type: ignore[override]
        (a,) = ctx.saved_tensors
        torch.set_default_dtype(torch.float64)
        return da * (1 - a * a)


def test_a_change_in_the_backward_is_seen() -> None:
    report = verify_op(_Backward.apply, like="tanh", cases="easy")
    rows = [row for row in report.failures if row.quantity == "global state"]
    assert rows[0].note == "default dtype: torch.float32 became torch.float64"
    assert rows[0].case == "easy"
    assert torch.get_default_dtype() == torch.float32


class Threads(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().step(closure)


def test_an_optimizer_is_watched_too() -> None:
    before = torch.get_num_threads()
    report = verify_optimizer(Threads, like="SGD", cases="lr=0.05")
    assert {row.quantity for row in report.failures} == {"global state"}
    assert torch.get_num_threads() == before


def test_right_ones_have_a_row_that_passes() -> None:
    reports = (
        verify_op(torch.tanh, like="tanh", cases="easy"),
        verify_optimizer(torch.optim.SGD, like="SGD", cases="lr=0.05"),
    )
    for report in reports:
        report.raise_if_failed()
        assert [row.note for row in report.rows if row.quantity == "global state"] == [""]
