# ruff: noqa: E501
"""Optimizers on kernels: the rows of the case tables, planted bugs, and what the tables don't ask."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import refnet.optim
from refnet import backend, use_backend
from refnet.optim import _base
from verification.cases.optimizers import OptimizerTable, optimizer_tables
from verification.ops.contract import MISSING
from verification.optimizers.rows import optimizer_rows

NAMES = ("SGD", "Momentum", "RMSprop", "Adam", "AdamW")
CASES = 4  # of a table, as different as they come


def rows_of(table: OptimizerTable, cases: Any) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = dataclasses.replace(table, cases=tuple(cases))
        lists = optimizer_rows(table, dtypes=(torch.float32,), seeds=3, steps=12, own=True)
        return [row for rows in lists for row in rows if row.quantity != MISSING]


@pytest.mark.parametrize("name", NAMES)
def test_all_rows_are_green(name: str) -> None:
    table = optimizer_tables()[name]
    with backend.recording() as ran:
        rows = rows_of(table, table.cases[:: max(len(table.cases) // CASES, 1)])
    assert [row for row in rows if not row.passed] == []
    assert ran.count((name, "cuda")) > 30


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}),
    ("Momentum", {"lr": 0.1, "bias_correction": True}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5}),
    ("RMSprop", {"lr": 0.01, "eps_inside_root": True}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"weight_decay": 0.1}),
]


def trained(name: str, options: dict[str, Any], dtype: torch.dtype) -> list[torch.Tensor]:
    """Parameters of several blocks, and of one that is not full, after three steps."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(n, generator=generator).to(dtype) for n in (12, 2500, 1, 1024)]
    optimizer = getattr(refnet.optim, name)(params, **options)
    for _ in range(3):
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator).to(dtype)
        optimizer.step()
    return params


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_several_parameters_and_blocks(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    with use_backend("cuda"), backend.recording() as ran:
        found = trained(name, options, dtype)
    assert ran == [(name, "cuda")] * 3
    with use_backend("reference"):
        expected = trained(name, options, dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=4 * eps, atol=4 * eps)


def test_one_launch_for_all_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _base.cuda.unavailable(torch.ones(1))
    module, launched = _base.cuda.module, []
    kernel, numbers = module.RULES["adam"]

    class Counted:
        def __getitem__(self, grid: Any) -> Any:
            launched.append(grid)
            return kernel[grid]

    monkeypatch.setitem(module.RULES, "adam", (Counted(), numbers))
    trained("Adam", {}, torch.float32)
    assert launched == [(6,)] * 3  # 1, 3, 1 and 1 blocks


def test_parameters_that_are_not_as_far() -> None:
    def run() -> list[torch.Tensor]:
        params = [torch.ones(3), torch.ones(3)]
        optimizer = refnet.optim.Adam(params, lr=0.1)
        for step in range(4):
            for param in params[: 1 + step % 2]:
                param.grad = torch.full((3,), 0.5 + step)
            optimizer.step()
            optimizer.zero_grad()
        return params

    with use_backend("cuda"):
        found = run()
    with use_backend("reference"):
        torch.testing.assert_close(found, run())


BUGS = [
    ("SGD", "dampening=0.4", "new_v = rest * g + beta", "new_v = g + beta"),
    ("SGD", "momentum=0.9", "if not FIRST:", "if True:"),
    ("SGD", "nesterov=True", "g + beta * new_v if NESTEROV else new_v", "new_v"),
    ("SGD", "lr=0.1", "w - lr * g", "w + lr * g"),
    ("SGD", "weight_decay=0.1", "g += decay * w", "g += decay"),
    ("SGD", "maximize=True", "g = -dw if MAXIMIZE else dw", "g = dw"),
    ("Momentum", "lr=0.1", "w - rate * new_v", "w - new_v"),
    ("Momentum", "bias_correction=True", "lr / (1 - momentum**t) if bias_correction else lr", "lr"),
    ("RMSprop", "eps_inside_root=True eps", "sqrt(s + eps) if INSIDE else sqrt(s) + eps", "sqrt(s) + eps"),
    ("RMSprop", "centered=True", "s -= g * g", "s -= g"),
    ("RMSprop", "momentum=0.9", "v = mu * tl.load(vs, mask=here).to(tl.float64) +", "v ="),
    ("RMSprop", "lr=0.01", "average(tl.load(ss, mask=here), d * d, rest)", "average(tl.load(ss, mask=here), d, rest)"),
    ("Adam", "lr=0.01", "v += rest1 * (g - v)", "v = rest1 * g"),
    ("Adam", "lr=0.01", "correction = math.sqrt(1 - beta2**t)", "correction = 1.0"),
    ("Adam", "lr=0.01", "lr / (1 - beta1**t) * correction", "lr * correction"),
    ("Adam", "eps=0.0001", "eps * correction", "eps"),
    ("Adam", "amsgrad=True", "s = tl.where((s_max > s) | (s_max != s_max), s_max, s)", "s_max = s"),
    ("AdamW", "weight_decay=0.1", "w -= (one * change + change_rest) * w", "w -= one * change"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shown", "old", "new"), BUGS)
def test_a_planted_bug_is_found(
    name: str, shown: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.find_spec("refnet.optim.cuda")
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{text.count(old)} times: {old}"
    file = tmp_path / "cuda.py"
    file.write_text(text.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("refnet.optim.cuda", file)
    assert spec is not None
    assert spec.loader is not None
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    monkeypatch.setattr(_base.cuda, "module", changed)
    table = optimizer_tables()[name]
    cases = sorted(table.cases, key=lambda case: shown not in case.name)  # the likely ones first
    assert any(not row.passed for case in cases for row in rows_of(table, [case]))
