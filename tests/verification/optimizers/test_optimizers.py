"""The optimizers' runner: right candidates pass, wrong ones fail, and none of them crashes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import Adam, Optimizer

from verification.cases.optimizers import Case, OptimizerTable, optimizer_tables
from verification.cases.pairs import coverage
from verification.optimizers.rows import optimizer_rows
from verification.report import Report, Row, collect

TABLES = optimizer_tables()
F32, F64 = torch.float32, torch.float64
Make = Callable[..., Any]
BUILTINS: dict[str, Make] = {name: table.builtin for name, table in TABLES.items()}


def turn(param: Any) -> None:
    if param.grad is not None:
        param.grad = -param.grad


def with_builtin(table: OptimizerTable) -> OptimizerTable:
    """Only the cases that torch has an optimizer for."""
    weights = [torch.nn.Parameter(torch.ones(1))]
    known = tuple(c for c in table.cases if table.builtin(weights, **c.arguments) is not None)
    return replace(table, cases=known)


def verify(name: str, candidate: Make, cases: int = 1, **sizes: Any) -> list[Row]:
    table = with_builtin(TABLES[name])
    table = replace(table, cases=table.cases[:cases])
    sizes = {"seeds": 1, "steps": 5, **sizes}
    return collect(optimizer_rows(table, candidate, **sizes)).rows


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
    rows = verify(name, WRONG[wrong](BUILTINS[name]), cases=3)
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

    failed = Report(verify("Adam", hooked(spoil)(Adam), steps=1)).failures
    assert {(row.quantity, row.dtype) for row in failed} == {
        ("state", "float64"), ("state", "float32")
    }  # fmt: skip
    assert all(STATE[change][1] in row.note for row in failed)


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

    failed = Report(verify("SGD", hooked(touch)(torch.optim.SGD))).failures
    assert len(failed) == 2
    assert all("entry" in row.note for row in failed)


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
    parts = optimizer_rows(table, BUILTINS[name], seeds=1, steps=2)
    for case, rows in zip(table.cases, parts, strict=True):
        weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
        groups = [{"params": [weights[0]]}, {"params": [weights[1]], **case.group}]
        optimizer = BUILTINS[name](groups, **case.arguments)
        for weight in weights:
            weight.grad = torch.ones(2)
        optimizer.step()
        states = [optimizer.state.get(weight, {}).items() for weight in weights]
        state = {n for items in states for n, value in items if value is not None}
        for dtype in ("float32", "float64"):
            found = sorted(row.quantity for row in rows if row.dtype == dtype)
            assert found == sorted({"param"} | state)
        assert {row.case for row in rows} == {case.name}


@pytest.mark.parametrize("name", TABLES)
def test_case_names_are_unique(name: str) -> None:
    names = [case.name for case in TABLES[name].cases]
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


def test_seeds_decide_the_draws() -> None:
    """A number of them stands for the first ones."""
    few = [verify("Adam", Adam, seeds=seeds) for seeds in (2, (0, 1), (7,), (8,), 1)]
    assert few[0] == few[1]
    assert len({str(rows) for rows in few}) == 4


def test_state_that_is_the_gradient_itself_fails() -> None:
    """The next gradient is written where the last one was."""

    def alias(optimizer: Optimizer) -> None:
        for param in optimizer.param_groups[0]["params"]:
            state = optimizer.state[param]
            if param.grad is not None and torch.equal(state["momentum_buffer"], param.grad):
                state["momentum_buffer"] = param.grad

    table = TABLES["SGD"]
    momentum = tuple(c for c in table.cases if c.name.startswith("lr=0.1 momentum=0.9 damp"))
    rows = collect(
        optimizer_rows(replace(table, cases=momentum[:1]), hooked(alias)(torch.optim.SGD), seeds=2)
    ).rows
    assert not Report(rows).passed


def held(table: OptimizerTable, without: Case | None = None) -> list[dict[str, str]]:
    return [
        {**case.values, "dtype": dtype}
        for case in table.cases
        if case.values and case is not without
        for dtype in ("float64", "float32")
    ]


USES = {"groups": {"one", "two"}, "closure": {"no", "yes"}, "resumed": {"no", "yes"}}
SWITCH = {"False", "True"}
RATES = {"lr": {"0.01", "0.1", "tensor"}, "weight_decay": {"0", "0.1"}, "maximize": SWITCH, **USES}
EPS = {"eps": {"1e-8", "1e-4"}}
BETAS = {"betas": {"(0.9, 0.999)", "(0.5, 0.9)"}, "amsgrad": SWITCH, **EPS, **RATES}
REQUIRED: dict[str, dict[str, set[str]]] = {
    "SGD": {"momentum": {"0", "0.9"}, "dampening": {"0", "0.3"}, "nesterov": SWITCH, **RATES},
    "Momentum": {"momentum": {"0.5", "0.9", "0.98"}, "bias_correction": SWITCH, **RATES},
    "RMSprop": {
        "alpha": {"0.99", "0.9"},
        "momentum": {"0", "0.9"},
        "centered": SWITCH,
        "eps_inside_root": SWITCH,
        **EPS,
        **RATES,
    },
    "Adam": {"decoupled_weight_decay": SWITCH, **BETAS},
    "AdamW": BETAS,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_pair_of_options_is_there(name: str) -> None:
    table = TABLES[name]
    assert {n: set(v) for n, v in table.pairs.values.items()} == {
        **REQUIRED[name],
        "dtype": {"float64", "float32"},
    }
    assert coverage(table.pairs, held(table)).missing == ()
    fewer = [coverage(table.pairs, held(table, without=c)) for c in table.cases if c.values]
    assert max(len(found.missing) for found in fewer) > 0


@pytest.mark.parametrize("name", TABLES)
def test_a_case_does_what_its_values_say(name: str) -> None:
    for case in TABLES[name].cases:
        if case.values:
            words = {n: str(v) for n, v in case.arguments.items() if n not in ("lr", "eps")}
            assert words.items() <= case.values.items()
            assert torch.is_tensor(case.arguments["lr"]) == (case.values["lr"] == "tensor")
            assert float(case.arguments.get("eps", 0)) == float(case.values.get("eps", 0))
            uses = (bool(case.group), case.closure, case.resumed)
            words_of_uses = [("no", "one"), ("yes", "two")]
            assert all(case.values[n] in words_of_uses[u] for n, u in zip(USES, uses, strict=True))


def test_a_missing_pair_is_a_row_that_fails() -> None:
    table = TABLES["SGD"]
    few = replace(table, cases=table.cases[:-1])
    row = collect(optimizer_rows(few, seeds=1, steps=2, own=True)).rows[-1]
    assert (row.verdict, row.passed) == ("inconclusive", False)
    assert row.error == len(coverage(table.pairs, held(few)).missing) > 0


@pytest.mark.parametrize("name", TABLES)
def test_own_rules_by_quantity_and_dtype(name: str) -> None:
    rows = verify(name, BUILTINS[name], own=True, steps=20)[:-1]
    rules = {(row.quantity, row.dtype, row.rule.split(" ")[0]) for row in rows}
    for quantity in {row.quantity for row in rows}:
        assert {(quantity, "float64", "oracle"), (quantity, "float64", "builtin")} <= rules
        assert {row.dtype for row in rows if row.quantity == quantity} == {"float64", "float32"}


@pytest.mark.parametrize("quantity", ["param", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("step", [1, 7, 20])
def test_a_slip_in_one_step_fails_for_that_quantity(quantity: str, step: int) -> None:
    count = 0

    def spoil(optimizer: Optimizer) -> None:
        nonlocal count
        count += 1
        param = optimizer.param_groups[0]["params"][0]
        tensor = param.data if quantity == "param" else optimizer.state[param][quantity]
        if count == step:
            tensor.mul_(1 + 1e-10)

    failed = Report(verify("Adam", hooked(spoil)(Adam), dtypes=[F64], own=True, steps=20)).failures
    assert {(quantity, rule) for rule in ("oracle", "builtin")} <= {
        (row.quantity, row.rule.split(" ")[0]) for row in failed
    }


def test_own_precision_is_stricter_than_everybodys() -> None:
    eps = torch.finfo(F32).eps
    candidate = on_params(lambda p: p.data.mul_(1 + 2 * eps))(torch.optim.SGD)
    sizes: dict[str, Any] = {"dtypes": [F32], "steps": 1}
    assert Report(verify("SGD", candidate, **sizes)).passed
    own = verify("SGD", candidate, own=True, **sizes)
    assert [row.verdict for row in own[:-1]] == ["worse"]


def case(name: str, **uses: Any) -> OptimizerTable:
    """A table of one case, with more options than the first one's."""
    arguments = {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 0.1, "amsgrad": True}}[name]
    return replace(TABLES[name], cases=(Case(arguments, **uses),))


