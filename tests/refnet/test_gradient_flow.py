"""The lecture's chain of single units: its factors, its product, and the bound of 1/4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from refnet.gradient_flow import bias_gradients, factors

F64: Any = {"dtype": torch.float64}
ACTIVATIONS = {"sigmoid": nn.Sigmoid(), "tanh": nn.Tanh(), "relu": nn.ReLU()}


def draw(depth: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w, b = 2 * torch.rand(2, depth, generator=generator, **F64) - 1
    return w, b, torch.randn(7, 3, generator=generator, **F64)


@pytest.mark.parametrize("depth", [2, 5, 30])
def test_golden_a_deep_sigmoid_net_loses_a_factor_of_4_per_layer(depth: int) -> None:
    """|w| ≤ 1 and σ' ≤ 1/4."""
    w, b, x = draw(depth)
    gradients = bias_gradients(w, b, x, "sigmoid").abs()
    assert (gradients[:-1] <= gradients[1:] / 4).all()
    assert (gradients[0] <= 0.25**depth).all()


def test_golden_the_bound_is_reached() -> None:
    """w = 1 and z = 0 everywhere: exactly a quarter in each layer."""
    a = 0.5
    w, b = torch.ones(6, **F64), torch.tensor([0.0, *[-a] * 5], **F64)
    found = factors(w, b, torch.tensor(0.0, **F64), "sigmoid")
    torch.testing.assert_close(found, torch.full((6,), 0.25, **F64), rtol=1e-15, atol=0)


def test_big_weights_explode() -> None:
    """The lecture: w σ'(z) > 1 where w is big."""
    w = torch.full((10,), 8.0, **F64)
    b = torch.tensor([0.0, *[-4.0] * 9], **F64)  # z = 8 · 1/2 − 4 = 0
    gradients = bias_gradients(w, b, torch.tensor(0.0, **F64), "sigmoid")
    torch.testing.assert_close(gradients[0] / gradients[-1], torch.tensor(2.0**9, **F64))


@pytest.mark.parametrize("depth", [1, 4, 20])
@pytest.mark.parametrize("name", ["sigmoid", "tanh", "relu"])
def test_the_product_is_autograds_gradient(name: str, depth: int) -> None:
    w, b, x = draw(depth, seed=1)
    if name == "relu":
        w, b = w.abs(), b + 0.5
    shifts = [torch.zeros_like(x).requires_grad_() for _ in b]
    a = x
    for weight, bias, shift in zip(w, b, shifts, strict=True):
        a = ACTIVATIONS[name](weight * a + bias + shift)
    right = torch.stack(torch.autograd.grad(a.sum(), shifts))
    found = bias_gradients(w, b, x, name)
    for layer in range(depth):  # each by its own size: the first may be 1e-15 of the last
        largest = right[layer].abs().max()
        assert (found[layer] - right[layer]).abs().max() <= 1e-12 * largest
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2), torch.ones(2), "gelu"), "activation must be one of .*, got 'gelu'"),
        ((torch.ones(2), torch.ones(3), "tanh"), r"one number for each layer.*\(2,\) and \(3,\)"),
        ((torch.ones(2, 2), torch.ones(2, 2), "tanh"), "one number for each layer"),
        ((torch.ones(0), torch.ones(0), "tanh"), "one number for each layer"),
    ],
)
def test_mistakes_are_named(arguments: Any, message: str) -> None:
    w, b, name = arguments
    with pytest.raises(ValueError, match=message):
        bias_gradients(w, b, torch.zeros(()), name)
