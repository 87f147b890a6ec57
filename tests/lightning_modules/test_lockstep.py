"""Training in lockstep: refnet passes, planted bugs don't, null directions are listed apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import refnet.optim
from lightning_modules import Classifier, DigitsDataModule, lockstep
from lightning_modules.implementation import Implementation, layers
from lightning_modules.lockstep import CONFIGS, QUICK_STEPS, STEPS, record, suite
from verification.mutants import Mutant, mutants, planted
from verification.report import Report, Row
from verification.training.lockstep import Recording, compare

Runs = dict[tuple[str, bool], Recording]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def builtin() -> Runs:
    """The builtins' runs, and those that were perturbed."""
    return {
        (config, perturbed): record(config, "torch", QUICK_STEPS, perturbed=perturbed)
        for config in CONFIGS
        for perturbed in (False, True)
    }


def judge(config: str, builtin: Runs) -> Report:
    ours = record(config, "refnet", QUICK_STEPS)
    return Report(compare("lockstep", config, ours, builtin[config, False], builtin[config, True]))


@pytest.mark.parametrize("config", CONFIGS)
def test_refnet_trains_like_torch(config: str, builtin: Runs) -> None:
    report = judge(config, builtin)
    report.raise_if_failed()
    state = builtin[config, False].state
    assert [row.quantity for row in report.rows] == [f"loss, {QUICK_STEPS} steps", *state]
    assert sum(row.quantity.endswith("running_mean") for row in report.rows) >= 2


def bug(subject: str, name: str) -> Mutant:
    return next(m for m in mutants() if (m.subject, m.bug) == (subject, name))


BUGS = [
    bug("batch_norm", "ε 1.1 times"),
    bug("batch_norm", "no x̂ term in dx"),
    bug("batch_norm", "biased running variance"),
    bug("dropout", "no scale in backward"),
    bug("cross_entropy", "gradient not divided"),
    bug("Adam", "ε ten times"),
    bug("Adam", "t off by one"),
    bug("relu", "gradient everywhere"),
    bug("linear", "dW of the first example"),
]


@pytest.mark.parametrize("mutant", BUGS, ids=lambda m: f"{m.subject}: {m.bug}")
def test_a_planted_bug_fails(mutant: Mutant, builtin: Runs) -> None:
    with planted(mutant):
        assert not judge("mlp", builtin).passed


def test_the_conv_net_is_watched_too(builtin: Runs) -> None:
    with planted(bug("batch_norm", "ε 1.1 times")):
        assert not judge("conv", builtin).passed


def test_a_wrong_running_variance_is_all_that_fails(builtin: Runs) -> None:
    with planted(bug("batch_norm", "biased running variance")):
        failed = judge("mlp", builtin).failures
    assert {row.quantity for row in failed} == {"norm1.running_var", "norm2.running_var"}


def test_another_mask_fails(builtin: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def other_mask(input: Any, p: float, name: str) -> Any:
        return torch.rand_like(input) >= p

    monkeypatch.setattr("verification.training.lockstep.next_mask", other_mask)
    assert not judge("mlp", builtin).passed


def test_the_perturbed_run_differs_a_little(builtin: Runs) -> None:
    for config in CONFIGS:
        rows = compare("x", "x", builtin[config, True], *[builtin[config, False]] * 2)
        assert Report(rows).passed
        assert rows[0].error > 0


def test_a_run_is_reproducible(builtin: Runs) -> None:
    again, first = record("mlp", "torch", QUICK_STEPS), builtin["mlp", False]
    assert (again.losses == first.losses).all()
    assert all((again.state[name] == value).all() for name, value in first.state.items())


def test_a_recording_holds_the_whole_run(builtin: Runs) -> None:
    run = builtin["mlp", False]
    assert run.losses.shape == (QUICK_STEPS,)
    assert run.losses.dtype == "float64"
    assert run.losses[-1] < run.losses[0] / 2
    assert {v.dtype.name for v in run.state.values()} == {"float64", "int64"}
    parameters = {name for name in run.state if name.endswith(("weight", "bias"))}
    assert set(run.gradients) == parameters
    assert all((g >= 0).all() and g.any() for g in run.gradients.values())


Make = Callable[[str, Implementation], tuple[Classifier, DigitsDataModule, int]]


def net_with_bias(lr: float) -> Make:
    """A net with a bias before its batch norm: nothing but rounding moves it."""

    def build(config: str, implementation: Implementation) -> Any:
        torch.manual_seed(0)
        of = layers(implementation)
        net = nn.Sequential(
            nn.Flatten(), of.Linear(64, 16), of.BatchNorm1d(16), of.ReLU(), of.Dropout(0.3),
            of.Linear(16, 10),
        )  # fmt: skip
        if implementation == "refnet":
            torch.rand(7)  # the masks may not depend on what was drawn before the training
        model = Classifier(
            net,
            optimizer=lambda params: refnet.optim.Adam(params, lr=lr),
            implementation=implementation,
        )
        return model, DigitsDataModule(), 0

    return build


def rows_with_bias(monkeypatch: pytest.MonkeyPatch, lr: float = 0.003) -> list[Row]:
    monkeypatch.setattr(lockstep, "_build", net_with_bias(lr))
    ours, theirs = record("-", "refnet", QUICK_STEPS), record("-", "torch", QUICK_STEPS)
    perturbed = record("-", "torch", QUICK_STEPS, perturbed=True)
    return compare("net", "bias before a batch norm", ours, theirs, perturbed)


@pytest.mark.parametrize("lr", [0.003, 0.05])
def test_a_bias_before_a_batch_norm_is_listed_apart(
    lr: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_with_bias(monkeypatch, lr)
    Report(rows).raise_if_failed()
    assert [row.quantity for row in rows if row.verdict == "null direction"] == ["1.bias"]
    assert [row.verdict for row in rows if row.quantity == "1.weight"] == ["as good"]


def test_a_bug_beside_null_directions_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with planted(bug("batch_norm", "ε 1.1 times")):
        assert not Report(rows_with_bias(monkeypatch)).passed


@pytest.mark.parametrize(("quick", "steps"), [(True, QUICK_STEPS), (False, STEPS)])
def test_the_suite_compares_every_configuration(
    quick: bool, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def recorded(config: str, which: str, *size: Any, perturbed: bool = False) -> Any:
        asked.append(size)
        return config, which, perturbed

    def compared(subject: str, case: str, *runs: Any) -> list[Any]:
        return [subject, case, *runs]

    monkeypatch.setattr(lockstep, "record", recorded)
    monkeypatch.setattr(lockstep, "compare", compared)
    found: list[Any] = list(suite(quick=quick, device="cuda"))
    assert STEPS >= 200
    parties = [("refnet", False), ("torch", False), ("torch", True)]
    assert found == [
        ["lockstep", f"{name}, {steps} steps", *((name, *party) for party in parties)]
        for name in ("mlp", "conv")
    ]
    assert set(asked) == {(steps, "cuda")}


def test_an_unknown_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="no_such_config"):
        record("no_such_config", "refnet", 1)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="banana"):
        record("mlp", "refnet", 1, "banana")
