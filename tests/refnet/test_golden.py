"""The numbers that the lecture works out, from the code that it asks for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer

import refnet
from lightning_modules import DigitsDataModule
from refnet import functional as R
from refnet.ops.batch_norm import reference as batch_norm
from refnet.ops.linear import reference as linear

double = {"dtype": torch.float64}


def trajectory(optimizer: Optimizer, param: Tensor, gradients: list[float]) -> list[float]:
    found = []
    for gradient in gradients:
        param.grad = torch.full_like(param, gradient)
        optimizer.step()
        found.append(param.item())
    return found


def weight() -> Tensor:
    return torch.nn.Parameter(torch.zeros(1, **double))


def test_softmax() -> None:
    """z = [5, 2, −1, 3]: Σ e^z = 176.3, a = [0.842, 0.042, 0.002, 0.114]."""
    z = torch.tensor([5.0, 2.0, -1.0, 3.0], **double)
    assert round(z.exp().sum().item(), 1) == 176.3
    assert [round(a, 3) for a in R.softmax(z, 0).tolist()] == [0.842, 0.042, 0.002, 0.114]
    hard = torch.tensor([1.0, 0.0, 0.0, 0.0], **double)
    assert torch.equal(R.softmax(1000 * z, 0), hard)  # the lecture's hard max, in the limit


def test_cross_entropy() -> None:
    """ŷ = [0.3, 0.2, 0.1, 0.4], class 2 of 1…4: L = −log 0.2, dZ = A − Y."""
    a = torch.tensor([[0.3, 0.2, 0.1, 0.4]], **double)
    z = a.log().requires_grad_()
    loss = R.cross_entropy(z, torch.tensor([1]))
    assert loss.item() == pytest.approx(-math.log(0.2), abs=1e-15)
    loss.backward()
    expected = a - torch.tensor([[0.0, 1.0, 0.0, 0.0]], **double)
    torch.testing.assert_close(z.grad, expected, atol=1e-16, rtol=1e-15)


def test_cost_is_the_mean_over_the_examples() -> None:
    z, y = torch.randn(7, 4, **double), torch.arange(7) % 4
    each = R.cross_entropy(z, y, reduction="none")
    assert R.cross_entropy(z, y).item() == pytest.approx(each.sum().item() / 7, abs=1e-15)


def test_dropout_shuts_off_20_of_100_units() -> None:
    """keep_prob 0.8: about 20 of 100 units shut off, the mean stays."""
    generator = torch.Generator().manual_seed(0)
    units = torch.ones(10_000, 100)
    a = R.dropout(units, p=0.2, generator=generator)
    assert (a == 0).sum(1).float().mean().item() == pytest.approx(20, abs=0.2)
    assert a.mean().item() == pytest.approx(1, abs=0.005)
    assert a.unique().tolist() == [0, 1.25]
    assert torch.equal(R.dropout(units, p=0.2, training=False), units)


def test_bias_correction() -> None:
    """β = 0.98: V₂ = 0.0196 θ₁ + 0.02 θ₂, corrected 0.495 θ₁ + 0.505 θ₂."""
    plain, corrected = [], []
    for gradients in ([1.0, 0.0], [0.0, 1.0]):
        for found, correction in ((plain, False), (corrected, True)):
            w = weight()
            optimizer = refnet.optim.Momentum([w], lr=1, momentum=0.98, bias_correction=correction)
            steps = trajectory(optimizer, w, gradients)
            found.append(steps[0] - steps[1])  # the second step is V₂
    assert plain == pytest.approx([0.0196, 0.02], abs=1e-15)
    assert [round(v, 3) for v in corrected] == [0.495, 0.505]
    w = weight()
    optimizer = refnet.optim.Momentum([w], lr=1, momentum=0.98, bias_correction=True)
    assert trajectory(optimizer, w, [40.0]) == pytest.approx([-40.0], abs=1e-13)  # V₁ = θ₁


def test_momentum_averages_with_weights_01_09_k() -> None:
    """V₁₀₀ = 0.1 Σ 0.9^k θ_{100−k}."""
    theta = torch.randn(100, generator=torch.Generator().manual_seed(0), **double).tolist()
    w = weight()
    optimizer = refnet.optim.Momentum([w], lr=1, momentum=0.9)
    trajectory(optimizer, w, theta)
    expansion = sum(0.1 * 0.9**k * theta[99 - k] for k in range(100))
    v = optimizer.state[w]["momentum_buffer"].item()
    assert v == pytest.approx(expansion, abs=1e-15)


@pytest.mark.parametrize(("momentum", "days"), [(0.9, 10), (0.98, 50), (0.5, 2)])
def test_an_average_over_one_in_one_minus_beta(momentum: float, days: int) -> None:
    """V averages over about 1/(1 − β): what is older counts (1 − 1/e) less, or for β = 0.5, 3/4."""
    assert round(1 / (1 - momentum)) == days
    w = weight()
    optimizer = refnet.optim.Momentum([w], lr=1, momentum=momentum)
    trajectory(optimizer, w, [1.0] * days)
    recent = optimizer.state[w]["momentum_buffer"].item()  # the last `days` values' share
    assert recent == pytest.approx(1 - momentum**days, abs=1e-15)
    assert recent > 1 - 1 / math.e


def test_momentum_first_step() -> None:
    """V₀ = 0: V = 0.1 dW, W = −α · 0.1 dW."""
    w = weight()
    optimizer = refnet.optim.Momentum([w], lr=0.5, momentum=0.9)
    assert trajectory(optimizer, w, [3.0]) == pytest.approx([-0.15], abs=1e-16)


@pytest.mark.parametrize("inside", [False, True])
def test_rmsprop_first_step(inside: bool) -> None:
    """S = (1 − β) dW²; W −= α dW / √(S + ε), ε = 1e-8 inside the root, or outside as in torch."""
    w, dw, beta, eps = weight(), 1e-4, 0.9, 1e-8
    optimizer = refnet.optim.RMSprop([w], lr=0.1, alpha=beta, eps=eps, eps_inside_root=inside)
    s = (1 - beta) * dw**2
    step = 0.1 * dw / (math.sqrt(s + eps) if inside else math.sqrt(s) + eps)
    assert trajectory(optimizer, w, [dw]) == pytest.approx([-step], rel=1e-14)


def test_adam_defaults_and_first_step() -> None:
    """β₁ 0.9, β₂ 0.999, ε 1e-8; after correction V̂ = dW and Ŝ = dW²: W −= α dW / (|dW| + ε)."""
    w, dw = weight(), 1e-7
    optimizer = refnet.optim.Adam([w], lr=0.01)
    assert optimizer.defaults["betas"] == (0.9, 0.999)
    assert optimizer.defaults["eps"] == 1e-8
    assert trajectory(optimizer, w, [dw]) == pytest.approx([-0.01 * dw / (dw + 1e-8)], rel=1e-12)


def test_batch_norm_gamma_and_beta_give_the_identity() -> None:
    """γ = √(σ² + ε) and β = μ undo the normalization."""
    z = torch.randn(16, 3, **double) * 5 + 7
    mean, var = z.mean(0), (z - z.mean(0)).square().mean(0)
    out = R.batch_norm(z, None, None, (var + 1e-5).sqrt(), mean, training=True)
    torch.testing.assert_close(out, z, atol=1e-14, rtol=1e-15)


@pytest.mark.parametrize("shape", [(2, 3), (16, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_batch_norm_backward_is_the_lectures_chain(shape: tuple[int, ...]) -> None:
    """dz_norm, dσ², dμ, dz step by step, and the collapsed form, are the same."""
    z, dy = torch.randn(shape, **double), torch.randn(shape, **double)
    gamma = torch.randn(3, **double)
    mean, var = batch_norm.statistics(z)
    inv_std = batch_norm.inverse_std(var, 1e-5)
    m = batch_norm.count(z)
    collapsed = batch_norm.backward(dy, z, gamma, mean, inv_std, m)
    chain = batch_norm.lecture_backward(dy, z, gamma, 1e-5)
    for ours, lecture in zip(collapsed, chain, strict=True):
        torch.testing.assert_close(ours, lecture, rtol=1e-9, atol=1e-11)


def test_a_bias_before_batch_norm_cancels() -> None:
    z, b = torch.randn(16, 3, **double), torch.randn(3, **double)
    out, shifted = (R.batch_norm(t, None, None, training=True) for t in (z, z + b))
    torch.testing.assert_close(out, shifted, atol=1e-13, rtol=1e-13)


def test_batch_norm_at_test_time() -> None:
    """The running statistics are exponentially weighted averages over the mini-batches."""
    layer = refnet.nn.BatchNorm1d(2, momentum=0.1, dtype=torch.float64)
    batches = [torch.randn(8, 2, **double) for _ in range(5)]
    mean, var = torch.zeros(2, **double), torch.ones(2, **double)
    for batch in batches:
        layer(batch)
        mean = 0.9 * mean + 0.1 * batch.mean(0)
        var = 0.9 * var + 0.1 * batch.var(0, unbiased=True)
    torch.testing.assert_close(layer.running_mean, mean, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(layer.running_var, var, rtol=1e-14, atol=1e-15)
    z = torch.randn(1, 2, **double)
    expected = (z - mean) / (var + 1e-5).sqrt()
    torch.testing.assert_close(layer.eval()(z), expected, rtol=1e-14, atol=1e-15)


def test_linear_is_the_lectures_formula_transposed() -> None:
    """z = W a + b, dW = dz aᵀ, da = Wᵀ dz, with examples in columns."""
    a, w, b = (torch.randn(*s, **double) for s in ((3, 5), (4, 3), (4, 1)))
    dz = torch.randn(4, 5, **double)
    rows = linear.forward(a.T, w, b.squeeze(1))
    torch.testing.assert_close(rows.T, w @ a + b)
    torch.testing.assert_close(linear.backward_weight(dz.T, a.T, w.shape), dz @ a.T)
    torch.testing.assert_close(linear.backward_input(dz.T, w).T, w.T @ dz)
    torch.testing.assert_close(linear.backward_bias(dz.T, torch.Size([4])), dz.sum(1))


def test_sigmoid_derivative_is_at_most_a_quarter() -> None:
    z = torch.linspace(-8, 8, 1001, **double, requires_grad=True)
    (slope,) = torch.autograd.grad(R.sigmoid(z).sum(), z)
    assert slope.max().item() == pytest.approx(0.25, abs=1e-15)
    assert slope.argmax().item() == 500


def test_weight_decay_is_the_l2_update() -> None:
    """W − α (dW + λ/m W) = (1 − α λ/m) W − α dW."""
    w = torch.nn.Parameter(torch.tensor([2.0], **double))
    optimizer = refnet.optim.SGD([w], lr=0.1, weight_decay=0.3)
    assert trajectory(optimizer, w, [5.0]) == pytest.approx([(1 - 0.1 * 0.3) * 2 - 0.1 * 5])


@pytest.mark.parametrize(
    ("name", "options", "factors"),
    [
        ("InverseTimeDecay", {"decay_rate": 1.0}, [1, 1 / 2, 1 / 3, 1 / 4]),
        ("ExponentialDecay", {}, [1, 0.95, 0.95**2, 0.95**3]),
        ("InverseSqrtDecay", {"k": 2.0}, [2, 2 / 2**0.5, 2 / 3**0.5, 1]),
    ],
)
def test_learning_rate_decay(name: str, options: dict[str, float], factors: list[float]) -> None:
    optimizer = refnet.optim.SGD([weight()], lr=0.2)
    schedule = getattr(refnet.optim.lr_scheduler, name)(optimizer, **options)
    found = []
    for _ in factors:
        found += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert found == pytest.approx([0.2 * factor for factor in factors], rel=1e-15)


def test_mini_batches() -> None:
    """T = ⌈m / size⌉: 5,000,000 examples by 1,000 are 5,000 mini-batches."""
    sampler = torch.utils.data.BatchSampler(range(5_000_000), 1_000, drop_last=False)
    assert len(sampler) == 5_000
    for size in (1, 64, 1257):  # stochastic, mini-batch, batch gradient descent
        data = DigitsDataModule(batch_size=size)
        data.setup()
        m = len(data.dataset("train"))
        assert len(data.train_dataloader()) == math.ceil(m / size)
