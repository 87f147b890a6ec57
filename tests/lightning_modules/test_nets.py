from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import refnet.nn
from lightning_modules import MLP, ConvNet
from refnet import init

NETS = pytest.mark.parametrize("net", [MLP, ConvNet])


@NETS
def test_same_names_and_weights_in_both_implementations(net: Any) -> None:
    states = []
    for implementation in ("refnet", "torch"):
        torch.manual_seed(3)
        states.append(net(implementation=implementation).state_dict())
    ours, theirs = states
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@NETS
def test_switch_chooses_the_layers(net: Any) -> None:
    kinds = {"refnet": refnet.nn, "torch": nn}
    for implementation, package in kinds.items():
        built = net(implementation=implementation)
        for name in ("Linear", "Dropout", "ReLU", "BatchNorm1d"):
            found = [m for m in built.modules() if isinstance(m, getattr(nn, name))]
            assert found
            assert all(type(m) is getattr(package, name) for m in found)


@NETS
def test_no_bias_before_batch_norm(net: Any) -> None:
    layers = list(net().children())
    for layer, following in pairwise(layers):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            normalized = isinstance(following, (nn.BatchNorm1d, nn.BatchNorm2d))
            assert (layer.bias is None) == normalized
    assert all(m.bias is not None for m in net(batch_norm=False).children() if hasattr(m, "bias"))


@NETS
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid"])
def test_gradients_reach_every_parameter(net: Any, activation: str) -> None:
    model = net(activation=activation)
    model(torch.randn(6, 1, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@NETS
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("implementation", ["refnet", "torch"])
def test_initialization_by_activation(net: Any, activation: Any, implementation: Any) -> None:
    """var(W) = 2/n_in before a ReLU, 1/n_in before tanh, else 2/(n_in + n_out); b = 0."""
    torch.manual_seed(0)
    options = {"activation": activation, "implementation": implementation, "batch_norm": False}
    built = net(initialization="by_activation", **options)
    for layer in built.children():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.numel() > 5000:
            n_in, n_out = init.fans(layer.weight)
            want = {"tanh": 1 / n_in, "sigmoid": 2 / (n_in + n_out)}.get(activation, 2 / n_in)
            assert layer.weight.var().item() == pytest.approx(want, rel=0.05)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            assert not layer.bias.any()


@NETS
@pytest.mark.parametrize("rule", [None, "by_activation", *init.RULES])
def test_initialization_is_the_same_in_both_implementations(net: Any, rule: Any) -> None:
    states = []
    for implementation in ("refnet", "torch"):
        torch.manual_seed(3)
        states.append(net(implementation=implementation, initialization=rule).state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_rule_draws_what_torch_draws() -> None:
    torch.manual_seed(3)
    net = MLP(initialization="kaiming_uniform")
    torch.manual_seed(3)
    want = MLP()
    for layer in (want.linear1, want.linear2, want.logits):
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    for name in ("linear1", "linear2", "logits"):
        assert torch.equal(getattr(net, name).weight, getattr(want, name).weight)
    assert not net.logits.bias.any()


def test_without_a_rule_the_layers_draw_as_torch_does() -> None:
    torch.manual_seed(3)
    net = MLP()
    torch.manual_seed(3)
    for linear in (nn.Linear(64, 256, bias=False), nn.Linear(256, 128, bias=False)):
        name = "linear1" if linear.in_features == 64 else "linear2"
        assert torch.equal(getattr(net, name).weight, linear.weight)


def test_dropout_by_layer() -> None:
    def rates(net: nn.Module) -> list[float]:
        return [layer.p for layer in net.children() if isinstance(layer, nn.Dropout)]

    assert rates(MLP(dropout=0.4)) == [0.4, 0.4]
    assert rates(MLP(hidden=[8, 8, 8], dropout=[0.5, 0, 0.1])) == [0.5, 0, 0.1]
    assert rates(ConvNet(dropout=[0.5, 0.2])) == [0.5, 0.2]
    net = MLP(hidden=[500, 500], dropout=[0.2, 0.0])  # keep_prob 0.8 and 1
    kept = net.dropout1(torch.ones(200, 500))
    assert (kept == 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert kept.max().item() == pytest.approx(1 / 0.8)
    assert torch.equal(net.dropout2(kept), kept)


def test_shapes_follow_the_arguments() -> None:
    assert MLP(12, [5, 4, 3], 2)(torch.zeros(7, 3, 2, 2)).shape == (7, 2)
    net = ConvNet(in_channels=3, image_size=16, channels=[4], hidden=8, out_features=2)
    assert net(torch.zeros(7, 3, 16, 16)).shape == (7, 2)
    net = ConvNet(in_channels=3, image_size=(12, 20), channels=[4, 4], hidden=8, out_features=2)
    assert net(torch.zeros(7, 3, 12, 20)).shape == (7, 2)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (MLP, {"hidden": [8, 0]}, r"hidden must be at least 1, got \[8, 0\]"),
        (MLP, {"out_features": 0}, "out_features must be at least 1, got 0"),
        (MLP, {"dropout": 2.0}, "dropout must be between 0 and 1, but got 2.0"),
        (MLP, {"dropout": [0.1, 2.0]}, r"dropout must be between 0 and 1, but got \[0.1, 2.0\]"),
        (MLP, {"dropout": [0.1]}, r"a number or 2, one for each hidden layer, got \[0.1\]"),
        (ConvNet, {"dropout": [0.1] * 3}, r"a number or 2, before and after the hidden layer"),
        (MLP, {"initialization": "zeros"}, "initialization must be None or one of .* got 'zeros'"),
        (MLP, {"activation": "swish"}, "activation must be one of .*, got 'swish'"),
        (MLP, {"implementation": "jax"}, "implementation must be one of .*, got 'jax'"),
        (ConvNet, {"image_size": 6}, r"image_size must be divisible by 2\*\*2 .* got 6"),
        (ConvNet, {"image_size": (8, 6)}, r"image_size must be divisible by .* got \(8, 6\)"),
        (ConvNet, {"channels": [-1]}, r"channels must be at least 1, got \[-1\]"),
    ],
)
def test_errors_name_argument_and_value(net: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net(**options)
