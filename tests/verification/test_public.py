"""verify_op and verify_optimizer: what they take, what they find, and that one can repeat it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import verification
from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.ops.rows import ONLY_SPECIAL
from verification.plans import DTYPES, make_plan, op_parts, optimizer_parts
from verification.public import verify_op, verify_optimizer
from verification.report import Row

BUILTINS: dict[str, Any] = {
    **{name: getattr(F, name, torch.nn) for name in op_tables()},
    **{name: getattr(torch.optim, name, table.builtin)
       for name, table in optimizer_tables().items()},
}  # fmt: skip


def check(name: str) -> Callable[..., verification.Report]:
    return verify_op if name in op_tables() else verify_optimizer


@pytest.mark.parametrize("name", BUILTINS)
def test_torch_itself_passes(name: str) -> None:
    report = check(name)(BUILTINS[name], like=name)
    report.raise_if_failed()
    assert {row.subject for row in report.rows} == {name}
    assert report.title.endswith(f" like {name}")
    if name == "batch_norm":
        held_to_all_of_the_contract(report.rows)
    if name == "RMSprop":  # torch's is not asked for an argument of refnet's own
        assert not [row for row in report.rows if "eps_inside_root" in row.case]


def held_to_all_of_the_contract(rows: list[Row]) -> None:
    quantities = {row.quantity for row in rows}
    assert quantities >= {"output", "grad input", "running_var", "reverse over reverse", "error"}
    assert {row.dtype for row in rows} >= {"float64", "float32"}
    assert {row.rule for row in rows} >= {"gradcheck", "builtin's error"}
    assert any(row.rule.endswith("½eps, max") for row in rows)


def test_the_full_profile_has_more_of_everything() -> None:
    plans = [make_plan(profile) for profile in ("quick", "full")]
    quick, full = (len(op_parts(F.linear, "linear", plan)) for plan in plans)
    assert full > quick
    report = verify_op(torch.tanh, like="tanh", profile="full", cases="easy")
    assert {row.dtype for row in report.rows} == {*DTYPES, "-"}
    report.raise_if_failed()


# Each is wrong in another way; the failing row names it.


def crashes(input: torch.Tensor) -> Any:
    raise ValueError("no\nway")


def never_returns(input: torch.Tensor) -> Any:
    while True:
        pass


def leaves(input: torch.Tensor) -> Any:
    sys.exit(3)


def changes_its_input(input: torch.Tensor) -> Any:
    with torch.no_grad():
        input.mul_(2)
    return torch.tanh(input)


BROKEN: dict[str, tuple[Callable[..., Any], str]] = {
    "crash": (crashes, "ValueError: no"),
    "exit": (leaves, "SystemExit: 3"),
    "hang": (never_returns, "TimeLimitExceeded: more than 0.1 s"),
    "None": (lambda input: None, "NoneType"),
    "tuple": (lambda input: (input, input), "tuple"),
    "shape": (lambda input: torch.tanh(input)[..., :1], "shape"),
    "dtype": (lambda input: torch.tanh(input).half(), "float16"),
    "NaN": (lambda input: torch.tanh(input) * torch.nan, ""),
    "graph": (lambda input: torch.tanh(input.detach()), ""),
    "changed": (changes_its_input, "input"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_candidate_has_failing_rows_and_does_not_stop_the_run(name: str) -> None:
    candidate, note = BROKEN[name]
    report = verify_op(candidate, like="tanh", cases="*easy*", time_limit=0.1)
    first = report.failures[0]
    assert first.case == "easy"
    assert note in first.note
    assert {row.dtype for row in report.failures} >= {"float64"}


def test_the_users_random_numbers_and_grad_mode_are_left_alone() -> None:
    def drawing(input: torch.Tensor) -> torch.Tensor:
        return torch.tanh(input) + 0 * torch.rand(())

    torch.manual_seed(3)
    with torch.no_grad():
        first = verify_op(drawing, like="tanh", cases="easy")
        assert not torch.is_grad_enabled()
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    again = verify_op(drawing, like="tanh", cases="easy")
    assert first.rows
    assert list(map(str, first.rows)) == list(map(str, again.rows))


def test_seeds_are_a_number_or_the_seeds_themselves() -> None:
    def wrong(input: torch.Tensor) -> torch.Tensor:
        return torch.tanh(input) * 1.01

    for seeds, expected in ((2, {0, 1}), ([5], {5}), ((4, 7), {4, 7})):
        report = verify_op(wrong, like="tanh", cases="easy", dtypes=["float64"], seeds=seeds)
        found = {row.seed for row in report.rows if row.quantity == "output"}
        assert found
        assert found <= expected


def relu_wrong_below_zero(input: torch.Tensor, inplace: bool = False) -> torch.Tensor:
    return torch.where(input > 0, input, 0.01 * input)


def test_a_failure_says_how_to_repeat_it() -> None:
    row = verify_op(relu_wrong_below_zero, like="relu", cases="0, *").failures[0]
    words = shlex.split(row.repeat)
    assert words[:4] == ["python", "-m", "verification", "op"]
    assert words[4].endswith(":relu_wrong_below_zero")
    pairs = dict(zip(words[5::2], words[6::2], strict=True))
    assert pairs == {"--like": "relu", "--case": row.case, "--dtype": row.dtype,
                     "--seed": str(row.seed)}  # fmt: skip


def test_a_failure_of_several_seeds_is_repeated_by_just_these() -> None:
    from verification.public import make_report

    def words(seeds: Any) -> list[str]:
        row = Row("SGD", "case", "param", "float64", 1.0, 0.0, 1e-11, "1e-11", "worse")
        plan = make_plan("quick", seeds=seeds)
        report = make_report("optimizer", relu_wrong_below_zero, "SGD", plan, [row], "a:b")
        return shlex.split(report.rows[0].repeat)[11:]

    assert words((3, 5)) == ["--seed", "3", "--seed", "5"]
    assert words(3) == ["--seeds", "3"]
    assert words([2]) == ["--seed", "2"]
    assert words((1, 0)) == ["--seed", "1", "--seed", "0"]


def test_what_is_not_asked_for_is_not_run() -> None:
    def names(like: str, cases: str, candidate: Any = relu_wrong_below_zero) -> list[str]:
        make = op_parts if like in op_tables() else optimizer_parts
        return [part.case for part in make(candidate, like, make_plan("quick", cases=cases))]

    assert names("softmax", "1000 classes") == ["1000 classes"]
    assert names("softmax", "easy") == ["easy", "random numbers"]
    assert names("softmax", "dimension 2 of 2") == ["errors"]
    assert names("dropout", "p=0.1, drawn") == ["random numbers"]
    assert names("SGD", "lr=0.05", torch.optim.SGD)[-1] == "uses"
    assert "uses" not in names("SGD", "lr=0.01", torch.optim.SGD)

    calls = []

    def candidate(input: torch.Tensor, dim: int, dtype: Any = None) -> torch.Tensor:
        calls.append(dim)
        raise RuntimeError("no")

    report = verify_op(candidate, like="softmax", cases="dimension 2 of 2")
    assert [row.case for row in report.rows] == ["dimension 2 of 2"]
    assert calls == [2]


def test_a_draw_of_random_numbers_can_be_repeated() -> None:
    def candidate(input: torch.Tensor, p: float = 0.5, **options: Any) -> torch.Tensor:
        return F.dropout(input, 0.9 * p, **options)

    report = verify_op(candidate, like="dropout", cases="p=0.5, drawn", seeds=[4])
    rates = [row for row in report.failures if row.quantity == "keep rate"]
    assert {row.seed for row in rates} == {4}


def test_what_has_no_name_is_repeated_in_python() -> None:
    wrong = lambda input, inplace=False: F.relu(input) * 1.01  # noqa: E731
    row = verify_op(wrong, like="relu", cases="easy").failures[0]
    found = eval(row.repeat, {"verification": verification, "candidate": wrong})
    assert row.repeat.startswith("verification.verify_op(candidate, ")
    same = [(r.case, r.quantity, r.dtype, r.error) for r in found.rows]
    assert (row.case, row.quantity, row.dtype, row.error) in same


def test_batch_norm_may_be_one_module() -> None:
    class Other(torch.nn.BatchNorm2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * 1.001

    assert verify_op(torch.nn.BatchNorm2d, like="BatchNorm", cases="*dims 4*").passed
    assert not verify_op(Other, like="BatchNorm", cases="*dims 4*").passed


def test_arguments_of_refnets_own_are_asked_of_those_that_have_them() -> None:
    class Lecture(torch.optim.RMSprop):
        def __init__(self, params: Any, *, eps_inside_root: bool = False, **others: Any) -> None:
            super().__init__(params, **others)

    report = verify_optimizer(Lecture, like="RMSprop")
    assert report.failures
    others = [row.quantity for row in report.failures if "eps_inside_root=True" not in row.case]
    assert set(others) == {"by place"}  # it takes its options by keyword alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"like": "gelu"}, "like must be one of batch_norm, .*, got 'gelu'"),
        ({"profile": "fast"}, "profile must be one of quick, full, got 'fast'"),
        ({"dtypes": ["float32", torch.int8]}, "dtypes must be one of float64, .*, got 'int8'"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"seeds": True}, "seeds must be a number of draws, or which, got True"),
        ({"seeds": []}, r"seeds must be at least one, none below 0, got \[\]"),
        ({"seeds": [1, -1]}, r"none below 0, got \[1, -1\]"),
        ({"time_limit": 0}, "time_limit must be a positive number, got 0"),
        ({"cases": "none"}, "cases='none' is none of the cases of tanh"),
        (
            {"cases": "0, inf, NaN", "special_values": False},
            "no values of it; with special_values=False those of NaN and ∞ are out",
        ),
        ({"cases": "n=none"}, "cases='n=none' is none of the cases of tanh"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify_op(torch.tanh, **{"like": "tanh", **options})


def test_a_candidate_can_be_called() -> None:
    with pytest.raises(TypeError, match="candidate must be callable, got 3"):
        verify_op(3, like="tanh")
    with pytest.raises(ValueError, match=r"like must be one of SGD, .*, got 'sgd'"):
        verify_optimizer(torch.optim.SGD, like="sgd")


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, verification as v; print('torch' in sys.modules, v.verify_op.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "verify_op"]


def test_every_public_name_is_there() -> None:
    for name in verification.__all__:
        assert callable(getattr(verification, name)), name
    assert set(verification.__all__) <= set(dir(verification))
    with pytest.raises(AttributeError, match="no attribute 'none'"):
        verification.none  # noqa: B018


def replaced(input: Tensor, y: Tensor) -> Tensor:
    """NaN where an input is infinite or NaN, and nothing else: 0 times that."""
    return y + (input * 0).to(y.dtype) if input.is_floating_point() else y


def log_softmax(input: Tensor, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    return replaced(input, F.log_softmax(input, dim, dtype=dtype))


def batch_norm(input: Tensor, *args: Any, **options: Any) -> Tensor:
    return replaced(input, F.batch_norm(input, *args, **options))


@pytest.mark.parametrize("candidate", [log_softmax, batch_norm])
def test_what_is_wrong_for_special_values_only_says_so(candidate: Any) -> None:
    name = candidate.__name__
    cases = "*inf*" if name == "log_softmax" else "eval*NaN*"
    failed = verify_op(candidate, name, cases=cases).failures
    notes = {row.note for row in failed if row.quantity == "output"}
    assert notes == {ONLY_SPECIAL}
    verify_op(candidate, name, special_values=False).raise_if_failed()


def test_what_is_wrong_everywhere_does_not_say_that_it_is_so_for_special_values_only() -> None:
    def twice(input: Tensor, *args: Any, **options: Any) -> Tensor:
        return 2 * log_softmax(input, *args, **options)

    failed = verify_op(twice, "log_softmax", cases="*inf*").failures
    assert failed
    assert ONLY_SPECIAL not in {row.note for row in failed}


def test_special_values_may_be_left_out_of_a_dropout_and_an_optimizer() -> None:
    rows = verify_op(F.dropout, "dropout", special_values=False).rows
    assert "∞" not in {row.quantity for row in rows}
    assert not any("inf" in row.case for row in rows)
    rows = verify_optimizer(torch.optim.SGD, "SGD", special_values=False).rows
    assert "NaN and inf" not in {row.quantity for row in rows}
