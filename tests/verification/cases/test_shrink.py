"""Shrinking: planted bugs come down to small inputs that still fail; what is right gives none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.cases.random_cases import Table, case_from_values, rows_of
from verification.cases.shrink import Shrunk, smallest
from verification.ops.rows import op_rows
from verification.optimizers.rows import optimizer_rows
from verification.report import Row

OPS, OPTIMIZERS = op_tables(), optimizer_tables()
F64 = torch.float64


def unbiased(
    input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """Batch norm that divides by N − 1."""
    count = input.numel() // input.shape[1]
    y = functional.batch_norm(
        input, running_mean, running_var, None, None, training, momentum, eps
    )  # fmt: skip
    y = y * ((count - 1) / count) ** 0.5 if training and count else y
    column = [1, -1] + [1] * (input.dim() - 2)
    y = y if weight is None else y * weight.reshape(column)
    return y if bias is None else y + bias.reshape(column)


def failing(table: Table, candidate: Callable[..., Any], quantity: str) -> Row:
    rows: Any = op_rows if table.name in OPS else optimizer_rows
    found = (row for part in rows(table, candidate, dtypes=[F64], seeds=1) for row in part)
    return next(row for row in found if not row.passed and row.quantity == quantity)


def still_fails(table: Table, candidate: Callable[..., Any], shrunk: Shrunk | None) -> bool:
    """Whether the line that is printed, read again, fails as its row says."""
    assert shrunk is not None
    rows = rows_of(table, case_from_values(table, shrunk.values), candidate, F64)
    return shrunk.row in rows


def test_a_batch_norm_by_n_minus_1_fails_for_two_values() -> None:
    table = OPS["batch_norm"]
    row = failing(table, unbiased, "output")
    shrunk = smallest(table, unbiased, row, name="mine:unbiased")
    assert still_fails(table, unbiased, shrunk)
    assert shrunk is not None
    assert case_from_values(table, shrunk.values).values == {
        "training": "True", "dims": "2", "affine": "none", "statistics": "True", "momentum": "0.1",
        "eps": "1e-5", "layout": "contiguous", "parameters": "input", "n": "2", "channels": "1",
        "side": "1", "scale": "1", "offset": "0",
    }  # fmt: skip
    assert shrunk.command == (
        f"python -m verification op mine:unbiased --like batch_norm "
        f'--values "{shrunk.values}" --dtype float64 --seed {shrunk.row.seed}'
    )


def test_options_that_fail_together_stay_together() -> None:
    def wrong(
        input: Tensor, target: Tensor, weight: Tensor | None = None, **options: Any
    ) -> Tensor:
        loss = functional.cross_entropy(input, target, weight, **options)
        classes = input.shape[1] if input.dim() > 1 else len(input)
        together = weight is not None and options["label_smoothing"] and classes > 2
        return loss * 1.01 if together else loss

    table = OPS["cross_entropy"]
    shrunk = smallest(table, wrong, failing(table, wrong, "grad input"))
    assert still_fails(table, wrong, shrunk)
    assert shrunk is not None
    values = case_from_values(table, shrunk.values).values
    assert (values["weight"], values["label_smoothing"]) == ("weight", "0.1")
    assert (values["channels"], values["dims"], values["scale"]) == ("5", "1", "1")


def test_a_crash_is_followed_by_its_exception() -> None:
    def crashes(input: Tensor, dim: int, dtype: Any = None) -> Tensor:
        if dtype is not None:
            raise KeyError("dtype")
        if input.dim() > 3:
            raise NotImplementedError(f"{input.dim()} dimensions")
        return functional.softmax(input, dim)

    table = OPS["softmax"]
    row = next(r for r in _all(table, crashes) if "NotImplementedError" in r.note)
    shrunk = smallest(table, crashes, row)
    assert shrunk is not None
    assert shrunk.row.note == "NotImplementedError: 4 dimensions"
    assert "dims=4" in shrunk.values


def _all(table: Any, candidate: Callable[..., Any]) -> list[Row]:
    return [row for part in op_rows(table, candidate, dtypes=[F64], seeds=1) for row in part]


class SkipsNothing(torch.optim.SGD):
    """Takes a gradient that isn't there for one of zeros, which decay and momentum show."""

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = torch.zeros_like(param) if param.grad is None else param.grad
        super().step()
        return loss


def test_an_optimizer_comes_down_to_few_steps_and_options() -> None:
    table = OPTIMIZERS["SGD"]
    start = case_from_values(table, "steps=8 size=12 momentum=0.9 weight_decay=0.1 closure=yes")
    row = next(row for row in rows_of(table, start, SkipsNothing, F64) if not row.passed)
    shrunk = smallest(table, SkipsNothing, row, time_limit=20)
    assert still_fails(table, SkipsNothing, shrunk)
    assert shrunk is not None
    values = case_from_values(table, shrunk.values).values
    assert (values["gradients"], values["groups"], values["steps"]) == ("1", "one", "2")
    assert "optimizer " in shrunk.command


def test_what_is_right_has_no_failing_input() -> None:
    table = OPS["tanh"]
    row = Row("tanh", "easy", "output", "float64", 1.0, 0.0, 1e-11, "1e-11", "another function")
    assert smallest(table, torch.tanh, row, time_limit=2) is None
    sgd = OPTIMIZERS["SGD"]
    row = Row("SGD", "lr=0.1", "param", "float64", 1.0, 0.0, 1e-11, "1e-11", "another function")
    assert smallest(sgd, torch.optim.SGD, row, time_limit=2) is None


def test_a_row_that_is_of_no_dtype_has_none() -> None:
    row = Row("relu", "options", "pairs missing", "all", 1.0, 0.0, 0.0, "pairs", "inconclusive")
    assert smallest(OPS["relu"], functional.relu, row) is None


@pytest.mark.parametrize("limit", [0.0, 0.3])
def test_the_time_limit_holds_for_a_candidate_that_sleeps(limit: float) -> None:
    def slow(input: Tensor) -> Tensor:
        time.sleep(0.1 if len(input) < 3 else 60)
        return torch.tanh(input) * 2

    row = Row("tanh", "easy", "output", "float64", 1.0, 0.0, 1e-11, "1e-11", "another function")
    start = time.monotonic()
    shrunk = smallest(OPS["tanh"], slow, row, time_limit=limit)
    assert time.monotonic() - start < limit + 2
    assert shrunk is None or "n=2" in shrunk.values
