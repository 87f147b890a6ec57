r"""The lecture's whole chain: every gradient of a deep net with batch norm, in one function.

X → [Z = A Wᵀ → Z̃ = γ Z_norm + β → A = g(Z̃)] × L → Z = A Wᵀ + b → softmax → J

This is the lecture's derivation to read, run and compare with: `gradients` uses no autograd, and
equals what it finds in the same net (`net`). Examples are in rows here; in the lecture they are in
columns, as in `verification/oracles/chain.py`. Legend: m examples, n units of a layer, C classes,
l layer, A activations, W weight (n, n of the layer before), μ and σ² mean and variance of Z over
the m examples, dV the gradient of J with respect to any V.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor, nn

import refnet.nn
from refnet.ops.activations import reference as activation
from refnet.ops.softmax import reference as softmax

__all__ = ["SLOPE", "gradients", "net"]

SLOPE = 0.01  # of leaky ReLU where z is negative
_LAYERS = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "ReLU", "leaky_relu": "LeakyReLU"}


@torch.no_grad()
def gradients(
    parameters: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    activations: Sequence[str],
    *,
    eps: float = 1e-5,
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Return the cost J of a mini-batch and its gradient with respect to every parameter.

    J = 1/m Σ_i −log Â_{i, y_i}, and backwards dZ = (Â − Y)/m at the logits; then for each layer
    dA = dZ W,  dZ̃ = dA * g'(Z̃),  dγ = Σ dZ̃ Z_norm,  dβ = Σ dZ̃,
    dZ = γ/√(σ² + ε) (dZ̃ − dβ/m − Z_norm dγ/m),  dW = dZᵀ A

    Args:
        parameters: by name, as `dict(net.named_parameters())` of a net such as `net` makes:
            linear{l}.weight (n, n before), norm{l}.weight γ and norm{l}.bias β (n) for l from 1,
            logits.weight (C, n) and logits.bias (C).
        x: the mini-batch, (m, …), m ≥ 2.
        y: classes, (m), from 0 to C − 1, of any integer dtype.
        activations: g of each layer, from "sigmoid", "tanh", "relu" and "leaky_relu".
        eps: ε of batch norm.

    Returns:
        J, and the gradients under the names of the parameters.

    Raises:
        ValueError: an unknown activation, a parameter that is missing or one too many, fewer than
            2 examples, or not one class for each.

    Example:
        >>> from refnet.functional import cross_entropy
        >>> deep = net([5, 4, 3, 2], ["tanh", "relu"]).double()
        >>> x, y = torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 2
        >>> cost, by_hand = gradients(dict(deep.named_parameters()), x, y, ["tanh", "relu"])
        >>> cross_entropy(deep(x), y).backward()
        >>> torch.allclose(by_hand["linear1.weight"], deep.linear1.weight.grad, rtol=1e-12)
        True

    Source: lecture, "Adding batch norm to a network" to "Gradient descent with softmax". There,
    g'(z^[1]) and W^[2] stand for any layers l and l + 1; the last line of the chain leaves out the
    batch norm between Wᵀdz and g'(z̃), whose dZ is here; da = −1/a holds for the true class alone.
    """
    m, depth = len(x), len(activations)
    _check(parameters, x, y, activations)
    y = y.long()  # uint8 would index as a mask

    # Forward. Kept for the way back: what each layer took in, and what batch norm made of it.
    A = x.flatten(1)  # (m, n)
    kept = []
    for layer in range(1, depth + 1):
        W, gamma, beta = (parameters[name] for name in _names(layer))
        Z = A @ W.T  # (m, n); b would cancel: μ contains it
        mu = Z.mean(0)  # (n)
        var = (Z - mu).square().mean(0)  # (n), σ²
        Z_norm = (Z - mu) / (var + eps).sqrt()
        Z_tilde = gamma * Z_norm + beta
        kept.append((A, Z_norm, var, Z_tilde))
        A = _g(activations[layer - 1], Z_tilde)
    W, b = parameters["logits.weight"], parameters["logits.bias"]
    Z = A @ W.T + b  # (m, C)
    log_A = softmax.log_softmax(Z, 1, Z.dtype)
    cost = -log_A[torch.arange(m), y].mean()  # J = 1/m Σ −Σ_c y_c log ŷ_c

    # Backward. Softmax and cross-entropy together: dZ = A − Y, of the mean 1/m of it.
    found = {}
    Y = torch.zeros_like(Z)
    Y[torch.arange(m), y] = 1
    dZ = (log_A.exp() - Y) / m  # (m, C)
    found["logits.weight"] = dZ.T @ A  # dW = dZ aᵀ in columns
    found["logits.bias"] = dZ.sum(0)
    dA = dZ @ W  # da = Wᵀ dz in columns
    for layer in range(depth, 0, -1):
        W, gamma, _ = (parameters[name] for name in _names(layer))
        A, Z_norm, var, Z_tilde = kept[layer - 1]
        dZ_tilde = dA * _slope(activations[layer - 1], Z_tilde)  # da * g'(z̃)
        dgamma = (dZ_tilde * Z_norm).sum(0)
        dbeta = dZ_tilde.sum(0)
        # dz_norm, dσ² and dμ, put into dz
        dZ = gamma / (var + eps).sqrt() * (dZ_tilde - dbeta / m - Z_norm * dgamma / m)
        dW = dZ.T @ A
        dA = dZ @ W
        found |= dict(zip(_names(layer), (dW, dgamma, dbeta), strict=True))
    return cost, {name: found[name] for name in parameters}


