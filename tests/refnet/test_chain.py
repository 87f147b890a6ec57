"""The whole chain by hand: against autograd, the layers, and the lecture's own numbers."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import refnet.nn
from lightning_modules import MLP
from refnet import chain

ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu")
double = {"dtype": torch.float64}


def batch(m: int, inputs: int, classes: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m)
    x = torch.randn(m, inputs, generator=generator, **double)
    return x, torch.randint(classes, (m,), generator=generator)


def through(net: nn.Module, loss: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    cost = loss(net(x), y)
    names, parameters = zip(*net.named_parameters(), strict=True)
    gradients = torch.autograd.grad(cost, parameters)
    return dict(zip(names, gradients, strict=True)) | {"cost": cost.detach()}


@pytest.mark.parametrize(("depth", "m"), list(product(range(1, 7), (3, 16, 64))))
def test_equals_autograd_through_the_layers(depth: int, m: int) -> None:
    for shift, layers in enumerate((refnet.nn, nn, refnet.nn, nn)):
        activations = [ACTIVATIONS[(i + shift) % 4] for i in range(depth)]
        torch.manual_seed(depth)
        net = chain.net([5, *range(6, 6 + depth), 4], activations, layers).double()
        x, y = batch(m, 5, 4)
        cost, found = chain.gradients(dict(net.named_parameters()), x, y, activations)
        want = through(net, layers.CrossEntropyLoss(), x, y)
        assert abs(cost - want.pop("cost")) <= 1e-14
        assert list(found) == list(want)
        for name, gradient in found.items():
            gap = (gradient - want[name]).abs().max() / want[name].abs().max()
            assert gap <= 1e-12, name


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.uint16])
def test_classes_of_every_integer_type(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    parameters = dict(chain.net([5, 4, 3], ["relu"]).double().named_parameters())
    x, y = batch(8, 5, 3)
    want_cost, want = chain.gradients(parameters, x, y, ["relu"])
    cost, found = chain.gradients(parameters, x, y.to(dtype), ["relu"])
    assert cost == want_cost
    assert all(torch.equal(found[name], want[name]) for name in want)


def test_is_the_gradient_of_the_digits_net() -> None:
    torch.manual_seed(0)
    net = MLP(hidden=[32, 16], activation="tanh", dropout=0.0).double()
    x, y = torch.randn(20, 1, 8, 8, **double), torch.arange(20) % 10
    _, found = chain.gradients(dict(net.named_parameters()), x, y, ["tanh", "tanh"])
    want = through(net, refnet.nn.CrossEntropyLoss(), x, y)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, want[name], rtol=1e-12, atol=1e-15)


def test_agrees_with_differences() -> None:
    torch.manual_seed(0)
    activations = ["tanh", "sigmoid"]
    net = chain.net([3, 4, 5, 3], activations).double()
    parameters = {name: p.detach().clone() for name, p in net.named_parameters()}
    x, y = batch(8, 3, 3)
    _, found = chain.gradients(parameters, x, y, activations)
    for name, p in parameters.items():
        for i in range(p.numel()):
            cost = []
            for step in (1e-5, -2e-5):
                p.view(-1)[i] += step
                cost.append(chain.gradients(parameters, x, y, activations)[0])
            p.view(-1)[i] += 1e-5
            slope = (cost[0] - cost[1]) / 2e-5
            assert abs(slope - found[name].view(-1)[i]) < 1e-8, name


def test_runs_without_autograd_and_without_builtins() -> None:
    class Recorder(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: set[str] = set()

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            self.names.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    net = chain.net([3, *[4] * 4, 3], ACTIVATIONS)
    x, y = batch(8, 3, 3)
    with Recorder() as recorder:
        _, found = chain.gradients(dict(net.named_parameters()), x.float(), y, ACTIVATIONS)
    parts = (
        "softmax",
        "batch_norm",
        "nll",
        "relu",
        "sigmoid",
        "backward",
        "linear",
        "addmm",
        "var",
    )
    assert not [name for name in recorder.names if any(part in name for part in parts)]
    assert not any(g.requires_grad for g in found.values())
    assert all(p.grad is None for p in net.parameters())


def test_the_lectures_numbers() -> None:
    """ŷ = [0.3, 0.2, 0.1, 0.4], y = class 2 of 1…4: L = −log 0.2, dz = a − y."""
    weights = {"logits.weight": torch.eye(4, **double), "logits.bias": torch.zeros(4, **double)}
    y_hat = torch.tensor([[0.3, 0.2, 0.1, 0.4]] * 2, **double)
    cost, found = chain.gradients(weights, y_hat.log(), torch.tensor([1, 1]), [])
    assert cost.item() == pytest.approx(-math.log(0.2), rel=1e-15)
    want = torch.tensor([0.3, -0.8, 0.1, 0.4], **double)
    torch.testing.assert_close(found["logits.bias"], want, rtol=1e-14, atol=0)
    cost, _ = chain.gradients(
        weights, torch.tensor([[5.0, 2, -1, 3]] * 2, **double), torch.tensor([0, 3]), []
    )
    assert cost.item() == pytest.approx(math.log(176.3) - (5 + 3) / 2, abs=1e-3)


def test_a_bias_before_batch_norm_would_have_no_gradient() -> None:
    """μ contains b, so that it cancels: db = Σ dZ = 0."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    found = through(net, nn.CrossEntropyLoss(), *batch(8, 3, 3))
    assert found["0.bias"].abs().max() < 1e-15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activations": ["swish"]}, "activations must be from .*, got 'swish'"),
        ({"activations": []}, "parameters: 'linear1.weight' is one too many, for 0 activations"),
        ({"activations": ["relu"] * 2}, "'linear2.weight' is missing, for 2 activations"),
        ({"x": torch.zeros(1, 3), "y": torch.zeros(1).long()}, "2 examples or more, got 1"),
        (
            {"y": torch.tensor([0, 1, 2])},
            r"y must hold a class from 0 to 2 for each of 4 .* \(3,\)",
        ),
        ({"y": torch.tensor([0, 1, 2, 3])}, "y must hold .*, from 0 to 3"),
        ({"y": torch.zeros(4)}, "y must hold .* got torch.float32"),
        ({"y": torch.zeros(4, dtype=torch.bool)}, "y must hold .* got torch.bool"),
        ({"y": torch.zeros(4, dtype=torch.complex64)}, "y must hold .* got torch.complex64"),
        ({"y": torch.zeros(0).long()}, r"y must hold .* got torch.int64 of shape \(0,\)"),
    ],
)
def test_errors_name_argument_and_value(change: dict[str, Any], message: str) -> None:
    parameters = dict(chain.net([3, 4, 3], ["relu"]).named_parameters())
    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)
    arguments = {"parameters": parameters, "x": x, "y": y, "activations": ["relu"]}
    with pytest.raises(ValueError, match=message):
        chain.gradients(**{**arguments, **change})


def test_widths_fit_the_activations() -> None:
    with pytest.raises(ValueError, match=r"widths must be 2 more than the 1 activations.*\[3, 4\]"):
        chain.net([3, 4], ["relu"])
