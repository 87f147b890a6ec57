"""The ops' runner: right candidates pass, wrong ones fail, and none of them crashes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from verification.cases import DTYPES, OpTable, op_tables
from verification.ops.rows import nudge, op_rows, round_to, to_numpy
from verification.ops.small_values import RULE as SMALL
from verification.report import Report, Row, collect
from verification.tolerance import ZEROS

TABLES = op_tables()
USUAL = "as the usual call"
F32, F64 = torch.float32, torch.float64
ALL = (F64, F32, torch.bfloat16, torch.float16)
Op = Callable[..., Any]


def dropout(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False, *, mask: Tensor
) -> Tensor:
    if not training:
        return input
    scale = mask.to(input.dtype) / (1 - p or 1)
    return input.mul_(scale) if inplace else input * scale


BUILTINS: dict[str, Op] = {
    name: dropout if "dropout" in name else table.builtin for name, table in TABLES.items()
}


def only(table: OpTable, case: str) -> OpTable:
    return replace(table, cases=tuple(c for c in table.cases if c.name == case))


def verify(name: str, candidate: Op, case: str = "", **options: Any) -> list[Row]:
    table = only(TABLES[name], case) if case else TABLES[name]
    return collect(op_rows(table, candidate, **{"seeds": 1, **options})).rows


@pytest.mark.parametrize("name", ["dropout", "linear", "relu", "tanh"])
def test_builtins_pass_in_half_precision(name: str) -> None:
    table = TABLES[name]
    rows = verify(name, BUILTINS[name], table.cases[0].name, dtypes=[torch.bfloat16])
    Report(rows).raise_if_failed()
    assert {row.dtype for row in rows} == {"bfloat16"}


def fresh_gradient(scale: float) -> Callable[[Tensor], Tensor]:
    """Leave the value, multiply the gradient."""
    return lambda y: y.detach() + scale * (y - y.detach())


WRONG: dict[str, Callable[[Tensor], Any]] = {
    "zeros": lambda y: y * 0,
    "twice": lambda y: y * 2,
    "other sign": lambda y: -y,
    "NaN": lambda y: y * float("nan"),
    "a little off": lambda y: y * 1.001,
    "other shape": lambda y: y[None],
    "rows in another order": lambda y: y.flip(0),
    "other dtype": lambda y: y.to(F32 if y.dtype == F64 else F64),
    "no gradient": lambda y: y.detach(),
    "gradient of zeros": fresh_gradient(0.0),
    "gradient twice": fresh_gradient(2.0),
    "gradient with another sign": fresh_gradient(-1.0),
    "nothing": lambda y: None,
    "an array": lambda y: y.detach().numpy(),
}


ROWS = {"cross_entropy": "12×5, indices, none"}  # an output that has rows


def spoilt(name: str, wrong: str) -> Op:
    return lambda *args, **options: WRONG[wrong](BUILTINS[name](*args, **options))


def identity(input: Tensor, *args: Any, **options: Any) -> Tensor:
    return input


def crash(*args: Any, **options: Any) -> Tensor:
    raise ValueError("no way\nand a trace")


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", TABLES)
def test_wrong_candidates_fail(name: str, wrong: str, dtype: torch.dtype) -> None:
    case = ROWS.get(name, TABLES[name].cases[0].name)
    rows = verify(name, spoilt(name, wrong), case, dtypes=[dtype])
    assert not Report(rows).passed


@pytest.mark.parametrize("candidate", [identity, crash, lambda: None])
@pytest.mark.parametrize("name", TABLES)
def test_another_function_fails_and_every_case_has_its_rows(name: str, candidate: Op) -> None:
    rows = verify(name, candidate)
    assert not Report(rows).passed
    assert {row.case for row in rows} == {case.name for case in TABLES[name].cases}
    assert {row.dtype for row in rows} == {"float32", "float64"}


def test_a_crash_is_a_row_of_one_line() -> None:
    rows = verify("relu", crash, "easy")
    assert [(r.dtype, r.verdict, r.rule) for r in rows] == [
        ("float64", "another function", "runs"),
        ("float32", "another function", "runs"),
    ]
    assert rows[0].note == "ValueError: no way"
    assert verify("relu", lambda input: input.nonsense, "easy")[0].note.startswith("AttributeError")


def test_a_crash_on_one_case_leaves_the_others() -> None:
    def small_only(input: Tensor) -> Tensor:
        if input.dim() > 2:
            raise ValueError("expected a matrix")
        return functional.tanh(input)

    failed = Report(verify("tanh", small_only)).failures
    large = {
        c.name for c in TABLES["tanh"].cases if c.draw(np.random.default_rng(0))["input"].ndim > 2
    }
    assert {row.case for row in failed} == large > {"images"}


def changing(name: str) -> Op:
    def candidate(input: Tensor, *args: Any, **options: Any) -> Any:
        output = BUILTINS[name](input.clone(), *args, **options)
        with torch.no_grad():
            input.mul_(2)
        return output

    return candidate


@pytest.mark.parametrize("name", TABLES)
def test_an_input_changed_in_place_fails(name: str) -> None:
    rows = verify(name, changing(name), TABLES[name].cases[0].name)
    assert {row.note for row in rows} == {"RuntimeError: the argument 'input' was changed"}


def test_another_argument_changed_in_place_fails() -> None:
    def candidate(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = functional.linear(input, weight, bias)
        bias.data.zero_()
        return output

    rows = verify("linear", candidate, "easy")
    assert {row.note for row in rows} == {"RuntimeError: the argument 'bias' was changed"}


class _Greedy(torch.autograd.Function):
    """tanh, with a backward that works on the cotangent in place."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.save_for_backward(input.tanh())
        return input.tanh()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return grads[0].mul_(1 - output * output)


