"""The exponentially weighted average: the lecture's numbers, pandas, and the optimizers' states."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from refnet import optim
from refnet.averages import ExponentialAverage, corrected_beta, exponential_average

BETAS = (0.0, 0.5, 0.9, 0.98, 0.999)
rng = np.random.default_rng(0)
VALUES = [float(v) for v in rng.normal(20, 5, 200)]


@pytest.mark.parametrize(("beta", "window"), [(0.9, 10), (0.98, 50), (0.5, 2)])
def test_golden_window(beta: float, window: int) -> None:
    average = ExponentialAverage[float](beta)
    assert average.window == pytest.approx(window, rel=1e-14)
    assert beta**window == pytest.approx(1 / math.e, abs=0.12)  # the lecture's 0.9¹⁰ ≈ 0.35 ≈ 1/e


def test_golden_v100_is_the_sum_of_the_weighted_values() -> None:
    """V₁₀₀ = 0.1 θ₁₀₀ + 0.1·0.9 θ₉₉ + 0.1·0.9² θ₉₈ + …"""
    average = ExponentialAverage[float](beta=0.9)
    for value in VALUES[:100]:
        average.update(value)
    expanded = math.fsum(0.1 * 0.9**k * VALUES[99 - k] for k in range(100))
    assert average.value == pytest.approx(expanded, rel=1e-14)


@pytest.mark.parametrize("values", [(1.0, 0.0), (0.0, 1.0), (3.0, -7.0)])
def test_golden_bias_correction(values: tuple[float, float]) -> None:
    """β = 0.98: V₂ = 0.0196 θ₁ + 0.02 θ₂, corrected 0.495 θ₁ + 0.505 θ₂."""
    average = ExponentialAverage[float](beta=0.98)
    for value in values:
        average.update(value)
    assert average.value == pytest.approx(0.0196 * values[0] + 0.02 * values[1], rel=1e-14)
    expected = 0.0196 / 0.0396 * values[0] + 0.02 / 0.0396 * values[1]
    assert average.corrected == pytest.approx(expected, rel=1e-13)
    assert (round(0.0196 / 0.0396, 3), round(0.02 / 0.0396, 3)) == (0.495, 0.505)


@pytest.mark.parametrize("beta", BETAS)
def test_pandas(beta: float) -> None:
    """ewm starts from θ₁ when it does not adjust, from 0 with a zero laid before the values."""
    plain = ExponentialAverage[float](beta)
    corrected = ExponentialAverage[float](beta, bias_correction=True)
    ours = np.array([plain.update(value) for value in VALUES])
    ours_corrected = np.array([corrected.update(value) for value in VALUES])
    series = pd.Series(VALUES)
    from_zero = pd.Series([0.0, *VALUES]).ewm(alpha=1 - beta, adjust=False).mean()[1:]
    np.testing.assert_allclose(ours, from_zero, rtol=1e-13, atol=0)
    from_first = series.ewm(alpha=1 - beta, adjust=False).mean()
    powers = beta ** np.arange(1, len(VALUES) + 1)
    np.testing.assert_allclose(ours + powers * VALUES[0], from_first, rtol=1e-13, atol=0)
    adjusted = series.ewm(alpha=1 - beta, adjust=True).mean()
    np.testing.assert_allclose(ours_corrected, adjusted, rtol=1e-13, atol=0)


@pytest.mark.parametrize("beta", BETAS)
def test_an_average_that_is_kept_corrected(beta: float) -> None:
    average = ExponentialAverage[float](beta)
    kept = math.nan  # has no weight in the first average
    for count, value in enumerate(VALUES, 1):
        before = average.value if count > 1 else 0.0
        average.update(value)
        assert exponential_average(before, value, beta, count) == average.corrected
        beta_t = corrected_beta(beta, count)
        kept = value if count == 1 else exponential_average(kept, value, beta_t)
        assert kept == pytest.approx(average.corrected, rel=1e-13)
    assert corrected_beta(beta, 1) == 0
    assert corrected_beta(beta, 10**6) == beta


def test_numbers_arrays_and_tensors_agree() -> None:
    rows = rng.normal(size=(20, 3))
    arrays, tensors = ExponentialAverage[Any](0.9), ExponentialAverage[Any](0.9)
    numbers = [ExponentialAverage[float](0.9) for _ in range(3)]
    for row in rows:
        a, t = arrays.update(row), tensors.update(torch.from_numpy(row))
        n = [average.update(float(x)) for average, x in zip(numbers, row, strict=True)]
        assert a.tolist() == t.tolist() == n
    assert arrays.corrected.tolist() == tensors.corrected.tolist()


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64)


@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensors_average_keeps_dtype_and_device_and_no_graph(
    dtype: torch.dtype, correct: bool
) -> None:
    for device in ("cpu", "meta"):
        average = ExponentialAverage[torch.Tensor](0.9, bias_correction=correct)
        for _ in range(3):
            value = torch.ones(2, dtype=dtype, device=device, requires_grad=True) * 2
            found = average.update(value)
            assert (found.dtype, found.device) == (value.dtype, value.device)
            assert not found.requires_grad
            assert value.requires_grad


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_arrays_average_keeps_its_dtype(dtype: Any) -> None:
    average = ExponentialAverage[Any](0.9, bias_correction=True)
    for _ in range(3):
        assert average.update(np.ones(2, dtype)).dtype == dtype
        assert average.value.tolist() == pytest.approx([1, 1], rel=1e-6)


def test_integers_become_floating() -> None:
    for ones in (1, np.ones((), np.int64), torch.ones((), dtype=torch.int64)):
        assert float(ExponentialAverage[Any](0.75).update(ones)) == 0.25


def test_values_are_not_changed_and_not_kept() -> None:
    value = torch.ones(2)
    average = ExponentialAverage[torch.Tensor](0.0)
    first = average.update(value)
    value.fill_(7)
    assert first.tolist() == [1, 1]
    average.update(value)
    assert first.tolist() == [1, 1]


@pytest.mark.parametrize("make", [float, lambda v: torch.tensor([v, 2 * v])])
def test_state_goes_through_a_file(make: Any) -> None:
    average = ExponentialAverage[Any](0.98, bias_correction=True)
    resumed = ExponentialAverage[Any](0.5, bias_correction=True)
    resumed.load_state_dict(average.state_dict())  # before the first value
    assert (resumed.beta, resumed.count) == (0.98, 0)
    for value in VALUES[:5]:
        average.update(make(value))
    file = io.BytesIO()
    torch.save(average.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for value in VALUES[5:10]:
        a, b = average.update(make(value)), resumed.update(make(value))
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    assert repr(resumed) == (
        "ExponentialAverage(beta=0.98, bias_correction=True, window=50, count=10)"
    )


@pytest.mark.parametrize("beta", [1.0, -0.1, math.nan, 2])
def test_beta_outside_its_range(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got"):
        ExponentialAverage(beta)
    state = ExponentialAverage[float](0.9).state_dict() | {"beta": beta}
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got"):
        ExponentialAverage[float](0.9).load_state_dict(state)


def test_errors_of_values() -> None:
    average = ExponentialAverage[Any]()
    for name in ("value", "corrected"):
        with pytest.raises(ValueError, match="before its first update"):
            getattr(average, name)
    average.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"shape \(3,\), the ones before had \(2, 3\)"):
        average.update(torch.ones(3))
    assert average.count == 1


# optimizer, its options, β, the name of the state, what of the gradient is averaged
STATES: list[tuple[str, dict[str, Any], float, str, Any]] = [
    ("Momentum", {"momentum": 0.9}, 0.9, "momentum_buffer", lambda dw: dw),
    ("RMSprop", {"alpha": 0.95}, 0.95, "square_avg", lambda dw: dw * dw),
    ("RMSprop", {"alpha": 0.95, "centered": True}, 0.95, "grad_avg", lambda dw: dw),
    ("Adam", {"betas": (0.9, 0.999)}, 0.9, "exp_avg", lambda dw: dw),
    ("Adam", {"betas": (0.9, 0.999)}, 0.999, "exp_avg_sq", lambda dw: dw * dw),
    ("AdamW", {"betas": (0.8, 0.99)}, 0.8, "exp_avg", lambda dw: dw),
    ("AdamW", {"betas": (0.8, 0.99)}, 0.99, "exp_avg_sq", lambda dw: dw * dw),
]


BOTH = [
    (package, *row) for package in (optim, torch.optim) for row in STATES if row[0] in dir(package)
]


@pytest.mark.parametrize(("package", "name", "options", "beta", "state", "of"), BOTH)
def test_states_of_the_optimizers_are_this_average(
    package: Any, name: str, options: dict[str, Any], beta: float, state: str, of: Any
) -> None:
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = getattr(package, name)([w], lr=0.01, weight_decay=0, **options)
    average = ExponentialAverage[torch.Tensor](beta)
    sizes = ExponentialAverage[torch.Tensor](beta)  # of |θ|: what the rounding is relative to
    for _ in range(100):
        w.grad = torch.randn_like(w)
        optimizer.step()
        expected, size = average.update(of(w.grad)), sizes.update(of(w.grad).abs())
        assert ((optimizer.state[w][state] - expected).abs() <= 1e-14 * size).all()
    assert optimizer.state[w]["step"] == average.count


def test_bias_corrected_momentum_steps_by_the_corrected_average() -> None:
    torch.manual_seed(0)
    w = torch.nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer = optim.Momentum([w], lr=0.1, bias_correction=True)
    average = ExponentialAverage[torch.Tensor](0.9, bias_correction=True)
    for _ in range(20):
        w.grad, before = torch.randn_like(w), w.detach().clone()
        optimizer.step()
        torch.testing.assert_close(w, before - 0.1 * average.update(w.grad), rtol=0, atol=1e-15)


def test_the_value_is_the_callers_own() -> None:
    average = ExponentialAverage(0.9)
    average.update(torch.ones(2)).mul_(100)
    torch.testing.assert_close(average.value, torch.full((2,), 0.1))


def test_the_state_says_whether_it_is_corrected() -> None:
    corrected = ExponentialAverage(0.9, bias_correction=True)
    corrected.update(1.0)
    other = ExponentialAverage(0.9)
    other.load_state_dict(corrected.state_dict())
    assert other.value == corrected.value == pytest.approx(1.0)
