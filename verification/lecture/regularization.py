"""Penalties, weight decay and the proximal step, on arrays and on least squares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import refnet.nn
import refnet.optim
from refnet import regularization
from verification.oracles import Exact, exact
from verification.oracles import regularization as oracles
from verification.report import ANOTHER, AS_GOOD, Row
from verification.tolerance import DRAWS, Sample, same_algorithm

Floats = npt.NDArray[np.float64]

SUBJECT = "regularization"
STRENGTHS = ((0.0, 0.7), (0.7, 0.0), (0.3, 2.0))  # λ₁, λ₂
M, N, RATE, STEPS = 40, 12, 0.2, 300  # of the least squares


def regularization_rows(*, quick: bool = False) -> Iterator[list[Row]]:
    """Yield the rows of the penalties, of the threshold, and of least squares.

    Args:
        quick: fewer steps.

    Example:
        >>> all(row.passed for rows in regularization_rows(quick=True) for row in rows)
        True
    """
    steps = STEPS // 10 if quick else STEPS
    for check in (_penalties, _thresholds, lambda: _least_squares(steps)):
        try:
            yield list(check())
        except Exception as error:  # code that crashes gets a row
            nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
            yield [Row(SUBJECT, "-", "-", "float64", nan, nan, nan, "runs", ANOTHER, note)]


def _row(case: str, quantity: str, sample: Sample) -> Row:
    return Row(SUBJECT, case, quantity, "float64", **vars(same_algorithm([sample])))


def _arrays() -> Iterator[tuple[str, Floats]]:
    rng = np.random.default_rng(0)
    yield "weights of 1", rng.normal(size=(7, 5))
    yield "of every decade", rng.normal(size=(7, 5)) * 10.0 ** rng.integers(-6, 6, size=(7, 5))
    yield "half of them zero", rng.normal(size=(7, 5)) * (rng.random((7, 5)) < 0.5)


def _ulp(a: Floats, rng: np.random.Generator) -> Exact:
    """Change all by 1 ulp but zeros, which are a kink of L1."""
    change = np.spacing(np.abs(a)) * rng.choice([-1, 1], np.shape(a))
    return exact(exact(a) + np.where(a == 0, 0, change))


def _penalties() -> Iterator[Row]:
    rng = np.random.default_rng(1)
    for case, array in _arrays():
        for l1, l2 in STRENGTHS:
            right = oracles.penalty(array, l1, l2, M).values
            responses = [oracles.penalty(_ulp(array, rng), l1, l2, M).values for _ in range(DRAWS)]
            ours = _differentiated(regularization.elastic_net_penalty, array, l1, l2)
            theirs = _differentiated(_formula, array, l1, l2)
            for name, want in right.items():
                sample = Sample(ours[name], theirs[name], want, [r[name] for r in responses])
                yield _row(f"{case}, l1={l1:g}, l2={l2:g}", name, sample)
    layers = [refnet.nn.Linear(5, 4), refnet.nn.BatchNorm1d(4), refnet.nn.Linear(4, 2)]
    net = nn.Sequential(*layers).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=parameter.shape)))
    weights = np.concatenate([p.detach().numpy().ravel() for p in net.parameters() if p.dim() > 1])
    for name, of, l1, l2 in (
        ("l2_penalty", regularization.l2_penalty, 0.0, 0.7),
        ("l1_penalty", regularization.l1_penalty, 0.7, 0.0),
    ):
        found = of(net, 0.7, M).detach().numpy()
        right = oracles.penalty(weights, l1, l2, M).values
        yield _row(
            f"{name} of a net, no biases", "output", Sample(found, None, right["output"], [])
        )


def _formula(w: Tensor, l1: float, l2: float, m: int) -> Tensor:
    return l1 / (2 * m) * w.abs().sum() + l2 / (2 * m) * (w @ w)


def _differentiated(
    penalty: Callable[..., Tensor], array: Floats, l1: float, l2: float
) -> dict[str, Any]:
    w = torch.tensor(array, dtype=torch.float64).flatten().requires_grad_()
    value = penalty(w, l1, l2, M)
    (gradient,) = torch.autograd.grad(value, w)
    return {
        "output": value.detach().numpy(),
        "grad input": gradient.reshape(array.shape).numpy(),
    }


def _thresholds() -> Iterator[Row]:
    for case, array in _arrays():
        for threshold in (0.0, 0.5, 10.0):
            w = torch.tensor(array, dtype=torch.float64)
            ours = regularization.soft_threshold(w, threshold).numpy()
            theirs = nn.functional.softshrink(w, threshold).numpy()
            sample = Sample(ours, theirs, oracles.soft_threshold(array, threshold), [])
            yield _row(f"{case}, threshold {threshold:g}", "output", sample)


def _least_squares(steps: int) -> Iterator[Row]:
    """Two ways of L2 and the proximal step of L1, by SGD, beside ISTA in NumPy."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(M, N)), rng.normal(size=M)
    y = y + x[:, :3] @ [2.0, -1.0, 0.5]
    for l1, l2 in ((0.0, 8.0), (12.0, 0.0), (8.0, 8.0)):
        options: dict[str, Any] = {"lr": RATE, "l1": l1, "l2": l2, "steps": steps}
        right = oracles.least_squares(x, y, np.zeros(N), **options)
        responses = [
            oracles.least_squares(_ulp(x, rng), _ulp(y, rng), np.zeros(N), **options)
            for _ in range(DRAWS)
        ]
        for way in ("loss", "decay") if l2 else ("loss",):
            found = _train(torch.tensor(x), torch.tensor(y), l1, l2, way, steps)
            case = f"least squares, l1={l1:g}, l2={l2:g} as {way}, {steps} steps"
            yield _row(case, "weights of every step", Sample(found, None, right, responses))
            if l1:  # the very ones that are zero
                wrong = float(np.mean((found == 0) != (right == 0)))
                verdict = ANOTHER if wrong or not (right[-1] == 0).any() else AS_GOOD
                nan, last = math.nan, int((right[-1] == 0).sum())
                note = f"{last} of {N} weights are zero at the end"
                yield Row(SUBJECT, case, "exact zeros", "float64", wrong, nan, 0.0, "the very ones",
                          verdict, note)  # fmt: skip


def _train(x: Tensor, y: Tensor, l1: float, l2: float, way: str, steps: int) -> Any:
    w = nn.Parameter(torch.zeros(N, dtype=torch.float64))
    optimizer = refnet.optim.SGD([w], lr=RATE, weight_decay=l2 / M if way == "decay" else 0.0)
    if l1:
        regularization.proximal_l1(optimizer, l1 / (2 * M))
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        cost = (x @ w - y).square().sum() / (2 * M)
        if way == "loss":
            cost = cost + regularization.l2_penalty(w, l2, M)
        torch.autograd.backward(cost)
        optimizer.step()
        found.append(w.detach().numpy().copy())
    return np.stack(found)