def _g(name: str, z: Tensor) -> Tensor:
    """A = g(Z̃)."""
    if name == "leaky_relu":
        return activation.leaky_relu(z, SLOPE)
    plain = {"sigmoid": activation.sigmoid, "tanh": activation.tanh, "relu": activation.relu}
    return plain[name](z)


def _slope(name: str, z: Tensor) -> Tensor:
    """g'(Z̃): σ (1 − σ) ≤ 1/4, 1 − tanh², and 1 or 0 (0.01 if leaky) by the sign of z̃."""
    a = _g(name, z)
    if name == "sigmoid":
        return a * (1 - a)
    if name == "tanh":
        return 1 - a * a
    return torch.where(z > 0, torch.ones_like(z), 0.0 if name == "relu" else SLOPE)


def net(
    widths: Sequence[int], activations: Sequence[str], layers: ModuleType = refnet.nn
) -> nn.Sequential:
    """Build the net whose gradients these are: the flow of the lecture, layer by layer.

    Args:
        widths: numbers per example, units of each layer, classes: two more than activations.
        activations: g of each layer.
        layers: whose layers: `refnet.nn` or `torch.nn`.

    Returns:
        flatten, [linear{l} without b, norm{l}, activation{l}] for l from 1, logits.

    Raises:
        ValueError: an unknown activation, or another number of widths.

    Example:
        >>> [name for name, _ in net([4, 3, 2], ["relu"]).named_children()]
        ['flatten', 'linear1', 'norm1', 'activation1', 'logits']

    Source: lecture, "Adding batch norm to a network".
    """
    if len(widths) != len(activations) + 2:
        raise ValueError(
            f"widths must be 2 more than the {len(activations)} activations: inputs, units of each "
            f"layer, classes; got {list(widths)}"
        )
    found: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, name in enumerate(activations, start=1):
        _check_activation(name)
        found[f"linear{i}"] = layers.Linear(widths[i - 1], widths[i], bias=False)
        found[f"norm{i}"] = layers.BatchNorm1d(widths[i])
        found[f"activation{i}"] = getattr(layers, _LAYERS[name])()
    found["logits"] = layers.Linear(widths[-2], widths[-1])
    return nn.Sequential(found)


def _names(layer: int) -> tuple[str, str, str]:
    """W, γ and β of a layer, counted from 1."""
    return f"linear{layer}.weight", f"norm{layer}.weight", f"norm{layer}.bias"


def _check_activation(name: str) -> None:
    if name not in _LAYERS:
        raise ValueError(f"activations must be from {sorted(_LAYERS)}, got {name!r}")


def _check(
    parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, activations: Sequence[str]
) -> None:
    for name in activations:
        _check_activation(name)
    layers = range(1, len(activations) + 1)
    wanted = {"logits.weight", "logits.bias", *(name for layer in layers for name in _names(layer))}
    if differing := sorted(wanted ^ set(parameters)):
        wrong = "is missing" if differing[0] in wanted else "is one too many"
        raise ValueError(
            f"parameters: {differing[0]!r} {wrong}, for {len(activations)} activations"
        )
    if len(x) < 2:
        raise ValueError(f"x: batch norm needs 2 examples or more, got {len(x)}")
    classes = len(parameters["logits.bias"])
    integers = not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)
    fits = y.shape == (len(x),) and integers
    lowest, highest = y.long().aminmax() if fits else (0, 0)
    if not fits or lowest < 0 or highest >= classes:
        values = f", from {lowest} to {highest}" if fits else ""
        raise ValueError(
            f"y must hold a class from 0 to {classes - 1} for each of {len(x)} examples, "
            f"got {y.dtype} of shape {tuple(y.shape)}{values}"
        )
