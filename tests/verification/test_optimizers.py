"""The optimizers' runner: right candidates pass, wrong ones fail, and none of them crashes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import Adam, Optimizer

from verification.cases.optimizers import OptimizerTable, optimizer_tables
from verification.optimizers import describe, verify_optimizer
from verification.report import Report, Row, collect

TABLES = optimizer_tables()
F32, F64 = torch.float32, torch.float64
Make = Callable[..., Any]
BUILTINS: dict[str, Make] = {name: table.builtin for name, table in TABLES.items()}


def turn(param: Any) -> None:
    if param.grad is not None:
        param.grad = -param.grad


def with_builtin(table: OptimizerTable) -> OptimizerTable:
    """Only the options that torch has an optimizer for."""
    weights = [torch.nn.Parameter(torch.ones(1))]
    known = tuple(o for o in table.options if table.builtin(weights, **o) is not None)
    return replace(table, options=known)


def verify(name: str, candidate: Make, options: int = 1, **sizes: Any) -> list[Row]:
    table = with_builtin(TABLES[name])
    table = replace(table, options=table.options[:options])
    sizes = {"seeds": 1, "steps": 5, **sizes}
    return collect(verify_optimizer(table, candidate, **sizes)).rows


@pytest.mark.parametrize("name", TABLES)
def test_builtins_pass(name: str) -> None:
    table = with_builtin(TABLES[name])
    collect(verify_optimizer(table, BUILTINS[name], seeds=2, steps=10)).raise_if_failed()


@pytest.mark.parametrize("name", TABLES)
def test_builtins_pass_in_half_precision(name: str) -> None:
    rows = verify(name, BUILTINS[name], dtypes=[torch.bfloat16])
    Report(rows).raise_if_failed()
    assert {row.dtype for row in rows} == {"bfloat16"}


def hooked(change: Callable[[Optimizer], Any], *, before: bool = False) -> Callable[[Make], Make]:
    """Make a builtin optimizer that does something else too, before or after every step."""

    def wrap(make: Make) -> Make:
        def candidate(params: Any, **options: Any) -> Optimizer:
            optimizer: Optimizer = make(params, **options)
            when = "pre" if before else "post"
            register = getattr(optimizer, f"register_step_{when}_hook")
            register(lambda optimizer, *_: change(optimizer))
            return optimizer

        return candidate

    return wrap


def on_params(change: Callable[[Any], Any], *, before: bool = False) -> Callable[[Make], Make]:
    def every(optimizer: Optimizer) -> None:
        for param in optimizer.param_groups[0]["params"]:
            change(param)

    return hooked(every, before=before)


def fail(*_: Any) -> None:
    raise RuntimeError("no step\nand a trace")


def to_double(param: Any) -> None:
    param.data = param.data.to(F32 if param.dtype == F64 else F64)


def no_op(make: Make) -> Make:
    class NoOp(Optimizer):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> Any:
            pass

    return NoOp


def with_lr(factor: float) -> Callable[[Make], Make]:
    return lambda make: lambda params, lr, **options: make(params, lr=factor * lr, **options)


WRONG: dict[str, Callable[[Make], Make]] = {
    "does nothing": no_op,
    "steps twice as long": with_lr(2.0),
    "steps 1.001 times as long": with_lr(1.001),
    "parameters of zeros": on_params(lambda p: p.data.zero_()),
    "parameters of NaN": on_params(lambda p: p.data.fill_(float("nan"))),
    "other sign": on_params(lambda p: p.data.neg_()),
    "other shape": on_params(lambda p: setattr(p, "data", p.data[None])),
    "other dtype": on_params(to_double),
    "changes the gradient": on_params(lambda p: p.grad is None or p.grad.mul_(2)),
    "forgets the gradient": on_params(lambda p: setattr(p, "grad", None)),
    "turns the gradient first": on_params(turn, before=True),
    "fails in a step": hooked(fail),
    "fails at once": lambda make: fail,
    "is no optimizer": lambda make: lambda params, **options: None,
    "takes no options": lambda make: lambda params: make(params),
    "SGD without a learning rate": lambda make: lambda params, **_: torch.optim.SGD(params, lr=0.0),
}


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", TABLES)
def test_wrong_candidates_fail(name: str, wrong: str, dtype: torch.dtype) -> None:
    rows = verify(name, WRONG[wrong](BUILTINS[name]), dtypes=[dtype])
    assert not Report(rows).passed


@pytest.mark.parametrize("wrong", ["does nothing", "fails in a step", "fails at once"])
@pytest.mark.parametrize("name", TABLES)
def test_every_case_has_its_rows(name: str, wrong: str) -> None:
    rows = verify(name, WRONG[wrong](BUILTINS[name]), options=3)
    cases = {(row.case, row.dtype) for row in rows}
    assert len(cases) == 6
    assert cases == {(row.case, row.dtype) for row in Report(rows).failures}


def test_a_crash_is_a_row_of_one_line() -> None:
    row = verify("SGD", WRONG["fails at once"](Adam), dtypes=[F64])[0]
    assert (row.verdict, row.rule) == ("another function", "runs")
    assert row.note.startswith("TypeError: fail()")
    row = verify("SGD", WRONG["is no optimizer"](Adam))[0]
    assert row.note == "ValueError: expected an optimizer, but got None"
    assert verify("SGD", WRONG["fails in a step"](torch.optim.SGD))[0].note == (
        "RuntimeError: no step"
    )


def renamed(state: dict[str, Any]) -> None:
    if "exp_avg" in state:
        state["average"] = state.pop("exp_avg")


STATE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another name": (renamed, "average"),
    "one more": (lambda s: s.update(extra=torch.ones(1)), "extra"),
    "one less": (lambda s: s.pop("exp_avg_sq", None), "state"),
    "another dtype": (lambda s: s.update(step=s["step"].double()), "torch.float64"),
    "a number": (lambda s: s.update(step=int(s["step"])), "torch.int64"),
}


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("change", STATE)
def test_wrong_state_fails(change: str, index: int) -> None:
    """In any one parameter's state."""

    def spoil(optimizer: Optimizer) -> None:
        state = optimizer.state[optimizer.param_groups[0]["params"][index]]
        if state:
            STATE[change][0](state)

    rows = verify("Adam", hooked(spoil)(Adam), steps=1)
    assert {row.verdict for row in rows} == {"another function"}
    assert all(STATE[change][1] in row.note for row in rows)