def failures(table: OptimizerTable, candidate: Make) -> list[Row]:
    return collect(optimizer_rows(table, candidate, dtypes=[F64], seeds=1)).failures


def closing(change: Callable[[Make, Callable[[], Any]], Any]) -> Make:
    class Changed(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return change(super().step, closure)

    return Changed


CLOSURES: dict[str, tuple[Make, str]] = {
    "not called": (closing(lambda step, closure: [step(), 0.5][1]), "in calls []"),
    "called twice": (closing(lambda step, f: [f(), step(f)][1]), "in calls [True, True]"),
    "without gradients": (
        closing(lambda step, f: [torch.no_grad()(f)(), step(), 0.5][2]),
        "in calls [False]",
    ),
    "loss lost": (closing(lambda step, closure: [step(closure), None][1]), "became None"),
    "called too late": (
        closing(lambda step, closure: [step(), torch.enable_grad()(closure)()][1]),
        "",
    ),
}


@pytest.mark.parametrize("wrong", CLOSURES)
def test_wrong_closures_fail(wrong: str) -> None:
    table, (candidate, note) = case("SGD", closure=True), CLOSURES[wrong]
    assert not failures(table, torch.optim.SGD)
    found = failures(table, candidate)
    assert found
    assert all(note in row.note for row in found)


def test_options_of_another_group_fail() -> None:
    class First(torch.optim.SGD):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__([p for group in params for p in group["params"]], **options)

    for own in ({"lr": 0.2}, {"momentum": 0.5}, {"weight_decay": 0.2}):
        table = case("SGD", group=own)
        assert not failures(table, torch.optim.SGD)
        assert {row.verdict for row in failures(table, First)} == {"another function"}


def test_state_in_one_of_two_groups() -> None:
    table = replace(TABLES["SGD"], cases=(Case({"lr": 0.1}, group={"momentum": 0.9}),))
    found = collect(optimizer_rows(table, torch.optim.SGD, seeds=1, own=True)).rows[:-1]
    assert {row.quantity for row in found} == {"param", "momentum_buffer"}


def loading(change: Callable[[dict[str, Any]], Any], when: str = "pre") -> Make:
    """Torch's Adam, which changes a state dict that it saves ("post") or loads ("pre")."""

    def candidate(params: Any, **options: Any) -> Optimizer:
        optimizer = Adam(params, **options)
        if when == "pre":
            optimizer.register_load_state_dict_pre_hook(lambda _, state: change(state))
        else:
            optimizer.register_state_dict_post_hook(lambda _, state: change(state))
        return optimizer

    return candidate


def of_every(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], None]:
    return lambda saved: [change(state) for state in saved["state"].values()] and None


