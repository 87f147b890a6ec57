"""The oracles of the optimizers against torch's in float64: parameter and state after every step.

1e-12 of the largest element: a few roundings per step, over eight steps.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from verification.oracles.adam import adam
from verification.oracles.adamw import adamw
from verification.oracles.momentum import momentum
from verification.oracles.rmsprop import rmsprop
from verification.oracles.sgd import sgd
from verification.oracles.trajectory import State

TOLERANCE = 1e-12
START = np.random.default_rng(0).normal(size=(3, 2))


def gradients() -> list[np.ndarray | None]:
    """Random, missing (before and after the first), zero, tiny and over many magnitudes."""
    g = list(np.random.default_rng(1).normal(size=(8, 3, 2)))
    g[3] = np.zeros((3, 2))
    g[5] = g[5] * 1e-7
    g[6] = g[6] * 10.0 ** np.arange(-3, 3).reshape(3, 2)
    return [None, *g[:2], None, *g[2:]]


def torch_run(
    kind: type[torch.optim.Optimizer], options: dict[str, object], grads: list[np.ndarray | None]
) -> list[dict[str, np.ndarray]]:
    param = torch.nn.Parameter(torch.tensor(START))
    optimizer = kind([param], **options, foreach=False)
    steps = []
    for grad in grads:
        param.grad = None if grad is None else torch.tensor(grad)
        optimizer.step()
        state = {k: v for k, v in optimizer.state[param].items() if v is not None}
        tensors = {"param": param.detach(), **state}
        steps.append({name: t.double().numpy().copy() for name, t in tensors.items()})
    return steps


def agree(ours: list[State], builtin: list[dict[str, np.ndarray]], options: object = None) -> None:
    assert len(ours) == len(builtin)
    for t, (a, b) in enumerate(zip(ours, builtin, strict=True)):
        assert set(a) == set(b), (t, options)
        for name in b:
            assert a[name].dtype == np.longdouble
            assert a[name].shape == b[name].shape, (t, name, options)
            error = np.abs(a[name] - b[name]).max()
            assert error <= TOLERANCE * np.abs(b[name]).max(), (t, name, error, options)


def combinations(**options: tuple[object, ...]) -> list[dict[str, object]]:
    return [dict(zip(options, values, strict=True)) for values in product(*options.values())]


SGD = [
    options
    for options in combinations(
        lr=(0.1,),
        momentum=(0.0, 0.9),
        dampening=(0.0, 0.3),
        weight_decay=(0.0, 0.2),
        nesterov=(False, True),
        maximize=(False, True),
    )
    if not options["nesterov"] or (options["momentum"] and not options["dampening"])
]
RMSPROP = combinations(
    lr=(0.05,),
    alpha=(0.9, 0.6),
    eps=(1e-8, 1e-2),
    weight_decay=(0.0, 0.2),
    momentum=(0.0, 0.7),
    centered=(False, True),
    maximize=(False, True),
)
ADAM = combinations(
    lr=(0.05,),
    betas=((0.9, 0.999), (0.5, 0.6)),
    eps=(1e-8, 1e-2),
    weight_decay=(0.0, 0.2),
    amsgrad=(False, True),
    maximize=(False, True),
)


@pytest.mark.parametrize(
    ("ours", "kind", "table"),
    [
        pytest.param(sgd, torch.optim.SGD, SGD, id="SGD"),
        pytest.param(rmsprop, torch.optim.RMSprop, RMSPROP, id="RMSprop"),
        pytest.param(adam, torch.optim.Adam, ADAM, id="Adam"),
        pytest.param(adamw, torch.optim.AdamW, ADAM, id="AdamW"),
    ],
)
def test_trajectory_is_the_builtins(ours, kind, table: list[dict[str, object]]) -> None:
    grads = gradients()
    for options in table:
        agree(ours(START, grads, **options), torch_run(kind, options, grads), options)


@pytest.mark.parametrize(
    ("ours", "kind"),
    [(rmsprop, torch.optim.RMSprop), (adam, torch.optim.Adam), (adamw, torch.optim.AdamW)],
)
def test_defaults_are_the_builtins(ours, kind) -> None:
    agree(ours(START, gradients(), lr=0.01), torch_run(kind, {"lr": 0.01}, gradients()))


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("maximize", [False, True])
def test_lecture_momentum_is_sgd_at_a_smaller_rate(weight_decay: float, maximize: bool) -> None:
    # V = (1 - beta) B, so that lr V = lr (1 - beta) B
    both = {"momentum": 0.9, "weight_decay": weight_decay, "maximize": maximize}
    ours = momentum(START, gradients(), lr=0.3, **both)
    builtin = torch_run(torch.optim.SGD, {"lr": 0.3 * (1 - 0.9), **both}, gradients())
    for step in builtin:
        if "momentum_buffer" in step:
            step["momentum_buffer"] *= 1 - 0.9
    agree(ours, builtin)


def test_bias_corrected_momentum_is_adam_without_its_denominator() -> None:
    # with beta_2 = 0 and gradients of +-1 the root is 1
    grads = [None if g is None else np.where(g < 0, -1.0, 1.0) for g in gradients()]
    ours = momentum(START, grads, lr=0.3, momentum=0.8, bias_correction=True)
    builtin = torch_run(torch.optim.Adam, {"lr": 0.3, "betas": (0.8, 0.0), "eps": 0.0}, grads)
    for step in builtin:
        step.pop("exp_avg_sq", None)
        if "exp_avg" in step:
            step["momentum_buffer"] = step.pop("exp_avg")
    agree(ours, builtin)


@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_with_epsilon_inside_the_root(centered: bool) -> None:
    eps, beta, lr = 1e-2, 0.9, 0.05
    options = {"lr": lr, "alpha": beta, "eps": eps, "centered": centered, "eps_inside_root": True}
    steps = rmsprop(START, gradients(), **options)
    w, s, g = START.copy(), np.zeros_like(START), np.zeros_like(START)
    for step, dw in zip(steps, gradients(), strict=True):
        if dw is not None:
            s = beta * s + (1 - beta) * dw**2
            g = beta * g + (1 - beta) * dw
            w = w - lr * dw / np.sqrt(s - centered * g**2 + eps)
        assert np.abs(step["param"] - w).max() <= TOLERANCE


def test_centered_rmsprop_of_a_steady_gradient_stays_right() -> None:
    # the variance of a steady gradient g is g^2 beta^t (1 - beta^t): far below the rounding of g^2
    t, beta = 90, 0.5
    steps = rmsprop([0.0], [[3.0]] * t, lr=1.0, alpha=beta, eps=0.0, centered=True)
    last = steps[-1]["param"] - steps[-2]["param"]
    expected = -1 / np.sqrt(beta**t * (1 - beta**t))
    assert float(last[0]) == pytest.approx(expected, rel=1e-12, abs=0)
    assert set(steps[-1]) == {"param", "step", "square_avg", "grad_avg"}


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        (sgd, {"momentum": 0.3, "dampening": 0.1}),
        (momentum, {"momentum": 0.1, "bias_correction": True}),
        (rmsprop, {"alpha": 0.1, "eps": 0.1, "momentum": 0.3}),
        (adam, {"betas": (0.1, 0.3), "eps": 0.1}),
        (adamw, {"betas": (0.3, 0.1), "eps": 0.1}),
    ],
)
def test_hyperparameters_count_as_exactly_what_they_are(ours, options: dict[str, object]) -> None:
    # 1 - 0.1 in float64 is not 1 minus the float64 0.1
    options = {"lr": 0.1, "weight_decay": 0.3, **options}
    exact_options = {
        name: tuple(map(np.longdouble, value))
        if isinstance(value, tuple)
        else (np.longdouble(value) if isinstance(value, float) else value)
        for name, value in options.items()
    }
    for a, b in zip(
        ours(START, gradients(), **options), ours(START, gradients(), **exact_options), strict=True
    ):
        assert all(np.array_equal(a[name], b[name]) for name in b)


def test_steps_share_no_array_with_each_other_or_the_arguments() -> None:
    param = exact_start = START.astype(np.longdouble)
    steps = adam(param, [None, None, START, None], lr=0.1)
    arrays = [param, *(value for step in steps for value in step.values())]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    assert np.array_equal(param, exact_start)


def test_a_stack_of_parameters_runs_as_each_would_alone() -> None:
    both = np.stack([START, 2 * START])
    grads = [None if g is None else np.stack([g, -3 * g]) for g in gradients()]
    options = {"lr": 0.1, "centered": True, "momentum": 0.5, "weight_decay": 0.1}
    for i, steps in enumerate(
        rmsprop(both[i], [None if g is None else g[i] for g in grads], **options) for i in (0, 1)
    ):
        for alone, together in zip(steps, rmsprop(both, grads, **options), strict=True):
            for name, value in alone.items():
                expected = together[name] if name == "step" else together[name][i]
                assert np.array_equal(value, expected)


def test_rounding_what_is_kept_shows_the_cancellation_in_a_variance() -> None:
    # S - G^2 of a steady gradient: exact where all is kept, lost where S and G are rounded
    def rounded(value: np.ndarray) -> np.ndarray:
        return value.astype(np.float32).astype(np.longdouble)

    options = {"lr": 1.0, "alpha": 0.5, "eps": 1e-3, "centered": True}
    grads = [[0.3]] * 20
    kept = rmsprop([0.0], grads, **options)
    lost = rmsprop([0.0], grads, store=rounded, **options)
    assert np.abs(kept[-1]["square_avg"] / lost[-1]["square_avg"] - 1) < 1e-6
    assert np.abs(kept[-1]["param"] / lost[-1]["param"] - 1) > 1e-6
    assert set(kept[-1]) == set(lost[-1]) == {"param", "step", "square_avg", "grad_avg"}