def test_state_of_another_shape_fails() -> None:
    def spoil(optimizer: Optimizer) -> None:
        state = optimizer.state[optimizer.param_groups[0]["params"][1]]
        state["exp_avg"] = state["exp_avg"][None]

    failed = Report(verify("Adam", hooked(spoil)(Adam), steps=1)).failures
    assert {(row.quantity, row.error) for row in failed} == {("exp_avg", float("inf"))}


@pytest.mark.parametrize("quantity", ["exp_avg", "exp_avg_sq", "step"])
@pytest.mark.parametrize("index", [0, 3])
def test_a_wrong_value_in_the_state_fails(quantity: str, index: int) -> None:
    """After the last step only, in one element of any one parameter: large or tiny gradients."""
    count = 0

    def spoil(optimizer: Optimizer) -> None:
        nonlocal count
        count += 1
        state = optimizer.state[optimizer.param_groups[0]["params"][index]]
        if count % 5 == 0:
            state[quantity].view(-1)[0].mul_(1.01)

    failed = Report(verify("Adam", hooked(spoil)(Adam))).failures
    assert {(row.quantity, row.dtype) for row in failed} == {
        (quantity, "float32"),
        (quantity, "float64"),
    }


def test_state_too_early_fails() -> None:
    """A parameter without momentum has no entry at all."""

    def touch(optimizer: Optimizer) -> None:
        for param in optimizer.param_groups[0]["params"]:
            optimizer.state[param]  # a defaultdict

    rows = verify("SGD", hooked(touch)(torch.optim.SGD))
    assert all("entry" in row.note for row in rows)


def test_absent_gradients_are_not_zeros() -> None:
    def fill(param: Any) -> None:
        if param.grad is None:
            param.grad = torch.zeros_like(param)

    rows = verify("Adam", on_params(fill, before=True)(Adam), steps=30)
    assert {row.quantity for row in Report(rows).failures} >= {"param", "step"}


@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_left_out(name: str) -> None:
    """Every case has a row for the parameter and all of its state, in both dtypes."""
    table = with_builtin(TABLES[name])
    parts = verify_optimizer(table, BUILTINS[name], seeds=1, steps=2)
    for options, rows in zip(table.options, parts, strict=True):
        weight = torch.nn.Parameter(torch.ones(2))
        weight.grad = torch.ones(2)
        optimizer = BUILTINS[name]([weight], **options)
        optimizer.step()
        state = {n for n, value in optimizer.state.get(weight, {}).items() if value is not None}
        for dtype in ("float32", "float64"):
            found = sorted(row.quantity for row in rows if row.dtype == dtype)
            assert found == sorted({"param"} | state)
        assert {row.case for row in rows} == {describe(options)}


@pytest.mark.parametrize("name", TABLES)
def test_case_names_are_unique(name: str) -> None:
    names = [describe(options) for options in TABLES[name].options]
    assert len(set(names)) == len(names)


def test_each_dtype_has_its_question() -> None:
    rules = {(row.dtype, row.rule) for row in verify("Adam", Adam, steps=30)}
    assert {rule for dtype, rule in rules if dtype == "float64"} <= {"1e-11", "30·P64"}
    precision = [rule for dtype, rule in rules if dtype == "float32"]
    assert all(rule.startswith("8·") for rule in precision)  # steps are not independent


def test_the_worst_tensor_is_shown() -> None:
    """All tensors have errors; the row is that of the one which fails."""

    def spoil(optimizer: Optimizer) -> None:
        optimizer.param_groups[0]["params"][2].data.mul_(1 + 1e-6)

    rows = verify("SGD", hooked(spoil)(torch.optim.SGD), dtypes=[F64], steps=1)
    assert [row.verdict for row in rows] == ["another function"]
    assert rows[0].error == pytest.approx(1e-6, rel=1e-3)


def test_the_same_run_twice_gives_the_same_rows() -> None:
    assert verify("Adam", Adam) == verify("Adam", Adam)


def test_state_that_is_the_gradient_itself_fails() -> None:
    """The next gradient is written where the last one was."""

    def alias(optimizer: Optimizer) -> None:
        for param in optimizer.param_groups[0]["params"]:
            state = optimizer.state[param]
            if param.grad is not None and torch.equal(state["momentum_buffer"], param.grad):
                state["momentum_buffer"] = param.grad

    table = TABLES["SGD"]
    momentum = tuple(o for o in table.options if describe(o).startswith("lr=0.1 momentum=0.9 damp"))
    rows = collect(
        verify_optimizer(
            replace(table, options=momentum[:1]), hooked(alias)(torch.optim.SGD), seeds=2
        )
    ).rows
    assert not Report(rows).passed
