"""Wrong and odd calls: the builtins and refnet do the same, and who does not is seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from verification.cases import op_tables
from verification.ops.errors import CALLS, error_rows
from verification.report import Report, Row, collect

TABLES = op_tables()


def verify(name: str, candidate: Callable[..., Any] | None, **options: Any) -> list[Row]:
    return collect(error_rows(TABLES[name], candidate, **options)).rows


@pytest.mark.parametrize("name", CALLS)
def test_refnet_and_the_builtin_pass(name: str) -> None:
    for candidate in (None, getattr(F, name)):
        rows = verify(name, candidate)
        Report(rows).raise_if_failed()
        assert len({row.case for row in rows}) == len(rows) == len(CALLS[name])


def test_both_kinds_of_calls_are_there() -> None:
    for name in CALLS:
        notes = {row.note.split()[1] for row in verify(name, None)}
        assert "work:" in notes
        assert len(notes) > 1 or name in ("tanh", "sigmoid")


def test_an_op_without_such_calls_has_no_rows() -> None:
    assert verify_none("BatchNorm") == []


def verify_none(name: str) -> list[list[Row]]:
    return list(error_rows(TABLES[name]))


def failures(name: str, candidate: Callable[..., Any], **options: Any) -> dict[str, str]:
    rows = Report(verify(name, candidate, **options)).failures
    return {row.case: row.verdict for row in rows}


def clipped(input: Tensor, target: Tensor, *args: Any, **options: Any) -> Tensor:
    """Cross-entropy that takes any target."""
    if not target.is_floating_point() and input.dim() > 1:
        kept = options.get("ignore_index", -100)
        target = torch.where(target == kept, target, target.clamp(0, input.shape[1] - 1))
    return F.cross_entropy(input, target, *args, **options)


def test_a_target_that_is_not_refused_fails() -> None:
    found = failures("cross_entropy", clipped)
    assert found["target beyond the classes"] == found["target of -1"] == "another function"
    assert all("target" in case for case in found)


def test_another_exception_is_worse() -> None:
    def candidate(input: Tensor, p: float = 0.5, *args: Any, **options: Any) -> Tensor:
        if not 0 <= p <= 1:
            raise TypeError("no probability")
        return F.dropout(input, p, *args, **options)

    found = failures("dropout", candidate)
    assert found == {name: "worse" for name in ("p = 1.5", "p = -0.1", "p = 1.5 in evaluation")}


def test_kin_exceptions_are_as_good() -> None:
    def raising(kind: type[Exception]) -> Callable[..., Any]:
        def candidate(input: Tensor, dim: Any, **options: Any) -> Tensor:
            if not input.is_floating_point() and not options:
                raise kind("no numbers")
            return F.softmax(input, dim, **options)

        return candidate

    class Own(NotImplementedError):
        pass

    assert failures("softmax", raising(RuntimeError)) == failures("softmax", raising(Own)) == {}
    assert failures("softmax", raising(Exception)) == {"integers": "worse"}


def test_an_odd_call_that_is_refused_fails() -> None:
    def candidate(input: Tensor, *args: Any, **options: Any) -> Tensor:
        if not input.numel():
            raise ValueError("expected examples")
        return F.linear(input, *args, **options)

    found = failures("linear", candidate)
    assert found == {"no examples": "another function", "no inputs": "another function"}


def test_another_shape_fails() -> None:
    def candidate(input: Tensor) -> Tensor:
        return F.tanh(input).reshape(-1)

    assert set(failures("tanh", candidate)) == {"nothing", "a number"}


def test_one_value_per_channel_has_to_be_refused() -> None:
    def candidate(
        input: Tensor, mean: Any, var: Any, weight: Any = None, bias: Any = None,
        training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if training and input.dim() > 1 and input.numel() == input.shape[1]:
            return input * 0
        return F.batch_norm(input, mean, var, weight, bias, training, momentum, eps)

    found = failures("batch_norm", candidate)
    assert set(found) == {"one value per channel", "one value per channel, images"}


def test_a_call_that_hangs_is_a_row() -> None:
    def candidate(input: Tensor) -> Tensor:
        while True:
            pass

    rows = Report(verify("tanh", candidate, time_limit=0.05)).failures
    assert len(rows) == 2
    assert all("more than 0.05 s" in row.note for row in rows)


def test_calls_that_bring_an_accelerator_down_are_made_on_the_cpu_alone() -> None:
    dangerous = {odd.name for odd in CALLS["cross_entropy"] if not odd.anywhere}
    assert {"target beyond the classes", "target of -1"} <= dangerous
    assert {row.case for row in verify("cross_entropy", None, device="meta")} & dangerous == set()


def takes_more(op: Callable[..., Any]) -> Callable[..., Any]:
    """Take integers and truth values for the numbers that they are."""

    def candidate(input: Tensor, *args: Any, **options: Any) -> Tensor:
        return op(input if input.is_floating_point() else input.float(), *args, **options)

    return candidate


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("softmax", {"integers"}),
        ("batch_norm", {"integers"}),
        ("leaky_relu", {"integers", "truth values"}),
        ("cross_entropy", {"integer scores"}),
        ("dropout", {"integers"}),
    ],
)
def test_a_candidate_may_take_more_than_the_builtin(name: str, calls: set[str]) -> None:
    odd = takes_more(getattr(F, name))
    rows = [row for row in verify(name, odd) if row.case in calls | {"integers as result"}]
    looser = {row.case for row in rows if row.note.startswith("looser: returns float32")}
    assert looser == calls
    assert {row.case for row in rows if row.verdict == "as good"} >= calls


def test_targets_of_other_integers_are_taken_for_classes() -> None:
    def candidate(input: Tensor, target: Tensor, *args: Any, **options: Any) -> Tensor:
        target = target if target.is_floating_point() else target.long()
        return F.cross_entropy(input, target, *args, **options)

    rows = verify("cross_entropy", candidate)
    Report(rows).raise_if_failed()
    looser = {row.case for row in rows if row.note.startswith("looser")}
    assert looser == {"int32 targets", "boolean targets"}


@pytest.mark.parametrize("factor", [0.0, 1.5, float("nan")])
def test_garbage_where_the_builtin_refuses_fails(factor: float) -> None:
    def candidate(input: Tensor, dim: Any, **options: Any) -> Tensor:
        if input.is_floating_point() or options:
            return F.softmax(input, dim, **options)
        return F.softmax(input.float(), dim) * factor

    assert failures("softmax", candidate) == {"integers": "another function"}


def test_refusing_what_the_builtin_takes_is_called_stricter() -> None:
    def candidate(input: Tensor, *args: Any, **options: Any) -> Tensor:
        if not input.numel():
            raise ValueError("nothing")
        return F.softmax(input, *args, **options)

    rows = Report(verify("softmax", candidate)).failures
    assert {row.case for row in rows} == {"no rows", "no classes"}
    assert all(row.note.startswith("stricter: raises ValueError") for row in rows)


def test_calls_may_be_asked_for_by_name() -> None:
    seen: list[Any] = []

    def candidate(input: Tensor, *args: Any, **options: Any) -> Tensor:
        seen.append(input)
        return F.softmax(input, *args, **options)

    rows = verify("softmax", candidate, asked=lambda name: name == "no rows")
    assert [row.case for row in rows] == ["no rows"]
    assert [list(x.shape) for x in seen] == [[0, 3]]