RESUMED: dict[str, Make] = {
    "forgets all": loading(lambda saved: saved["state"].clear()),
    "forgets a parameter": loading(lambda saved: saved["state"].pop(2)),
    "forgets the step": loading(of_every(lambda state: state["step"].zero_())),
    "keeps its options": loading(lambda saved: [g.update(lr=0.2) for g in saved["param_groups"]]),
    "saves no maximum": loading(of_every(lambda s: s["max_exp_avg_sq"].zero_()), "post"),
    "saves less": loading(of_every(lambda state: state.pop("exp_avg")), "post"),
}


@pytest.mark.parametrize("wrong", RESUMED)
def test_wrong_state_dicts_fail(wrong: str) -> None:
    assert not failures(case("Adam", resumed=True), Adam)
    assert not failures(case("Adam"), RESUMED[wrong])
    assert failures(case("Adam", resumed=True), RESUMED[wrong])


def test_a_resumed_run_goes_through_the_builtin_and_comes_back() -> None:
    made: list[str] = []

    def note(name: str) -> Make:
        def make(params: Any, **options: Any) -> Optimizer:
            made.append(name)
            return Adam(params, **options)

        return make

    table = replace(case("Adam", resumed=True), builtin=note("builtin"))
    collect(optimizer_rows(table, note("ours"), dtypes=[F64], seeds=1)).raise_if_failed()
    assert made == ["builtin", "ours", "builtin", "ours"]  # first the builtin's own run


def test_a_tensor_as_learning_rate_is_each_partys_own() -> None:
    """Who changes it in place changes nobody else's."""
    table = replace(TABLES["SGD"], cases=(Case({"lr": torch.tensor(0.1, dtype=F64)}),))

    def halve(optimizer: Optimizer) -> None:
        optimizer.param_groups[0]["lr"].mul_(0.5)

    assert failures(table, hooked(halve)(torch.optim.SGD))
    assert table.cases[0].arguments["lr"] == 0.1
    assert not failures(table, torch.optim.SGD)
