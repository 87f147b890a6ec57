"""The suite: it passes, it is whole, and a part that crashes fails and does not stop it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest

import refnet.functional
import refnet.optim
from verification import suite
from verification.report import Report, Row
from verification.suite import Part, parts, run

OPS = [
    "batch_norm", "BatchNorm", "dropout", "dropout1d", "dropout2d", "dropout3d", "softmax",
    "log_softmax", "cross_entropy", "linear", "relu", "leaky_relu", "tanh", "sigmoid",
]  # fmt: skip
OPTIMIZERS = ["SGD", "Momentum", "RMSprop", "Adam", "AdamW"]
SCHEDULES = ["InverseTimeDecay", "ExponentialDecay", "InverseSqrtDecay"]
LECTURE = [
    "chain", "init", "regularization", "gradient_flow", "numerical_gradients", "averages",
    "gradient_check",
]  # fmt: skip
OWN = [
    *OPS, "SGD", "SGD options", "SGD memory", "Momentum",
    *(part for name in ("RMSprop", "Adam", "AdamW")
      for part in (name, f"{name} options", f"{name} memory")),
    *SCHEDULES, *LECTURE, "training run", "transforms",
]  # fmt: skip
GOOD = Row("x", "case", "output", "float64", 0.0, 0.0, 1e-11, "1e-11", "as good")


@pytest.mark.parametrize("name", [*OPS, *OPTIMIZERS, *SCHEDULES, *LECTURE, "training run"])
def test_refnet_passes(name: str) -> None:
    chosen = [part for part in parts(quick=True) if part.name == name]
    advanced: list[Part] = []
    report = Report(run(chosen, advanced.append))
    report.raise_if_failed()
    assert advanced == chosen * chosen[0].cases
    assert {row.subject for row in report.rows} == {name}


def test_all_parts_are_there() -> None:
    registered = ["data", "diagnosis", "early_stopping", "lockstep", "panda", "tuning"]
    assert [part.name for part in parts()] == [*OWN, *registered]


def public(module: Any) -> set[str]:
    return {name for name in module.__all__ if not name.startswith("_")}


def test_every_public_function_and_optimizer_is_a_part() -> None:
    names = {part.name for part in parts()}
    assert public(refnet.functional) <= names
    classes = {n for n in public(refnet.optim) if isinstance(getattr(refnet.optim, n), type)}
    assert classes <= names


def test_an_op_is_held_to_all_of_its_contract() -> None:
    (part,) = (part for part in parts() if part.name == "tanh")
    advanced: list[Part] = []
    rows = run([part], advanced.append)
    assert len(advanced) == part.cases  # with the difference quotients
    assert {row.dtype for row in rows} == {"float64", "float32", "bfloat16", "float16", "all"}
    assert {row.quantity for row in rows} >= {"output", "bytes kept", "pairs missing"}
    assert {row.rule for row in rows} >= {"builtin to 1e-12", "eps", "gradcheck", "62 pairs"}


def calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[dict[str, Any]]:
    """The options that a runner is called with, for every part."""
    seen: list[dict[str, Any]] = []

    def runner(table: Any, **options: Any) -> Iterator[list[Row]]:
        seen.append({"name": table.name, **options})
        return iter([[GOOD]])

    monkeypatch.setattr(suite, name, runner)
    return seen


@pytest.mark.parametrize(
    ("runner", "names"), [("verify_contract", OPS), ("optimizer_rows", OPTIMIZERS)]
)
def test_device_and_size_are_handed_on(
    runner: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = calls(monkeypatch, runner)
    for quick in (True, False):
        run(part for part in parts(quick=quick, device="cuda:1") if part.name in names)
    assert [call["name"] for call in seen] == names * 2
    assert {call["device"] for call in seen} == {"cuda:1"}
    assert [call["seeds"] for call in seen] == [3] * len(names) + [5] * len(names)


def test_the_transforms_get_the_device_and_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, dict[str, Any]]] = []

    def runner(ops: Any, **options: Any) -> Iterator[list[Row]]:
        seen.append((ops, options))
        return iter([[GOOD] for _ in ops])

    monkeypatch.setattr(suite, "verify_support", runner)
    advanced: list[Part] = []
    for quick in (True, False):
        chosen = [part for part in parts(quick=quick, device="cuda:1") if part.name == "transforms"]
        run(chosen, advanced.append)
        assert len(advanced) == chosen[0].cases
        advanced.clear()
    assert seen == [(suite.OPS, {"quick": q, "device": "cuda:1"}) for q in (True, False)]


def registered(monkeypatch: pytest.MonkeyPatch, *values: str) -> list[Part]:
    entries = [EntryPoint(value.split(":")[1], value, suite.GROUP) for value in values]
    groups = {suite.GROUP: entries}
    monkeypatch.setattr(suite, "entry_points", lambda group: groups[group])
    return parts(quick=True, device="meta")[len(OWN) :]


def test_registered_suites_are_loaded_late_and_called_with_the_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = registered(monkeypatch, "a_module:second", "a_module:first")
    assert [(part.name, part.cases) for part in found] == [("first", 0), ("second", 0)]
    options: list[dict[str, Any]] = []

    class Module:
        @staticmethod
        def first(**given: Any) -> Iterator[list[Row]]:
            options.append(given)
            yield [GOOD]

    monkeypatch.setitem(sys.modules, "a_module", Module)
    assert run(found[:1]) == [GOOD]
    assert options == [{"quick": True, "device": "meta"}]


def test_a_registered_suite_that_cannot_be_loaded_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(registered(monkeypatch, "no_such_module:suite"))
    assert [(row.subject, row.passed) for row in rows] == [("suite", False)]
    assert rows[0].note.startswith("ModuleNotFoundError")


def crashing(error: BaseException, after: int = 0) -> Callable[[], Iterator[list[Row]]]:
    def start() -> Iterator[list[Row]]:
        for _ in range(after):
            yield [GOOD]
        raise error

    return start


@pytest.mark.parametrize("error", [ValueError("no\nway"), SystemExit(2), MemoryError()])
@pytest.mark.parametrize("after", [0, 2])
def test_a_crash_is_a_row_and_the_next_part_runs(error: BaseException, after: int) -> None:
    rows = run([Part("bad", 3, crashing(error, after)), Part("good", 1, lambda: iter([[GOOD]]))])
    assert [row.subject for row in rows] == ["x"] * after + ["bad", "x"]
    assert [row.passed for row in rows] == [True] * after + [False, True]
    assert rows[after].note == f"{type(error).__name__}: {error}".splitlines()[0]


def test_an_interrupt_stops_the_run() -> None:
    with pytest.raises(KeyboardInterrupt):
        run([Part("slow", 1, crashing(KeyboardInterrupt()))])


@pytest.mark.parametrize("lists", [[], [[]], [[], []]])
def test_a_part_without_rows_fails(lists: list[list[Row]]) -> None:
    rows = run([Part("good", 1, lambda: iter([[GOOD]])), Part("empty", 1, lambda: iter(lists))])
    assert [(row.subject, row.verdict, row.note) for row in rows[1:]] == [
        ("empty", "inconclusive", "nothing was checked")
    ]