def test_a_cotangent_changed_in_place_fails() -> None:
    rows = verify("tanh", _Greedy.apply, "easy")
    assert {row.note for row in rows} == {"RuntimeError: the argument 'cotangent' was changed"}


def moving(buffer: str, change: Callable[[Tensor], Any]) -> Op:
    """The builtin batch norm, and then a change of a running statistic."""

    def candidate(input: Tensor, mean: Tensor, var: Tensor, *args: Any, **options: Any) -> Tensor:
        kept = mean.clone(), var.clone()
        output = functional.batch_norm(input, *kept, *args, **options)
        mean.copy_(kept[0])
        var.copy_(kept[1])
        change({"running_mean": mean, "running_var": var}[buffer])
        return output

    return candidate


@pytest.mark.parametrize("case", ["easy", "momentum 0", "eval"])
@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
@pytest.mark.parametrize("change", [lambda t: t.add_(0.1), lambda t: t.fill_(float("nan"))])
def test_a_wrong_buffer_fails(change: Any, buffer: str, case: str) -> None:
    failed = Report(verify("batch_norm", moving(buffer, change), case)).failures
    assert {(row.quantity, row.dtype) for row in failed} == {
        (buffer, "float32"),
        (buffer, "float64"),
    }


def test_a_right_buffer_passes() -> None:
    Report(verify("batch_norm", moving("running_var", lambda t: t), "easy")).raise_if_failed()


def test_a_buffer_of_another_dtype_fails() -> None:
    def change(buffer: Tensor) -> None:
        buffer.data = buffer.data.to(F32 if buffer.dtype == F64 else F64)

    rows = verify("batch_norm", moving("running_mean", change), "easy")
    assert {row.note.split(" is ")[0] for row in rows} == {"TypeError: running_mean"}


def expected(table: OpTable, arrays: dict[str, Any]) -> set[str]:
    given = {name for name, value in arrays.items() if value is not None}
    real = {name for name in given if arrays[name].dtype.kind == "f"}
    gradients = {f"grad {name}" for name in table.differentiable if name in real}
    return {"output", *gradients, *(given & set(table.buffers))}


@pytest.mark.parametrize("name", TABLES)
def test_nothing_is_left_out(name: str) -> None:
    """Every case has a row for the output, each gradient and each buffer, in both dtypes."""
    table = TABLES[name]
    for case, rows in zip(table.cases, op_rows(table, BUILTINS[name], seeds=1), strict=True):
        wanted = expected(table, case.draw(np.random.default_rng(0)))
        rules = 2 if table.bitwise else 1
        for dtype in ("float32", "float64"):
            judged = [row for row in rows if row.quantity not in ("layout", "other calls")]
            judged = [  # where there are any
                row for row in judged if not row.rule.startswith((SMALL, ZEROS))
            ]
            found = [row.quantity for row in judged if row.dtype == dtype]
            if dtype not in case.dtypes or (case.hard and dtype == "float32"):
                assert not found
                continue
            assert set(found) == wanted
            assert len(found) == rules * len(wanted)
        assert {row.case for row in rows} == {case.name}


@pytest.mark.parametrize("name", TABLES)
def test_case_names_are_unique(name: str) -> None:
    names = [case.name for case in TABLES[name].cases]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["relu", "dropout"])
