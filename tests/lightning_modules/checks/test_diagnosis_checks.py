# ruff: noqa: E501 (rows of source text)
"""The diagnosis' part of the suite: it passes, and bugs fail it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from lightning_modules.checks.diagnosis import diagnosis
from verification.mutants import Mutant, planted

BUGS = [
    ("variance beside human error", "dev_error - train_error\n", "dev_error - (human_error or 0)\n"),
    ("bias is the train error", "else train_error - human_error", "else train_error"),
    ("human error unknown is 0", "if bias is None and high_bias", "if False"),
    ("a gap as large as the threshold is high", "gap > threshold + 1e-12", "gap > threshold - 1e-12"),
    ("the threshold is 11 %", "gap > threshold", "gap > 0.11"),
    ("bias and variance exchanged", '("variance", high_variance)):', '("bias", high_variance)):'),
    ("the gap's size alone", "return gap >", "return abs(gap) >"),
    ("words of the other", 'f"{words[high_bias]} bias', 'f"{words[high_variance]} bias'),
]  # fmt: skip


def test_right_code_passes() -> None:
    assert [row for rows in diagnosis() for row in rows if not row.passed] == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda row: row[0])
def test_planted_bugs_are_caught(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("lightning_modules.bias_variance")
    monkeypatch.setattr("verification.mutants._module", lambda bug: module)
    with planted(Mutant("diagnosis", bug[0], "bias_variance", *bug[1:])):
        assert any(not row.passed for rows in diagnosis() for row in rows)
