# ruff: noqa: E501 (rows of source text)
"""The panda's part of the suite: it passes, and bugs fail it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from lightning_modules.checks import panda as verification_panda
from lightning_modules.checks.panda import panda
from verification.mutants import Mutant, planted

BUGS = [
    ("panda", bug, f"panda.{module}", old, new)
    for module, bug, old, new in (
        ("callback", "looks but once an epoch", "batch_idx % self.every", "batch_idx % 4"),
        ("callback", "weight decay left as it was", "group[name] = value", "pass"),
        ("callback", "dropout left as it was", "layer.p = value", "pass"),
        ("callback", "weights left as they were", "module.load_state_dict(checkpoint", "dict(checkpoint"),
        ("callback", "momentum left as it was", "optimizer.load_state_dict(state)", "pass"),
        ("callback", "schedule left as it was", "config.scheduler.load_state_dict(state)", "pass"),
        ("callback", "strengths left as they were", "restore(module, checkpoint", "dict(checkpoint"),
        ("hyperparameters", "a rate for one epoch", "_scale_schedule(config.scheduler, factors)", "pass"),
        ("hyperparameters", "a factor taken for a rate", "new = old * value if scale else value", "new = value"),
    )
]  # fmt: skip


def rows() -> list[Any]:
    return [row for rows in panda() for row in rows]


def test_right_code_passes() -> None:
    found = rows()
    assert [row for row in found if not row.passed] == []
    assert {row.subject for row in found} == {"panda"}
    assert len(found) == 15


@pytest.mark.parametrize("bug", BUGS, ids=lambda row: row[1])
def test_planted_bugs_are_caught(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "verification.mutants._module", lambda bug: import_module(f"lightning_modules.{bug.module}")
    )
    with planted(Mutant(*bug)):
        failed = [row for row in rows() if not row.passed]
    assert failed
    assert all(row.rule != "runs" for row in failed)  # it is seen, it is not a crash


def test_code_that_crashes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(verification_panda, "_by_hand", crash)
    assert [row.note for row in rows()] == ["RuntimeError: no"]