def test_one_wrong_bit_fails_where_bits_are_due(name: str) -> None:
    def candidate(*args: Any, **options: Any) -> Any:
        y = BUILTINS[name](*args, **options)
        return y + (torch.nextafter(y, y + 1) - y).detach()

    rows = verify(name, candidate, TABLES[name].cases[0].name)
    failed = Report(rows).failures
    assert {(row.quantity, row.rule) for row in failed} == {("output", "bitwise")}
    assert {row.dtype for row in failed} == {"float32", "float64"}


def test_a_float32_computation_is_not_a_float64_one() -> None:
    def candidate(input: Tensor) -> Tensor:
        return functional.tanh(input.float()).to(input.dtype)

    rows = verify("tanh", candidate, "easy")
    assert {row.dtype for row in Report(rows).failures} == {"float64"}


def test_each_dtype_has_its_question() -> None:
    rules = {(row.dtype, row.rule) for row in verify("sigmoid", functional.sigmoid, "easy")}
    assert {rule for dtype, rule in rules if dtype == "float64"} == {"1e-11", USUAL}
    assert all("½eps" in rule for dtype, rule in rules if dtype == "float32")


def test_refnets_own_target_is_asked_on_demand() -> None:
    rows = collect(op_rows(only(TABLES["tanh"], "easy"), dtypes=ALL, seeds=3, own=True)).rows
    rules = {dtype: {row.rule for row in rows if row.dtype == dtype} for dtype in DTYPES}
    assert rules["float64"] == {"1e-11", "builtin to 1e-12", f"{SMALL}: 1e-11", USUAL}
    for dtype in DTYPES[1:]:
        # Whether small values are judged depends on how right torch's own vectorized tanh is there.
        usual = {rule for rule in rules[dtype] if not rule.startswith(SMALL)}
        assert usual
        assert usual <= {"eps", "1.25·builtin"}


def test_twice_the_builtins_error_misses_the_own_target() -> None:
    def candidate(input: Tensor) -> Tensor:
        y = functional.tanh(input)
        return y + (2 * torch.finfo(y.dtype).eps * y.abs().max()).detach()

    for dtype in ALL[1:]:
        table = only(TABLES["tanh"], "easy")
        rows = collect(op_rows(table, candidate, dtypes=[dtype], own=True)).rows
        failures = [row for row in Report(rows).failures if not row.rule.startswith(SMALL)]
        assert {(row.quantity, row.verdict) for row in failures} == {("output", "worse")}


def test_a_thousandth_of_the_bound_beside_the_oracle_is_seen_beside_the_builtin() -> None:
    def candidate(input: Tensor) -> Tensor:
        return functional.tanh(input) * (1 + 5e-12)

    table = only(TABLES["tanh"], "easy")
    rows = collect(op_rows(table, candidate, dtypes=[F64], own=True)).rows
    assert {row.rule for row in Report(rows).failures} == {"builtin to 1e-12"}


def test_hard_cases_are_asked_of_the_own_target_and_in_float64() -> None:
    table = TABLES["batch_norm"]
    (hard,) = [c for c in table.cases if c.name == "(N, C), scale 1, offset 10000"]
    for own, dtypes in ((False, {"float64"}), (True, {"float64", "float32"})):
        run = op_rows(replace(table, cases=(hard,)), dtypes=ALL, seeds=1, own=own)
        assert {row.dtype for row in collect(run).rows} == dtypes


@pytest.mark.parametrize("layout", ["channels-last", "sliced", "transposed"])
def test_a_candidate_that_reads_memory_in_order_fails(layout: str) -> None:
    def candidate(input: Tensor) -> Tensor:
        in_order = torch.empty(input.shape).stride()
        return functional.tanh(torch.as_strided(input, input.shape, in_order))

    cases = tuple(c for c in TABLES["tanh"].cases if c.layout == layout)
    rows = collect(op_rows(replace(TABLES["tanh"], cases=cases), candidate, seeds=1)).rows
    assert {row.case for row in Report(rows).failures} == {case.name for case in cases}


def test_laid_out_tensors_are_what_they_say() -> None:
    seen: dict[str, Tensor] = {}

    def candidate(input: Tensor) -> Tensor:
        if input.dim() == 4:
            seen[case.layout] = input
        return functional.tanh(input)

    for case in TABLES["tanh"].cases:
        list(op_rows(replace(TABLES["tanh"], cases=(case,)), candidate, seeds=1, dtypes=[F64]))
    assert seen["contiguous"].is_contiguous()
    assert seen["channels-last"].is_contiguous(memory_format=torch.channels_last)
    assert seen["sliced"].stride()[-1] == 2
    assert seen["transposed"].permute(3, 2, 1, 0).is_contiguous()
    assert 0 in seen["expanded"].stride()


