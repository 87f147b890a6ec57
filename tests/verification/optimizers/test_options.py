"""The option tables are like torch's, and the table sees what is not."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rich.console import Console

from verification.cases.optimizers import optimizer_tables
from verification.optimizers.memory import verify_step_memory
from verification.optimizers.option_values import (
    OPTIONS,
    describe_all,
    option_pairs,
    option_values,
)
from verification.optimizers.options import option_cells, print_options, verify_options
from verification.optimizers.situations import PLAIN, SITUATIONS
from verification.report import Row, collect

TABLES = {name: table for name, table in optimizer_tables().items() if name in OPTIONS}


@pytest.mark.parametrize("name", TABLES)
def test_every_option_is_supported_or_refused_as_by_torch(name: str) -> None:
    cells = option_cells(TABLES[name], option_values(name))
    if name in ("SGD", "RMSprop"):  # all others' pairs are looked at by `make verify`
        cells += option_cells(TABLES[name], option_pairs(name), PLAIN)
    found = {(c.options, c.situation) for c in cells if c.symbol not in "✓·≈"}
    # torch's fused kernels take gradients as laid out like the parameters, whatever they are.
    fused = {("fused=True", "gradients laid out otherwise")}
    assert found == (fused if name != "RMSprop" else set())


@pytest.mark.parametrize("name", TABLES)
def test_the_defaults_work_everywhere(name: str) -> None:
    """A situation that is refused by mistake would be refused alike, and show nothing."""
    cells = option_cells(TABLES[name], [{}])
    refused = {cell.situation for cell in cells if cell.symbol != "✓"}
    assert refused == (set() if name == "SGD" else {"sparse gradient"})
    assert [cell.situation for cell in cells] == list(SITUATIONS)


@pytest.mark.parametrize("name", TABLES)
def test_the_builtin_is_like_itself(name: str) -> None:
    cells = option_cells(TABLES[name], option_values(name)[::3], None, TABLES[name].builtin)
    assert {cell.symbol for cell in cells} <= {"✓", "·"}


@pytest.mark.parametrize("name", TABLES)
def test_every_option_of_torchs_is_in_the_table(name: str) -> None:
    optimizer = getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))])
    options = set(optimizer.defaults)
    options -= {"decoupled_weight_decay"} if name == "AdamW" else set()  # no argument there
    assert options == set(OPTIONS[name])


class Late(torch.optim.Adam):
    """Refuses what torch refuses while it is made, but with a word of its own and too late."""

    def __init__(self, params: Any, lr: Any = 1e-3, **options: Any) -> None:
        super().__init__(params, abs(lr), **options)
        if lr < 0:
            raise KeyError("lr")


def scaled(params: Any, lr: Any = 1e-3, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, lr * (1 + 1e-9), **options)


class NoGroups(torch.optim.Adam):
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if getattr(self, "param_groups", None):
            raise NotImplementedError("one group")
        super().add_param_group(param_group)


class WideState(torch.optim.Adam):
    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for state in self.state.values():
            state["step"] = state["step"].double()
        return loss


class NoFused(torch.optim.Adam):
    def __init__(self, params: Any, *arguments: Any, fused: Any = None, **options: Any) -> None:
        super().__init__(params, *arguments, **options)


class HalfRefused(torch.optim.Adam):
    """Refuses, after it has changed the other parameters."""

    def step(self, closure: Any = None) -> Any:
        dense = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        for p in dense:
            if not p.grad.is_sparse:
                p.data.sub_(p.grad)
        return super().step(closure)


WRONG: dict[str, tuple[Callable[..., Any], dict[str, Any], str, str]] = {
    "values": (scaled, {}, "float64", "✗"),
    "an error's type": (Late, {"lr": -1.0}, "float64", "✗"),
    "no groups": (NoGroups, {}, "options in a group", "−"),
    "the state's dtype": (WideState, {}, "float32", "✗"),
    "an option that nobody keeps": (NoFused, {"fused": True}, "complex", "+"),
    "half a step": (HalfRefused, {}, "sparse gradient", "✗"),
}


@pytest.mark.parametrize("bug", WRONG)
def test_what_differs_is_seen(bug: str) -> None:
    make, options, situation, symbol = WRONG[bug]
    [cell] = option_cells(TABLES["Adam"], [options], {situation: SITUATIONS[situation]}, make)
    assert cell.symbol == symbol


def test_a_row_tells_the_worst() -> None:
    [row] = next(verify_options(TABLES["Adam"], scaled, pairs=False))
    assert row.case == "defaults"
    assert row.verdict == "another function"
    assert "defaults, float64: " in row.note


def test_the_printed_table() -> None:
    cells = option_cells(TABLES["Adam"], [{}, {"lr": -1.0}], None, Late)
    console = Console(file=io.StringIO(), width=200)
    print_options(console, cells)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "lr=-1.0" in text
    assert "✗ lr=-1.0, float64: ours KeyError: 'lr'; builtin ValueError" in text
    assert f"{len(SITUATIONS)} default float64" in text


def test_options_as_text() -> None:
    assert describe_all({"betas": (0.5, torch.tensor(0.25)), "amsgrad": True}) == (
        "betas=(0.5, Tensor(0.25,)) amsgrad=True"
    )


def memory(name: str, candidate: Callable[..., Any] | None = None) -> list[Row]:
    return collect(verify_step_memory(TABLES[name], candidate)).rows


@pytest.mark.parametrize("name", TABLES)
def test_a_step_needs_blocks_of_memory_and_no_more(name: str) -> None:
    assert {row.verdict for row in memory(name)} <= {"as good", "better"}


def test_a_step_that_needs_more_is_seen() -> None:
    builtin = TABLES["Adam"].builtin

    def hoarding(params: Any, **options: Any) -> Any:
        return builtin(params, foreach=True, **options)

    counted = Counter(row.verdict for row in memory("Adam", hoarding))
    assert counted == {"worse": 2}
