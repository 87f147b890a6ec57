# ruff: noqa: E501 (rows of source text)
"""Tuning's and early stopping's parts of the suite: they pass, and bugs fail them."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from lightning_modules.checks import tuning as verification_tuning
from lightning_modules.checks.tuning import early_stopping, tuning
from verification import suite as whole
from verification.mutants import Mutant, planted
from verification.report import Report
from verification.suite import parts, run

BUGS = [
    ("tuning", bug, f"tuning.{module}", old, new)
    for module, bug, old, new in (
        ("search", "boxes in linear units", "math.log10 if side.log else float", "float"),
        ("search", "boxes without a gap", "(ends[0] - gap, ends[1] + gap)", "(ends[0], ends[1])"),
        ("search", "boxes around the worst", "sorted(done, key=_value)[: self.best]", "sorted(done, key=_value)[-self.best :]"),
        ("search", "boxes that nobody draws from", "narrowed(param_distribution, self._box.get(param_name))", "param_distribution"),
        ("search", "boxes that never shrink", "kept = shrunk(sorted(done, key=_value)[: self.best], kept)", "kept = shrunk(done, kept)"),
        ("search", "one draw for all trials", "RandomSampler(seed=stream(self.seed, trial.number))", "RandomSampler(seed=0)"),
        ("search", "unseeded", "RandomSampler(seed=stream(self.seed, trial.number))", "RandomSampler()"),
        ("search", "scales lost", "return FloatDistribution(to[0], to[1], log=side.log)", "return FloatDistribution(to[0], to[1])"),
        ("space", "learning rates on a linear scale", 'log = self.scale == "log"', "log = False"),
        ("space", "shares on a log scale", 'log = self.scale == "log"', "log = self._low > 0"),
    )
] + [
    ("early_stopping", "the last epoch of least training loss kept", "cli", '"checkpoint": {**by_dev_loss, **checkpoint},', '"checkpoint": {"monitor": "train_loss", "mode": "min", **checkpoint},'),
    ("early_stopping", "never stops", "cli", '"early_stopping": {**by_dev_loss, "patience": 20},', '"early_stopping": {**by_dev_loss, "patience": 20, "min_delta": -9.0},'),
]  # fmt: skip
SUITES = {"tuning": tuning, "early_stopping": early_stopping}


@pytest.mark.parametrize("subject", SUITES)
def test_right_code_passes_through_its_entry_point(
    subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = f"lightning_modules.checks.tuning:{subject}"
    entries = [EntryPoint(subject, value, whole.GROUP)]
    monkeypatch.setattr(whole, "entry_points", lambda group: entries)
    (part,) = (part for part in parts(quick=True) if part.name == subject)
    report = Report(run([part]))
    report.raise_if_failed()
    assert {row.subject for row in report.rows} == {subject}


@pytest.mark.parametrize("bug", BUGS, ids=lambda row: row[1])
def test_planted_bugs_are_caught(bug: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "verification.mutants._module", lambda bug: import_module(f"lightning_modules.{bug.module}")
    )
    monkeypatch.setattr(verification_tuning, "_caviar", lambda: iter(()))  # of other processes
    with planted(Mutant(*bug)):
        assert any(not row.passed for rows in SUITES[bug[0]]() for row in rows)


# What the second worker has finished is told to nobody: its trials are done again by the first.
TELLS_NOBODY = """
import sys
from optuna.storages import RDBStorage
from optuna.trial import TrialState

tell = RDBStorage.set_trial_state_values

def forget(self, trial_id, state, values=None):
    lost = sys.argv[2] == "1" and state == TrialState.COMPLETE
    return tell(self, trial_id, TrialState.FAIL if lost else state, values)

RDBStorage.set_trial_state_values = forget
"""
WORKERS = {
    "finished trials lost": TELLS_NOBODY,
    "trials missing": "import sys; sys.argv[3] = '8'",
    "drawn twice": "import lightning_modules.tuning.search as s; s.stream = lambda *key: 0",
    "workers without a trial": "import sys; sys.argv[2] == '1' and sys.exit(0)",
    "workers that failed": "import sys; sys.argv[2] == '1' and sys.exit(3)",
}


@pytest.mark.parametrize("quantity", WORKERS)
def test_a_bug_in_a_worker_is_caught(quantity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = verification_tuning.WORKER
    if quantity.startswith("workers"):  # the first one need not wait long for the second one's draw
        worker = worker.replace("+ 60", "+ 0.2")
    broken = f"{WORKERS[quantity]}\n{worker}"
    monkeypatch.setattr(verification_tuning, "WORKER", broken)
    found = {row[1]: row[2] for row in verification_tuning._caviar()}
    assert found[quantity] > 0


def test_every_row_of_the_workers_has_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row[1] for row in verification_tuning._caviar()]
    assert rows == list(WORKERS)


def test_code_that_crashes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(verification_tuning, "suggest", crash)
    first, *others = tuning()
    assert [row.note for row in first] == ["RuntimeError: no"]
    assert all(row.passed for rows in others for row in rows)
