"""The optimizers beside a third implementation, optax: 200 steps down two valleys in float64.

optax runs in a process of its own: JAX starts threads, and from then on warns at every fork.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from refnet import optim

STEPS, TOLERANCE = 200, 1e-8
START = {"rosenbrock": np.array([-1.2, 1.0]), "quadratic": np.array([1.0, -2.0, 3.0, -0.5])}
# ½ yᵀ A y − bᵀ y, curved 1 … 40 times
TURN = np.linalg.qr(np.arange(16.0).reshape(4, 4) % 7 + np.eye(4))[0]
A, B = TURN @ np.diag([1.0, 3.0, 10.0, 40.0]) @ TURN.T, np.array([1.0, -1.0, 2.0, 0.5])


def losses(x: Any, y: Any, a: Any, b: Any) -> Any:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2 + 0.5 * y @ a @ y - b @ y


def decayed(o: Any, rule: Any) -> Any:
    return o.chain(o.add_decayed_weights(0.1), rule)


def averaged(o: Any, *, debias: bool, lr: float = 1e-3) -> Any:
    return o.chain(o.ema(0.9, debias=debias), o.scale(-lr))


# ours, of the parameters; optax's, of its module. Small steps, of RMSprop above all: where they
# overshoot a valley on both sides, rounding grows without bound.
CASES: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], Callable[[Any], Any]]] = {
    "SGD": (
        lambda p: optim.SGD(p, lr=1e-3),
        lambda o: o.sgd(1e-3),
    ),
    "SGD, decay": (
        lambda p: optim.SGD(p, lr=1e-3, weight_decay=0.1),
        lambda o: decayed(o, o.sgd(1e-3)),
    ),
    "SGD, momentum": (
        lambda p: optim.SGD(p, lr=1e-3, momentum=0.9),
        lambda o: o.sgd(1e-3, momentum=0.9),
    ),
    "SGD, Nesterov, decay": (
        lambda p: optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True, weight_decay=0.1),
        lambda o: decayed(o, o.sgd(1e-3, momentum=0.9, nesterov=True)),
    ),
    "Momentum": (
        lambda p: optim.Momentum(p, lr=1e-3, momentum=0.9),
        lambda o: averaged(o, debias=False),
    ),
    "Momentum, corrected, decay": (
        lambda p: optim.Momentum(
            p, lr=1e-3, momentum=0.9, bias_correction=True, weight_decay=0.1
        ),
        lambda o: decayed(o, averaged(o, debias=True)),
    ),
    "RMSprop": (
        lambda p: optim.RMSprop(p, lr=5e-4, alpha=0.9),
        lambda o: o.rmsprop(5e-4, decay=0.9, eps_in_sqrt=False),
    ),
    "RMSprop, ε inside the root": (
        lambda p: optim.RMSprop(p, lr=5e-4, alpha=0.9, eps=1e-4, eps_inside_root=True),
        lambda o: o.rmsprop(5e-4, decay=0.9, eps=1e-4),
    ),
    "RMSprop, centered, momentum, decay": (
        lambda p: optim.RMSprop(
            p, lr=1e-3, alpha=0.95, eps=1e-4, centered=True, momentum=0.5, weight_decay=0.1
        ),
        lambda o: decayed(
            o,
            o.rmsprop(1e-3, decay=0.95, eps=1e-4, centered=True, momentum=0.5, eps_in_sqrt=False),
        ),
    ),
    "Adam": (
        lambda p: optim.Adam(p, lr=0.05),
        lambda o: o.adam(0.05),
    ),
    "Adam, decay, ε, β": (
        lambda p: optim.Adam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1),
        lambda o: decayed(o, o.adam(0.02, b1=0.8, b2=0.95, eps=1e-4)),
    ),
    "AdamW": (
        lambda p: optim.AdamW(p, lr=0.05, weight_decay=0.1),
        lambda o: o.adamw(0.05, weight_decay=0.1),
    ),
    "AdamW, maximize": (
        lambda p: optim.AdamW(p, lr=1e-3, weight_decay=0.1, maximize=True),
        lambda o: o.chain(o.scale(-1), o.adamw(1e-3, weight_decay=0.1)),
    ),
    "Adam, amsgrad": (
        lambda p: optim.Adam(p, lr=0.05, amsgrad=True),
        lambda o: o.amsgrad(0.05),
    ),
}  # fmt: skip
ANOTHER = "Adam, amsgrad"  # optax takes the maximum of the corrected averages, torch and we do not


def ours(name: str) -> dict[str, Any]:
    """Parameters after each step, (steps, …), by the function that they go down."""
    params = {n: torch.nn.Parameter(torch.tensor(v)) for n, v in START.items()}
    optimizer = CASES[name][0](list(params.values()))
    found: dict[str, list[Any]] = {n: [] for n in params}
    for _ in range(STEPS):
        optimizer.zero_grad()
        losses(*params.values(), torch.tensor(A), torch.tensor(B)).backward()
        optimizer.step()
        for n, param in params.items():
            found[n].append(param.detach().numpy().copy())
    return {n: np.stack(values) for n, values in found.items()}


def main(path: str) -> None:
    """Run optax on all cases and write what `ours` returns into a file."""
    import jax
    import optax

    def trajectory(rule: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            params, state = carry
            grads = jax.grad(lambda p: losses(p["rosenbrock"], p["quadratic"], A, B))(params)
            updates, state = rule.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        start = {n: jax.numpy.asarray(v) for n, v in START.items()}
        return jax.lax.scan(step, (start, rule.init(start)), length=STEPS)[1]

    found = {name: trajectory(theirs(optax)) for name, (_, theirs) in CASES.items()}
    np.savez(path, **{f"{c}: {n}": v for c, steps in found.items() for n, v in steps.items()})


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("optax") / "trajectories.npz"
    environment = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", __file__, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(path)


def gap(a: Any, b: Any) -> float:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("function", START)
@pytest.mark.parametrize("name", [name for name in CASES if name != ANOTHER])
def test_same_trajectory(name: str, function: str, theirs: Any) -> None:
    found = ours(name)[function]
    assert gap(found, theirs[f"{name}: {function}"]) <= TOLERANCE
    assert np.abs(found - START[function]).max() > 0.05  # it went somewhere


def test_amsgrad_is_another_function_there(theirs: Any) -> None:
    assert gap(ours(ANOTHER)["quadratic"], theirs[f"{ANOTHER}: quadratic"]) > 1e-3


if __name__ == "__main__":
    main(sys.argv[1])
