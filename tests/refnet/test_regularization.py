"""Penalties beside autograd and closed forms; proximal steps beside scikit-learn's minima."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet, Lasso, Ridge
from torch import Tensor, nn

import refnet
from refnet import optim
from refnet.regularization import (
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    proximal_l1,
    soft_threshold,
)

M = 10
PENALTIES: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "l2": (lambda w: l2_penalty(w, 0.7, M), lambda w: 0.7 / (2 * M) * (w * w).sum()),
    "l1": (lambda w: l1_penalty(w, 0.7, M), lambda w: 0.7 / (2 * M) * w.abs().sum()),
    "elastic net": (
        lambda w: elastic_net_penalty(w, 0.7, 0.3, M),
        lambda w: 0.7 / (2 * M) * w.abs().sum() + 0.3 / (2 * M) * (w * w).sum(),
    ),
}


def weights(*shape: int, requires_grad: bool = True) -> Tensor:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return w.requires_grad_(requires_grad)


@pytest.mark.parametrize("name", PENALTIES)
def test_values_and_gradients_are_those_of_the_formula(name: str) -> None:
    ours, formula = PENALTIES[name]
    w = weights(4, 3)
    torch.testing.assert_close(ours(w), formula(w), rtol=1e-15, atol=0)
    (a,), (b,) = (torch.autograd.grad(2.5 * f(w), w) for f in (ours, formula))
    torch.testing.assert_close(a, b, rtol=1e-15, atol=0)


def test_the_lectures_gradients() -> None:
    w = torch.tensor([2.0, 0.0, -3.0], dtype=torch.float64, requires_grad=True)
    (l2,) = torch.autograd.grad(l2_penalty(w, 5.0, M), w)
    (l1,) = torch.autograd.grad(l1_penalty(w, 5.0, M), w)
    assert l2.tolist() == [1.0, 0.0, -1.5]  # λ/m W
    assert l1.tolist() == [0.25, 0.0, -0.25]  # λ/(2m) sign(W)


# What torch says of its own forward mode and of its own compiler.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
@pytest.mark.filterwarnings("ignore:.* should not be instantiated")
@pytest.mark.parametrize("name", PENALTIES)
def test_every_derivative_and_transform(name: str) -> None:
    ours, formula = PENALTIES[name]
    w = weights(4, 3)
    assert torch.autograd.gradcheck(ours, w, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(ours, w, check_fwd_over_rev=True)
    v = w.detach()
    hessian = torch.func.hessian(ours)(v)
    torch.testing.assert_close(hessian, torch.func.hessian(formula)(v), rtol=1e-14, atol=0)
    per_row = torch.func.vmap(torch.func.grad(ours))(v)
    torch.testing.assert_close(per_row, torch.func.vmap(torch.func.grad(formula))(v))
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(v), formula(v), rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_sums_in_float32(dtype: torch.dtype) -> None:
    w = torch.full((500, 500), 3.0, dtype=dtype, requires_grad=True)  # the sum is 2.25e6
    penalty = l2_penalty(w, 1.0, M)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(500 * 500 * 9 / 20)
    penalty.backward()
    assert w.grad is not None
    assert w.grad.dtype == dtype
    assert float(w.grad[0, 0]) == pytest.approx(0.3, rel=1e-2)


def test_a_factor_of_zero_leaves_infinity_out() -> None:
    w = torch.tensor([float("inf"), 1.0])
    assert l1_penalty(w, 1.0, M).item() == float("inf")
    assert not l1_penalty(w, 0.0, M).isfinite()  # but there is no way around the term itself


def test_of_a_module_the_weights_alone_count() -> None:
    net = nn.Sequential(refnet.nn.Linear(3, 4), refnet.nn.BatchNorm1d(4), refnet.nn.Linear(4, 2))
    penalty = l2_penalty(net, 0.5, M)
    by_hand = sum(0.5 / (2 * M) * net[i].weight.square().sum() for i in (0, 2))
    torch.testing.assert_close(penalty, by_hand)
    penalty.backward()
    assert {n for n, p in net.named_parameters() if p.grad is not None} == {"0.weight", "2.weight"}
    assert l2_penalty([], 0.5, M).item() == 0


def regression(m: int = 60, n: int = 8) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, n))
    y = x @ np.array([3.0, -2.0, 0, 0, 1.0, 0, 0, 0.3])[:n] + 0.3 * rng.standard_normal(m)
    return torch.tensor(x), torch.tensor(y)


def minimize(
    l1: float = 0.0, l2: float = 0.0, *, penalty: bool = False, steps: int = 1000,
    make: Callable[..., torch.optim.Optimizer] = optim.SGD, lr: float = 0.3,
) -> Tensor:  # fmt: skip
    """Minimize 1/(2m) ‖y − Xw‖² + λ₁/(2m) ‖w‖₁ + λ₂/(2m) ‖w‖², L2 as decay or as penalty."""
    x, y = regression()
    w = nn.Parameter(torch.zeros(x.shape[1], dtype=torch.float64))
    decay = {} if penalty else {"weight_decay": l2 / len(x)}
    optimizer = make([w], lr=lr, **decay)
    if l1:
        proximal_l1(optimizer, l1 / (2 * len(x)))
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (x @ w - y).square().sum() / (2 * len(x))
        if penalty:
            loss = loss + l2_penalty(w, l2, len(x))
        loss.backward()
        optimizer.step()
    return w.detach()


@pytest.mark.parametrize("penalty", [True, False], ids=["loss term", "decay"])
@pytest.mark.parametrize("strength", [1.0, 40.0])
def test_l2_ends_at_the_closed_form_and_at_ridge(strength: float, penalty: bool) -> None:
    x, y = regression()
    found = minimize(l2=strength, penalty=penalty)
    closed = torch.linalg.solve(x.T @ x + strength * torch.eye(8, dtype=torch.float64), x.T @ y)
    torch.testing.assert_close(found, closed, rtol=1e-10, atol=1e-12)
    ridge = Ridge(alpha=strength, fit_intercept=False).fit(x.numpy(), y.numpy())
    torch.testing.assert_close(found, torch.tensor(ridge.coef_), rtol=1e-8, atol=1e-10)


def test_l2_as_a_loss_term_takes_the_same_path_as_decay() -> None:
    a, b = (minimize(l2=7.0, penalty=p, steps=20) for p in (True, False))
    torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
    assert (a - minimize(steps=20)).abs().max() > 1e-2


@pytest.mark.parametrize("strength", [2.0, 20.0, 60.0])
def test_proximal_steps_end_at_lasso(strength: float) -> None:
    x, y = regression()
    found = minimize(l1=strength)
    lasso = Lasso(alpha=strength / (2 * len(x)), fit_intercept=False, tol=1e-14, max_iter=10**6)
    expected = torch.tensor(lasso.fit(x.numpy(), y.numpy()).coef_)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    assert torch.equal(found == 0, expected == 0)


def test_both_end_at_elastic_net() -> None:
    x, y = regression()
    l1, l2, m = 20.0, 10.0, len(x)
    found = minimize(l1=l1, l2=l2)
    alpha = l1 / (2 * m) + l2 / m  # scikit-learn: α ρ ‖w‖₁ + ½ α (1 − ρ) ‖w‖²
    ratio = l1 / (2 * m) / alpha
    net = ElasticNet(alpha=alpha, l1_ratio=ratio, fit_intercept=False, tol=1e-14, max_iter=10**6)
    expected = torch.tensor(net.fit(x.numpy(), y.numpy()).coef_)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_the_share_of_exact_zeros_grows_with_the_strength() -> None:
    zeros = [int((minimize(l1=strength) == 0).sum()) for strength in (0.0, 5.0, 30.0, 150.0, 1e4)]
    assert zeros == sorted(zeros)
    assert (zeros[0], zeros[-1]) == (0, 8)
    assert len(set(zeros)) >= 4


def test_the_subgradient_makes_no_zeros() -> None:
    x, y = regression()
    w = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    optimizer = optim.SGD([w], lr=0.3)
    for _ in range(500):
        optimizer.zero_grad()
        ((x @ w - y).square().sum() / 120 + l1_penalty(w, 60.0, 60)).backward()
        optimizer.step()
    assert int((w == 0).sum()) == 0
    assert int((minimize(l1=60.0) == 0).sum()) >= 3


OPTIMIZERS: list[tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = [
    (optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    (optim.SGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True}),
    (optim.SGD, {"lr": 0.3, "momentum": 0.9, "dampening": 0.9}),
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    (optim.Momentum, {"lr": 0.3}),
    (optim.Momentum, {"lr": 0.3, "bias_correction": True}),
    (optim.RMSprop, {"lr": 0.01}),
    (optim.RMSprop, {"lr": 0.01, "eps_inside_root": True}),
    (optim.RMSprop, {"lr": 0.002, "momentum": 0.8}),
    (optim.Adam, {"lr": 0.01}),
    (optim.Adam, {"lr": 0.01, "amsgrad": True}),
    (torch.optim.Adam, {"lr": 0.01}),
    (optim.AdamW, {"lr": 0.01, "weight_decay": 0.0}),
    (torch.optim.Adagrad, {"lr": 1.0}),
    (torch.optim.Adagrad, {"lr": 1.0, "lr_decay": 0.003}),
    (torch.optim.Adamax, {"lr": 0.01}),
]


@pytest.mark.parametrize(
    ("make", "options"), OPTIMIZERS, ids=[f"{m.__module__} {m.__name__} {o}" for m, o in OPTIMIZERS]
)
def test_every_optimizer_ends_at_lasso(
    make: Callable[..., torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    x, y = regression()
    found = minimize(l1=60.0, make=lambda w, **_: make(w, **options), steps=2000)
    lasso = Lasso(alpha=60 / (2 * len(x)), fit_intercept=False, tol=1e-14, max_iter=10**6)
    expected = torch.tensor(lasso.fit(x.numpy(), y.numpy()).coef_)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert torch.equal(found == 0, expected == 0)
    assert int((found == 0).sum()) >= 3


@pytest.mark.parametrize(
    "name",
    ["ASGD", "Adadelta", "Adafactor", "LBFGS", "Muon", "NAdam", "RAdam", "Rprop", "SparseAdam"],
)
def test_optimizers_whose_step_is_unknown_are_refused(name: str) -> None:
    optimizer = getattr(torch.optim, name)([nn.Parameter(torch.ones(2, 2))])
    with pytest.raises(ValueError, match=f"^optimizer must be .* got {name}$"):
        proximal_l1(optimizer, 0.1)
    assert "l1" not in optimizer.param_groups[0]


def test_subclasses_of_those_known_are_accepted() -> None:
    class Mine(optim.SGD):
        pass

    proximal_l1(Mine([torch.ones(2)], lr=0.1), 0.1)


@pytest.mark.parametrize("make", [optim.Adam, torch.optim.Adam])
def test_the_proximal_step_comes_after_the_optimizers(
    make: Callable[..., torch.optim.Optimizer],
) -> None:
    plain, shrunk = (nn.Parameter(torch.tensor([1.0, -2.0, 0.01])) for _ in range(2))
    optimizers = make([plain], lr=0.1), make([shrunk], lr=0.1)
    proximal_l1(optimizers[1], 0.5)
    for w, optimizer in zip((plain, shrunk), optimizers, strict=True):
        w.grad = torch.tensor([0.3, -0.2, 0.1])
        optimizer.step()
    length = 0.1 / torch.tensor([0.3, 0.2, 0.1])  # α/√Ŝ
    torch.testing.assert_close(shrunk, soft_threshold(plain.detach(), 0.5 * length))


def test_groups_have_their_own_and_checkpoints_keep_it() -> None:
    w, b = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = optim.SGD([{"params": [w]}, {"params": [b], "l1": 0.0}], lr=0.1)
    proximal_l1(optimizer, 2.0)
    w.grad, b.grad = torch.zeros(2), torch.zeros(2)
    optimizer.step()
    assert (w.tolist(), b.tolist()) == (pytest.approx([0.8, 0.8]), [1.0, 1.0])
    assert [g["l1"] for g in optimizer.state_dict()["param_groups"]] == [2.0, 0.0]
    again = optim.SGD([{"params": [w]}, {"params": [b]}], lr=0.1)
    again.load_state_dict(optimizer.state_dict())
    proximal_l1(again)
    again.step()
    assert (w.tolist(), b.tolist()) == (pytest.approx([0.6, 0.6]), [1.0, 1.0])


def test_without_a_gradient_nothing_shrinks_and_a_handle_ends_it() -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = optim.SGD([w], lr=0.1)
    handle = proximal_l1(optimizer, 1.0)
    optimizer.step()
    assert w.tolist() == [1.0, 1.0]
    handle.remove()
    w.grad = torch.zeros(2)
    optimizer.step()
    assert w.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("fused", [None, True])
def test_a_step_that_the_scaler_skips_shrinks_nothing(fused: bool | None) -> None:
    w = nn.Parameter(torch.ones(2))
    optimizer = optim.Adam([w], lr=0.1, fused=fused)
    proximal_l1(optimizer, 1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((w * torch.tensor([float("inf"), 1.0])).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert w.tolist() == [1.0, 1.0]


def test_soft_threshold_is_the_minimum() -> None:
    w, t = torch.tensor([1.7, 0.2, -0.9]), 0.5
    w, grid = w.double(), torch.linspace(-3, 3, 60001, dtype=torch.float64)
    for value, found in zip(w, soft_threshold(w, t), strict=True):
        best = grid[(0.5 * (grid - value) ** 2 + t * grid.abs()).argmin()]
        assert float(found) == pytest.approx(float(best), abs=1e-4)
    nan = soft_threshold(torch.tensor([float("nan"), float("inf")]), 1.0)
    assert nan[0].isnan()
    assert nan[1] == float("inf")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: l2_penalty(torch.ones(2), -1.0, M), ValueError, "^strength must .* got -1.0"),
        (lambda: l1_penalty(torch.ones(2), float("nan"), M), ValueError, "^strength .* got nan"),
        (lambda: elastic_net_penalty([], float("inf"), 1.0, M), ValueError, "^l1 must .* got inf"),
        (lambda: elastic_net_penalty([], 1.0, -1.0, M), ValueError, "^l2 must .* got -1.0"),
        (lambda: l2_penalty(torch.ones(2), 1.0, 0), ValueError, "^m must .* at least 1, got 0"),
        (lambda: l1_penalty([], 1.0, cast("int", float("nan"))), ValueError, "^m must .* got nan"),
        (lambda: l2_penalty([], 1.0, cast("int", float("inf"))), ValueError, "^m must .* got inf"),
        (lambda: l2_penalty(torch.ones(2).long(), 1.0, 1), TypeError, "got torch.int64"),
        (lambda: l2_penalty(torch.ones(2) + 1j, 1.0, 1), TypeError, "got torch.complex64"),
        (lambda: soft_threshold(torch.ones(2), -1.0), ValueError, "threshold must .* got -1.0"),
        (lambda: proximal_l1(optim.SGD([torch.ones(2)], lr=1.0), -1.0), ValueError, "got -1.0"),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
