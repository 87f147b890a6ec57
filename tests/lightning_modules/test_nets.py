from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import refnet.nn
from lightning_modules import MLP, ConvNet

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


def test_shapes_follow_the_arguments() -> None:
    assert MLP(12, [5, 4, 3], 2)(torch.zeros(7, 3, 2, 2)).shape == (7, 2)
    net = ConvNet(in_channels=3, image_size=16, channels=[4], hidden=8, out_features=2)
    assert net(torch.zeros(7, 3, 16, 16)).shape == (7, 2)


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (MLP, {"hidden": [8, 0]}, r"hidden must be at least 1, got \[8, 0\]"),
        (MLP, {"out_features": 0}, "out_features must be at least 1, got 0"),
        (MLP, {"dropout": 2.0}, "between 0 and 1, but got 2.0"),
        (MLP, {"activation": "swish"}, "activation must be one of .*, got 'swish'"),
        (MLP, {"implementation": "jax"}, "implementation must be one of .*, got 'jax'"),
        (ConvNet, {"image_size": 6}, r"image_size must be divisible by 2\*\*2 .* got 6"),
        (ConvNet, {"channels": [-1]}, r"channels must be at least 1, got \[-1\]"),
    ],
)
def test_errors_name_argument_and_value(net: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net(**options)
