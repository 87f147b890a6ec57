"""What a candidate changes in the process is seen, said, and put back."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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
    "the working folder": lambda: os.chdir("/"),
    "environment variables": lambda: os.environ.update(REFNET_SECRET="hidden"),
    "the mask of new files": lambda: os.umask(0o007),
    "signal handlers": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    "sys.stdout": lambda: setattr(sys, "stdout", io.StringIO()),
    "sys.stderr": lambda: setattr(sys, "stderr", io.StringIO()),
    "torch's functions": lambda: setattr(torch, "tanh", torch.sin),
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


def _patched_method() -> None:
    torch.Tensor.add_ = torch.Tensor.sub_  # type: ignore[method-assign,assignment]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: setattr(nn.functional, "relu", torch.tanh), "torch.nn.functional.relu"),
        (lambda: setattr(torch.optim, "Adam", torch.optim.SGD), "torch.optim.Adam"),
        (lambda: setattr(torch.optim.Adam, "zero_grad", print), "torch.optim.Adam.zero_grad"),
        (lambda: setattr(torch.Tensor, "backward", print), "torch.Tensor.backward"),
        (_patched_method, "torch.Tensor.add_"),
        (lambda: setattr(nn.Module, "__call__", print), "torch.nn.Module.__call__"),
        (lambda: delattr(torch, "tanh"), "torch.tanh"),
        (lambda: setattr(torch, "sin", wraps(torch.sin)(lambda x: x)), "torch.sin"),
    ],
)
def test_a_patched_function_is_named_and_put_back(change: Callable[[], Any], name: str) -> None:
    before = process_state.state()
    change()
    assert process_state.put_back(before) == [f"torch's functions: {name} became another"]
    assert process_state.put_back(before) == []
    assert torch.ones(1).add_(1).item() == 2


def test_the_values_of_variables_are_not_told() -> None:
    before = process_state.state()
    os.environ["REFNET_SECRET"] = "hidden"
    assert process_state.put_back(before) == ["environment variables: REFNET_SECRET became another"]
    assert "REFNET_SECRET" not in os.environ


def test_a_first_optimizer_changes_nothing() -> None:
    class Mine(torch.optim.SGD):
        pass

    before = process_state.state()
    Mine([torch.ones(1)])
    assert process_state.put_back(before) == []


def test_a_compilation_changes_nothing() -> None:
    before = process_state.state()
    compiled = torch.compile(torch.tanh, backend="eager")
    compiled(torch.ones(3))
    torch.compile(nn.Linear(3, 3), backend="eager")(torch.ones(2, 3))
    assert process_state.put_back(before) == []


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
