"""Judging whole training runs: bounds, null directions, and runs that tell nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from verification.report import Report, Row
from verification.training.lockstep import Recording, compare, perturb

NAN, INF = float("nan"), float("inf")


def recording(**changes: Any) -> Recording:
    run = Recording(
        losses=np.array([4.0, 2.0, 1.0]),
        state={
            "weight": np.array([2.0, -1.0, 0.5]),
            "bias": np.array([0.5, 0.25]),
            "running_mean": np.array([1.0, 3.0]),
            "count": np.array(3),
        },
        gradients={"weight": np.array([1.0, 0.1, 0.01]), "bias": np.array([0.1, 0.1])},
    )
    return replace(run, **changes)


def losses(step: int, error: float) -> Recording:
    """A run whose loss is off at one step, relatively."""
    values = recording().losses.copy()
    values[step] *= 1 + error
    return recording(losses=values)


def state(name: str, index: int, error: float, run: Recording | None = None) -> Recording:
    """A run with an element of the final state off."""
    run = run or recording()
    values = run.state[name].copy()
    values[index] += error
    return replace(run, state={**run.state, name: values})


def judge(
    candidate: Recording, builtin: Recording | None = None, perturbed: Recording | None = None
) -> dict[str, Row]:
    builtin = builtin or recording()
    rows = compare("net", "case", candidate, builtin, perturbed or builtin)
    return {row.quantity: row for row in rows}


def failed(rows: dict[str, Row]) -> set[str]:
    return {row.quantity for row in Report(list(rows.values())).failures}


LOSS = "loss, 3 steps"


def test_the_same_run_passes_and_nothing_is_left_out() -> None:
    rows = judge(recording())
    assert set(rows) == {LOSS, "weight", "bias", "running_mean", "count"}
    assert {row.verdict for row in rows.values()} == {"as good"}
    assert {row.error for row in rows.values()} == {0.0}


@pytest.mark.parametrize(
    ("candidate", "wrong"),
    [
        (losses(1, 0.9e-10), set()),
        (losses(1, 1.1e-10), {LOSS}),
        (losses(2, -1.1e-10), {LOSS}),
        (losses(0, NAN), {LOSS}),
        (losses(0, INF), {LOSS}),
        (state("weight", 2, 1.9e-8), set()),  # the largest weight is 2
        (state("weight", 2, 2.1e-8), {"weight"}),
        (state("bias", 0, -0.6e-8), {"bias"}),
        (state("running_mean", 0, 3.1e-8), {"running_mean"}),
        (state("weight", 0, NAN), {"weight"}),
        (state("weight", 0, INF), {"weight"}),
        (state("count", (), 1), {"count"}),  # type: ignore[arg-type]
    ],
)
def test_bounds(candidate: Recording, wrong: set[str]) -> None:
    assert failed(judge(candidate)) == wrong


@pytest.mark.parametrize(
    ("candidate", "perturbed", "wrong"),
    [
        (losses(1, 0.9e-8), losses(1, 1e-9), set()),
        (losses(1, 1.1e-8), losses(1, 1e-9), {LOSS}),
        (losses(2, 0.9e-8), losses(1, 1e-9), set()),  # what differed once stays a distance
        (losses(0, 0.9e-8), losses(1, 1e-9), {LOSS}),
        (state("weight", 0, 0.9e-6), state("weight", 2, 1e-7), set()),
        (state("weight", 0, 1.2e-6), state("weight", 2, 1e-7), {"weight"}),
        (state("weight", 0, 1e-6), state("bias", 0, 1e-7), {"weight"}),
    ],
)
def test_ten_times_the_perturbed_run(
    candidate: Recording, perturbed: Recording, wrong: set[str]
) -> None:
    assert failed(judge(candidate, perturbed=perturbed)) == wrong


def test_the_rule_and_the_perturbed_run_are_shown() -> None:
    rows = judge(recording(), perturbed=losses(1, 1e-9))
    assert rows[LOSS].rule == "1e-10"
    row = judge(losses(2, 1e-8), perturbed=losses(1, 1e-9))[LOSS]
    assert row.rule == "10·(1 ulp run)"
    assert row.builtin_error == pytest.approx(1e-9)
    assert row.bound == pytest.approx(1e-8)


@pytest.mark.parametrize(
    ("candidate", "note"),
    [
        (losses(1, 1e-12), "worst at step 1"),
        (recording(losses=np.array([4.0, 2.0 + 1e-6, 9.0])), "first at step 1"),
    ],
)
def test_the_step_is_named(candidate: Recording, note: str) -> None:
    assert judge(candidate)[LOSS].note == note


@pytest.mark.parametrize("error", [0.11, NAN, INF])
@pytest.mark.parametrize("step", [0, 2])
def test_noise_as_large_as_the_loss_is_inconclusive(error: float, step: int) -> None:
    row = judge(recording(), perturbed=losses(step, error))[LOSS]
    assert (row.verdict, row.note) == ("inconclusive", f"first at step {step}")


@pytest.mark.parametrize("error", [0.21, NAN, INF])
def test_noise_as_large_as_the_weights_is_inconclusive(error: float) -> None:
    rows = judge(recording(), perturbed=state("weight", 1, error))
    assert rows["weight"].verdict == "inconclusive"
    assert failed(rows) == {"weight"}


def test_runs_that_all_diverge_do_not_pass() -> None:
    nan = recording(losses=np.full(3, NAN))
    assert failed(judge(nan, nan, nan)) == {LOSS}


def test_an_error_before_the_noise_is_found() -> None:
    row = judge(losses(0, 1e-3), perturbed=losses(2, NAN))[LOSS]
    assert (row.verdict, row.note) == ("another function", "first at step 0")


def test_losses_of_zero_agree() -> None:
    zero = recording(losses=np.zeros(3))
    assert failed(judge(zero, zero)) == set()
    assert failed(judge(recording(losses=np.array([0, 0, 1e-9])), zero)) == {LOSS}


def with_null(sizes: list[float]) -> Recording:
    gradients = recording().gradients
    return recording(gradients={**gradients, "bias": np.array(sizes)})


@pytest.mark.parametrize(
    ("sizes", "theirs", "null"),
    [
        ([1e-13, 1e-17], [1e-17, 1e-13], "2 of 2 elements"),
        ([1e-13, 0.1], [1e-13, 0.1], "1 of 2 elements"),
        ([0.9e-12, 0.1], [0.9e-12, 0.1], "1 of 2 elements"),  # of the largest gradient, 1
        ([0.9e-12, 0.1], [1.1e-12, 0.1], None),
        ([1.1e-12, 0.1], [0.9e-12, 0.1], None),
        ([1e-13, 0.1], [0.0, 0.1], "1 of 2 elements"),  # one rounds, the other doesn't
        ([0.0, 0.1], [1e-13, 0.1], "1 of 2 elements"),
        ([0.0, 0.1], [0.0, 0.1], None),  # never moved, so exact
        ([0.0, 0.0], [0.0, 0.0], None),
        ([0.5, 0.1], [1e-13, 0.1], None),  # the candidate has a gradient where there is none
        ([1e-13, 0.1], [0.5, 0.1], None),
    ],
)
def test_null_directions_are_listed_apart(
    sizes: list[float], theirs: list[float], null: str | None
) -> None:
    builtin = with_null(theirs)
    rows = compare("net", "case", state("bias", 0, 0.5, with_null(sizes)), builtin, builtin)
    listed = [row for row in rows if row.verdict == "null direction"]
    assert [row.note for row in listed] == ([null] if null else [])
    assert all((row.quantity, row.passed, row.error) == ("bias", True, 1.0) for row in listed)
    assert Report(rows).passed == (null is not None)


def test_the_others_of_a_tensor_with_null_directions_are_judged() -> None:
    builtin = with_null([1e-13, 0.1])
    rows = compare("net", "case", state("bias", 1, 1e-6, builtin), builtin, builtin)
    assert [(r.quantity, r.verdict) for r in rows if r.quantity == "bias"] == [
        ("bias", "another function"),
        ("bias", "null direction"),
    ]


def test_a_net_without_gradients_is_judged() -> None:
    frozen = recording(gradients={})
    assert failed(judge(state("weight", 0, 0.5), frozen)) == {"weight"}


@pytest.mark.parametrize(
    "value", [np.ones(2), np.ones((3, 1)), np.array([2, -1, 0]), np.ones(3, dtype=np.float32)]
)
def test_another_shape_or_dtype_fails(value: Any) -> None:
    run = recording()
    row = judge(replace(run, state={**run.state, "weight": value}))["weight"]
    assert (row.verdict, row.error) == ("another function", INF)
    assert str(value.shape) in row.note
    assert str(value.dtype) in row.note


@pytest.mark.parametrize("party", [0, 1, 2])
def test_runs_of_other_lengths_are_refused(party: int) -> None:
    runs = [recording(), recording(), recording()]
    runs[party] = recording(losses=np.ones(2))
    with pytest.raises(ValueError, match="same number of steps"):
        compare("net", "case", *runs)


def test_runs_without_steps_are_refused() -> None:
    empty = recording(losses=np.ones(0))
    with pytest.raises(ValueError, match=r"\[0, 0, 0\]"):
        compare("net", "case", empty, empty, empty)


@pytest.mark.parametrize("party", [0, 1, 2])
def test_states_of_other_names_are_refused(party: int) -> None:
    runs = [recording(), recording(), recording()]
    runs[party] = recording(state={"weight": np.ones(3)})
    with pytest.raises(ValueError, match="states differ"):
        compare("net", "case", *runs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_perturb_moves_every_parameter_by_one_ulp(dtype: torch.dtype) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(30, 20), torch.nn.BatchNorm1d(20)).to(dtype)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    perturb(net)
    for name, value in net.named_parameters():
        towards = torch.where(value > before[name], torch.inf, -torch.inf).to(dtype)
        assert torch.equal(value, torch.nextafter(before[name], towards))
    weight = net[0].weight
    assert 0.4 < (weight > before["0.weight"]).double().mean() < 0.6
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name])


def test_perturb_is_drawn_from_its_seed() -> None:
    def perturbed(seed: int) -> torch.Tensor:
        net = torch.nn.Linear(8, 8)
        torch.nn.init.ones_(net.weight)
        perturb(net, seed)
        return net.weight.detach()

    before = torch.get_rng_state()
    torch.manual_seed(0)
    one = perturbed(1)
    torch.manual_seed(5)
    assert torch.equal(one, perturbed(1))
    assert not torch.equal(one, perturbed(2))
    torch.set_rng_state(before)
