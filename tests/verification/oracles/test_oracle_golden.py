"""The numbers that the lecture works out, from the oracles."""

from __future__ import annotations

import numpy as np
import pytest

from verification.oracles import exact
from verification.oracles.activations import sigmoid
from verification.oracles.batch_norm import batch_norm
from verification.oracles.cross_entropy import cross_entropy
from verification.oracles.dropout import dropout
from verification.oracles.momentum import momentum
from verification.oracles.softmax import softmax

EPS = np.finfo(np.longdouble).eps


def test_softmax_of_the_slide() -> None:
    z = np.array([5.0, 2.0, -1.0, 3.0])
    a = softmax(z, dim=0, cotangent=np.ones(4)).values["output"]
    assert [round(float(v), 3) for v in a] == [0.842, 0.042, 0.002, 0.114]
    # a_i = e^z_i / sum: each element gives the sum back
    assert [round(float(v), 1) for v in np.exp(z) / a] == [176.3] * 4


def test_cross_entropy_of_the_slide() -> None:
    y_hat = exact([3, 2, 1, 4]) / 10  # not the floats 0.3, 0.2, 0.1, 0.4: their sum is not 1
    for target in (np.array(1), np.array([0.0, 1.0, 0.0, 0.0])):  # class 2 of 1...4, and one-hot
        result = cross_entropy(np.log(y_hat), target, cotangent=1.0).values
        assert abs(result["output"] + np.log(y_hat[1])) <= 10 * EPS
        assert np.abs(result["grad input"] - (y_hat - [0, 1, 0, 0])).max() <= 10 * EPS


def test_cost_is_the_mean_loss_and_its_gradient_a_minus_y() -> None:
    z, y = np.random.default_rng(0).normal(size=(5, 4)), np.array([0, 3, 1, 1, 2])
    a = softmax(z, dim=1, cotangent=z).values["output"]
    result = cross_entropy(z, y, cotangent=1.0).values
    assert abs(result["output"] + np.log(a[np.arange(5), y]).sum() / 5) <= 10 * EPS
    assert np.abs(result["grad input"] - (a - np.eye(4)[y]) / 5).max() <= 10 * EPS


def test_bias_correction_of_the_slide() -> None:
    # with lr = 1 and W = 0 the step is -V; a gradient of 1 in one place shows its share of V
    shares = [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    plain = momentum(np.zeros(2), shares, lr=1.0, momentum=0.98)
    v2 = plain[1]["momentum_buffer"]
    assert [round(float(v), 12) for v in v2] == [0.0196, 0.02]
    fixed = momentum(np.zeros(2), shares, lr=1.0, momentum=0.98, bias_correction=True)
    assert fixed[0]["param"][0] == -1  # V_1 corrected is theta_1
    step = fixed[0]["param"] - fixed[1]["param"]
    assert [round(float(v), 3) for v in step] == [0.495, 0.505]
    assert np.array_equal(fixed[1]["momentum_buffer"], v2)


def test_average_expands_to_powers_of_beta() -> None:
    theta = np.random.default_rng(0).normal(size=100)
    v = momentum([0.0], [[t] for t in theta], lr=1.0, momentum=0.9)[-1]["momentum_buffer"]
    beta = exact(0.9)
    expansion = sum((1 - beta) * beta**k * theta[99 - k] for k in range(100))
    assert abs(v[0] - expansion) <= 100 * EPS
    # the factor of theta_(100 - k) is 0.1 * 0.9^k
    impulse = momentum([0.0], [[1.0], *[[0.0]] * 99], lr=1.0, momentum=0.9)
    for k, step in enumerate(impulse):
        assert float(step["momentum_buffer"][0]) == pytest.approx(0.1 * 0.9**k, rel=1e-12, abs=0)


def test_scale_and_shift_can_undo_batch_norm() -> None:
    z, eps = np.random.default_rng(0).normal(size=(6, 3)) * 3 + 2, 0.1
    gamma, beta = np.sqrt(exact(z).var(0) + exact(eps)), exact(z).mean(0)
    result = batch_norm(z, None, None, gamma, beta, training=True, eps=eps, cotangent=z)
    assert np.abs(result.values["output"] - z).max() <= 100 * EPS


def test_bias_before_batch_norm_cancels() -> None:
    z, dy = np.random.default_rng(0).normal(size=(2, 6, 3))
    plain = batch_norm(z, None, None, training=True, cotangent=dy).values
    # shifted in longdouble: a sum rounded to float64 would be other data
    shifted = batch_norm(exact(z) + 8, None, None, training=True, cotangent=dy).values
    for quantity, value in plain.items():
        assert np.abs(shifted[quantity] - value).max() <= 1000 * EPS, quantity
    assert np.abs(plain["grad input"].sum(0)).max() <= 100 * EPS  # that bias has no gradient


def test_dropout_of_the_slide() -> None:
    mask = np.random.default_rng(0).random(100_000) < 0.8
    a = dropout(np.ones(100_000), p=1 - 0.8, mask=mask, cotangent=np.ones(100_000)).values["output"]
    assert 100 * float((a == 0).mean()) == pytest.approx(20, abs=0.5)  # of 100 units
    assert float(a.mean()) == pytest.approx(1, abs=0.01)


def test_slope_of_the_sigmoid_is_at_most_a_quarter() -> None:
    slope = sigmoid(np.linspace(-3, 3, 61), cotangent=np.ones(61)).values["grad input"]
    assert slope.max() == slope[30] == 0.25