def test_an_inplace_candidate_that_is_none_fails() -> None:
    def candidate(input: Tensor, inplace: bool = False) -> Tensor:
        return functional.relu(input)

    failed = Report(verify("relu", candidate)).failures
    assert failed
    assert {row.note for row in failed} == {
        "RuntimeError: inplace: the result is not where the input was"
    }


def test_a_less_accurate_candidate_is_worse() -> None:
    def candidate(input: Tensor) -> Tensor:
        wide = input if input.dtype == F64 else input.bfloat16()
        return functional.tanh(wide).to(input.dtype)

    rows = verify("tanh", candidate, "easy")
    assert {row.verdict for row in Report(rows).failures} == {"worse"}
    assert {row.dtype for row in Report(rows).failures} == {"float32"}


def test_a_more_accurate_candidate_is_better() -> None:
    def candidate(input: Tensor) -> Tensor:
        return functional.sigmoid(input.double()).to(input.dtype)

    rows = verify("sigmoid", candidate, "easy", dtypes=[F32])
    assert {row.verdict for row in rows} == {"better"}


def test_the_same_run_twice_gives_the_same_rows() -> None:
    assert verify("tanh", functional.tanh) == verify("tanh", functional.tanh)


def test_every_seed_is_a_draw_of_its_own() -> None:
    seen: list[Tensor] = []

    def candidate(input: Tensor) -> Tensor:
        seen.append(input.detach())
        return functional.tanh(input)

    verify("tanh", candidate, "easy", seeds=3, dtypes=[F64])
    assert len({tuple(t.flatten().tolist()) for t in seen}) == 3


@pytest.mark.parametrize("dtype", [F64, F32, torch.bfloat16])
def test_nudge_moves_by_one_unit_in_the_last_place(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    values = round_to(rng.standard_normal(400) * 10.0 ** rng.uniform(-20, 20, 400), dtype)
    nudged = nudge(values, dtype, np.random.default_rng(1))
    start, moved = torch.tensor(values).to(dtype), torch.tensor(nudged).to(dtype)
    assert (torch.tensor(nudged) == moved.double()).all()
    ulp = torch.nextafter(start.abs(), torch.tensor(np.inf, dtype=dtype)) - start.abs()
    steps = (moved - start) / ulp
    assert set(steps.tolist()) == {-1, 1}


@pytest.mark.parametrize("value", [None, np.array([1, 2])])
def test_nudge_and_round_to_leave_the_rest(value: Any) -> None:
    assert nudge(value, F32, np.random.default_rng(0)) is value
    assert round_to(value, F32) is value


def test_nudge_leaves_zero_and_infinity() -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(nudge(special, F32, np.random.default_rng(0)), special)


def test_round_to_rounds_and_changes_nothing() -> None:
    values = np.array([0.1, 1.0])
    assert round_to(values, F32).tolist() == [float(np.float32(0.1)), 1.0]
    assert round_to(values, F64).tolist() == values.tolist() == [0.1, 1.0]


@pytest.mark.parametrize("dtype", [F64, F32, torch.float16, torch.bfloat16, torch.int64])
def test_to_numpy_copies(dtype: torch.dtype) -> None:
    tensor = torch.ones(2, dtype=dtype)
    array = to_numpy(tensor)
    tensor.zero_()
    assert array.tolist() == [1, 1]
    assert to_numpy(None) is None


# What anybody's candidate may not do


def notes(name: str, candidate: Op, case: str = "easy", **options: Any) -> set[str]:
    rows = verify(name, candidate, case, **options)
    assert {row.rule for row in rows} == {"runs"}
    assert not any(row.passed for row in rows)
    return {row.note for row in rows}


RETURNS: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda y: None, "TypeError: output is NoneType, expected a tensor"),
    "a tuple": (lambda y: (y,), "TypeError: output is tuple, expected a tensor"),
    "an array": (lambda y: y.detach().numpy(), "TypeError: output is ndarray, expected a tensor"),
    "a number": (lambda y: 1.0, "TypeError: output is float, expected a tensor"),
    "float32": (lambda y: y.float(), "TypeError: output is float32, the builtin's is float64"),
    "integers": (lambda y: y.long(), "TypeError: output is int64, the builtin's is float64"),
    "elsewhere": (lambda y: y.to("meta"), "ValueError: output is on meta, the builtin's on cpu"),
    "one row": (
        lambda y: y[:1], "ValueError: output is of shape [1, 20], the builtin's is [20, 20]"
    ),
    "no graph": (
        lambda y: y.detach(),
        "RuntimeError: the output has no gradient: it is cut off from the inputs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", RETURNS)
