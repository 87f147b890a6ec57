# ruff: noqa: E501 (rows of source text)
"""The data's part of the suite: it passes, it is found by its entry point, and bugs fail it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from lightning_modules.checks import data as verification_parts
from lightning_modules.checks.data import suite
from verification import suite as whole
from verification.mutants import Mutant, planted
from verification.report import Report
from verification.suite import parts, run

BUGS = [
    ("data_preparation", *row)
    for row in (
        ("not stratified", "stratify=labels[left],", "stratify=None,"),
        ("one seed for all", "random_state=seed,", "random_state=0,"),
        ("no seed", "random_state=seed,", "random_state=None,"),
        ("dev and test overlap", "rows[part], left = train_test_split(", "rows[part], _ = train_test_split("),
        ("sizes rounded down", "round(fraction * m) for part", "int(fraction * m) - 1 for part"),
        ("train and test exchanged", "for part in reversed(PARTS):", "for part in PARTS:"),
        ("70 % of big data", "if largest is None or m <= largest", "if m or largest"),
        ("statistics of all sets", 'for _, columns in pieces("train"):\n        scaler.partial_fit(columns)', "for part in rows:\n        for _, columns in pieces(part):\n            scaler.partial_fit(columns)"),
        ("each set by its own statistics", "inputs[part] = torch.empty(", "scaler = StandardScaler(with_mean=on, with_std=on)\n        for _, columns in pieces(part):\n            scaler.partial_fit(columns)\n        inputs[part] = torch.empty("),
        ("divided by the variance, as on the slide", "values = scaler.transform(columns)", "values = (scaler.transform(columns) / scaler.scale_ if on else columns)"),
        ("the mean left in", "with_mean=on", "with_mean=False"),
        ("one statistic for all channels", "width = x.shape[-1] if per", "width = 1 if per"),
        ("statistics in float32", ".astype(np.float64)", ".astype(np.float32)"),
    )
] + [
    ("data", *row)
    for row in (
        ("not shuffled", 'return self._loader("train", shuffle=True)', 'return self._loader("train", shuffle=False)'),
        ("order by the global generator", "generator=self._order if shuffle else None", "generator=None"),
        ("the same order each epoch", "        size = len(dataset) if self", "        self._order.manual_seed(self.seed)\n        size = len(dataset) if self"),
        ("the last mini-batch left out", "drop_last=shuffle and one_left_over", "drop_last=shuffle"),
        ("mini-batches one too large", "            batch_size=size,", "            batch_size=size + 1,"),
        ("dev set varied too", "if shuffle and self.augment:", "if self.augment:"),
        ("training set not varied", "if shuffle and self.augment:", "if False:"),
        ("variation unseeded", "manual_seed(sampling_seed + 1)", "manual_seed(torch.seed() % 2**32)"),
        ("variation draws from the order", "self._variation = torch.Generator().manual_seed(sampling_seed + 1)", "self._variation = self._order"),
        ("classes of other rows", "torch.tensor(y[chosen]))", "torch.tensor(y[chosen[::-1].copy()]))"),
        ("standardized by the test set's rows", "inputs = standardized(x, rows, per)", 'inputs = standardized(x, {**rows, "train": rows["test"]}, per)\n        rows["train"] = rows["test"]'),
    )
] + [
    ("augmentation", *row)
    for row in (
        ("flipped upside down", "x.flip(-1), x)", "x.flip(-2), x)"),
        ("all flipped or none", "(mirrored < self.flip)", "(mirrored[:1] < self.flip).expand(n)"),
        ("noise of another size", "return x + self.noise * noise", "return x + self.noise**2 * noise"),
        ("noise the same for all", "torch.randn(x.shape, generator=generator)", "torch.randn(x.shape[1:], generator=generator)"),
        ("noise on one side", "return x + self.noise * noise", "return x + self.noise * noise.abs()"),
        ("images of their neighbours", "x, labels = self.data[list(indices)]", "x, labels = self.data[list(indices)]\n        x = x.roll(1, 0)"),
        ("classes shuffled", "return self.augmentation(x, self.generator), labels", "return self.augmentation(x, self.generator), labels.flip(0)"),
        ("varied once for all epochs", "return self.augmentation(x, self.generator), labels", "self.generator.manual_seed(1)\n        return self.augmentation(x, self.generator), labels"),
        ("moved out of the picture", "origin = -(inverse @ shift", "origin = 9 - (inverse @ shift"),
    )
]  # fmt: skip


CHECKS = {  # where a module's bugs show
    "data_preparation": ("advice", "splits", "standardization"),
    "data": ("mini_batches", "augmentation", "standardization"),
    "augmentation": ("augmentation",),
}


@pytest.fixture
def planting(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Plant a bug in a module of `lightning_modules`."""
    monkeypatch.setattr(
        "verification.mutants._module", lambda bug: import_module(f"lightning_modules.{bug.module}")
    )
    return lambda row: planted(Mutant("data", row[1], row[0], *row[2:]))


def test_right_code_passes() -> None:
    rows = [row for rows in suite() for row in rows]
    assert [row for row in rows if not row.passed] == []
    assert {row.subject for row in rows} == {"data"}


@pytest.mark.parametrize("bug", BUGS, ids=lambda row: row[1])
def test_planted_bugs_are_caught(
    bug: Any, planting: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [getattr(verification_parts, f"_{name}") for name in CHECKS[bug[0]]]
    monkeypatch.setattr(verification_parts, "_CHECKS", checks)
    with planting(bug):
        assert any(not row.passed for rows in suite() for row in rows)


def test_code_that_crashes_fails_and_the_rest_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*args: Any) -> Any:
        raise RuntimeError("no")

    monkeypatch.setattr(verification_parts, "split", crash)
    found = list(suite())
    failed = [[row for row in rows if not row.passed] for rows in found]
    assert [row.note for row in failed[0]] == ["RuntimeError: no"]
    assert len(found) == 5
    assert not failed[-1]


def test_it_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    value = "lightning_modules.checks.data:suite"
    entries = [EntryPoint("data", value, whole.GROUP)]
    monkeypatch.setattr(whole, "entry_points", lambda group: entries)
    (part,) = (part for part in parts(quick=True) if part.name == "data")
    report = Report(run([part]))
    report.raise_if_failed()
    assert {row.subject for row in report.rows} == {"data"}
