"""Vanishing and exploding gradients: the lecture's chain, its factors, and its bound of 1/4.

The product formula is held against the oracle, and to 1e-12 against autograd, through torch's
layers and through refnet's. All in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import refnet.nn
from refnet import gradient_flow
from verification.oracles import Exact, exact
from verification.oracles.gradient_flow import chain_of_units
from verification.report import ANOTHER, AS_GOOD, Row
from verification.tolerance import DRAWS, Sample, beside_builtin, same_algorithm, worst

Floats = npt.NDArray[np.float64]

SUBJECT = "gradient_flow"
ACTIVATIONS = ("sigmoid", "tanh", "relu")
DEPTHS, EXAMPLES = (1, 2, 4, 20), 16
LARGEST = {"|w| ≤ 1": 1.0, "|w| ≤ 0.1": 0.1}
SIZES = (*LARGEST, "w σ' > 1")  # gradients shrink, vanish, explode
EXPLODES = {"sigmoid": (5, 8), "tanh": (1.5, 2.5), "relu": (1.5, 3)}  # |w|, while z is near 0
QUARTER = 0.25  # the lecture's bound of w σ'(z)
_LAYERS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "ReLU"}


def gradient_flow_rows(*, quick: bool = False) -> Iterator[list[Row]]:
    """Yield the rows of each activation: every depth and size of weights.

    Args:
        quick: has no effect: all of it takes no time.

    Example:
        >>> rows = next(gradient_flow_rows())
        >>> rows[0].case, rows[0].quantity, all(row.passed for row in rows)
        ('sigmoid, 1 layer, |w| ≤ 1', 'factors', True)
    """
    for activation in ACTIVATIONS:
        rows: list[Row] = []
        for depth in DEPTHS:
            for size in SIZES:
                case = f"{activation}, {depth} layer{'s' * (depth > 1)}, {size}"
                try:
                    rows += _rows(case, activation, depth, size)
                except Exception as error:  # code that crashes gets a row
                    nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
                    rows.append(
                        Row(SUBJECT, case, "-", "float64", nan, nan, nan, "runs", ANOTHER, note)
                    )
        yield rows


def _draw(activation: str, depth: int, size: str) -> tuple[Floats, Floats, Floats]:
    """Weights, biases and inputs; a saturated tanh is left out, whose 1 − a² is rounding alone."""
    rng = np.random.default_rng([depth, ACTIVATIONS.index(activation)])
    if size in LARGEST:
        w = rng.uniform(-LARGEST[size], LARGEST[size], depth)
        b, x = rng.normal(size=depth), rng.normal(size=EXAMPLES)
        if activation == "relu":  # one layer is alive for some of the examples, the others for all
            w, b = np.abs(w), np.where(np.arange(depth) == depth // 2, -b[0] / 10, np.abs(b))
        return w, b, x
    w = rng.uniform(*EXPLODES[activation], depth)
    x = 1 + 1e-6 * rng.normal(size=EXAMPLES)  # what explodes is the distance of inputs, too
    b, a = np.zeros(depth), exact(1.0)
    for layer in range(depth):
        b[layer] = 0.1 - w[layer] * a
        a = chain_of_units(w[layer : layer + 1], b[layer : layer + 1], [a], activation).values[
            "output"
        ][0]
    return w, b, x


def _rows(case: str, activation: str, depth: int, size: str) -> Iterator[Row]:
    w, b, x = _draw(activation, depth, size)
    rng = np.random.default_rng(depth)

    def ulp(a: Any) -> Exact:
        return exact(exact(a) + np.spacing(np.abs(a)) * rng.choice([-1, 1], a.shape))

    right = chain_of_units(w, b, x, activation).values
    responses = [chain_of_units(ulp(w), ulp(b), ulp(x), activation).values for _ in range(DRAWS)]
    weights, biases, inputs = (torch.tensor(array) for array in (w, b, x))
    arguments = weights, biases, inputs, activation
    builtin = _through(nn, *arguments)
    ours = {
        "factors": gradient_flow.factors(*arguments),
        "grad b": gradient_flow.bias_gradients(*arguments),
    }

    def row(quantity: str, name: str, found: Tensor) -> Row:
        # layer by layer: that of the first is 1e-15 of the last one's, and would not show beside it
        judged = []
        for layer in range(depth):
            values = [r[name][layer] for r in responses]
            theirs = builtin[layer].numpy() if name == "grad b" else None
            sample = Sample(found[layer].numpy(), theirs, right[name][layer], values)
            judged.append(same_algorithm([sample]))
            if theirs is not None:
                judged.append(beside_builtin([sample]))
        return Row(SUBJECT, case, quantity, "float64", **vars(worst(judged)) | {"seed": None})

    yield row("factors", "factors", ours["factors"])
    yield row("∂C/∂b by the product", "grad b", ours["grad b"])
    yield row("∂C/∂b through refnet's layers", "grad b", _through(refnet.nn, *arguments))
    if activation == "sigmoid" and size in LARGEST and depth > 1:
        worst_factor = float(ours["factors"][:-1].abs().max())
        verdict = AS_GOOD if worst_factor <= QUARTER else ANOTHER
        lost = float((ours["grad b"][0] / ours["grad b"][-1]).abs().max())
        note = f"the first layer has {lost:.1e} of the last one's"
        yield Row(SUBJECT, case, "w σ'(z)", "float64", worst_factor, math.nan, QUARTER,
                  "the lecture's 1/4", verdict, note)  # fmt: skip


def _through(layers: Any, w: Tensor, b: Tensor, x: Tensor, activation: str) -> Tensor:
    """∂C/∂b of each example, (L, m), through layers of one unit and torch's engine."""
    g = getattr(layers, _LAYERS[activation])()
    a, shifts = x[:, None], []
    for weight, bias in zip(w, b, strict=True):
        linear = layers.Linear(1, 1, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.fill_(weight)
            linear.bias.fill_(bias)
        # b of each example by itself: a number that is added to z
        shifts.append(torch.zeros_like(x[:, None]).requires_grad_())
        a = g(linear(a) + shifts[-1])
    return torch.stack(torch.autograd.grad(a.sum(), shifts)).squeeze(-1)