def test_what_is_wrong_with_a_result_is_said(wrong: str) -> None:
    change, note = RETURNS[wrong]
    assert notes("tanh", lambda z: change(functional.tanh(z)), dtypes=[F64]) == {note}


def test_a_missing_gradient_is_named() -> None:
    def candidate(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(input, weight, bias.detach())

    assert notes("linear", candidate) == {
        "RuntimeError: grad bias is missing: the output does not depend on it"
    }


def test_a_changed_weight_or_cotangent_is_named() -> None:
    def candidate(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        output = functional.linear(input, weight, bias)
        weight.data.mul_(2)
        return output

    assert notes("linear", candidate) == {"RuntimeError: the argument 'weight' was changed"}


class _Itself(torch.autograd.Function):
    """An activation of the numbers where it has its own derivative, in the input's memory."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return grads[0] * (z > 0)


def test_an_output_in_the_inputs_memory_fails() -> None:
    found = notes("relu", _Itself.apply, dtypes=[F64])
    assert found == {
        "RuntimeError: the output lies in the memory of ['input'], the builtin's does not"
    }
    (eval_case,) = [c.name for c in TABLES["dropout"].cases if c.name == "p=0"]
    copies = lambda *args, **options: BUILTINS["dropout"](*args, **options).clone()  # noqa: E731
    Report(verify("dropout", copies, eval_case)).raise_if_failed()


def test_first_arguments_are_passed_by_position() -> None:
    Report(verify("tanh", lambda z: z.tanh(), "easy")).raise_if_failed()
    Report(verify("linear", lambda a, w, bias=None: a @ w.T + bias, "easy")).raise_if_failed()
    Report(verify("softmax", lambda z, dim: functional.softmax(z, dim), "easy")).raise_if_failed()
    loss = lambda z, y, **options: functional.cross_entropy(z, y, **options)  # noqa: E731
    Report(verify("cross_entropy", loss, ROWS["cross_entropy"])).raise_if_failed()


def test_another_layout_is_told_and_passes_unless_it_is_our_own() -> None:
    def candidate(input: Tensor) -> Tensor:
        return functional.tanh(input.contiguous())

    (case,) = [c for c in TABLES["tanh"].cases if c.layout == "channels-last"][:1]
    table = replace(TABLES["tanh"], cases=(case,))
    rows = collect(op_rows(table, candidate, seeds=1, dtypes=[F64])).rows
    Report(rows).raise_if_failed()
    (row,) = [row for row in rows if row.quantity == "layout"]
    assert (row.rule, row.note[:8]) == ("builtin's strides", "strides ")
    rows = collect(op_rows(table, candidate, seeds=1, dtypes=[F64], own=True)).rows
    assert [row.quantity for row in Report(rows).failures] == ["layout"]
    rows = collect(op_rows(table, functional.tanh, seeds=1, dtypes=[F64], own=True)).rows
    assert "layout" not in {row.quantity for row in rows}


def test_a_candidate_that_hangs_in_one_case_leaves_the_others() -> None:
    def candidate(input: Tensor) -> Tensor:
        while input.dim() == 4:
            pass
        return functional.tanh(input)

    table = replace(TABLES["tanh"], cases=TABLES["tanh"].cases[:3])
    parts = list(op_rows(table, candidate, seeds=1, time_limit=0.2))
    assert [row.note for row in parts[1]] == ["TimeLimitExceeded: more than 0.2 s"]
    assert all(row.passed for rows in (parts[0], parts[2]) for row in rows)


def test_a_candidate_that_exits_or_switches_gradients_off_has_a_row() -> None:
    def leave(input: Tensor) -> Tensor:
        raise SystemExit(3)

    assert notes("tanh", leave) == {"SystemExit: 3"}

    def switch(input: Tensor) -> Tensor:
        output = functional.tanh(input)
        torch.set_grad_enabled(False)
        return output

    assert notes("tanh", switch) == {"RuntimeError: global state: gradient mode: True became False"}
    assert torch.is_grad_enabled()


def test_seeds_are_numbers_or_names_and_rows_have_theirs() -> None:
    draws: list[float] = []

    def candidate(input: Tensor) -> Tensor:
        draw = input.detach().flatten()[0].item()
        draws.extend([draw] if draw not in draws else [])
        return functional.tanh(input) * (1 + 1e-9 * (draws.index(draw) == 1))

    rows = verify("tanh", candidate, "easy", seeds=[3, 7, 8], dtypes=[F64])
    assert {(row.quantity, row.seed) for row in Report(rows).failures} == {
        ("output", 7), ("grad input", 7)
    }  # fmt: skip
    assert {row.floor > 0 for row in rows if row.rule != USUAL} == {True}
