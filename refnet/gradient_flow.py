r"""The lecture's chain of one unit per layer, and what each layer makes of the gradient.

x → [z = w a + b → a = σ(z)] × L → C

∂C/∂b₁ = σ'(z₁) · w₂ σ'(z₂) · w₃ σ'(z₃) · … · w_L σ'(z_L) · ∂C/∂a_L

Each layer contributes one factor: where they are below 1, gradients vanish in the early layers,
where they are above, they explode. `refnet.chain` has the same for nets of any width, with batch
norm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from refnet.ops.activations import reference as activations

__all__ = ["bias_gradients", "factors"]


@torch.no_grad()
def factors(weights: Tensor, biases: Tensor, x: Tensor, activation: str) -> Tensor:
    r"""Return by what each layer multiplies the gradient on its way back through a chain.

    f_l = w_{l+1} σ'(z_l) = (∂C/∂b_l) / (∂C/∂b_{l+1}) for l < L, and f_L = σ'(z_L)

    Args:
        weights: w of the layers 1 to L, (L).
        biases: b, (L).
        x: inputs of the first layer, of any shape.
        activation: σ: "sigmoid", "tanh" or "relu".

    Returns:
        The factors f₁ to f_L, (L, *x.shape). With σ the sigmoid and |w| ≤ 1, all are at most 1/4.

    Raises:
        ValueError: an unknown activation, or not one bias for each weight.

    Example:
        >>> w, b = torch.tensor([1.0, -1.0, 0.5]), torch.zeros(3)
        >>> factors(w, b, torch.tensor(0.0), "tanh")
        tensor([-1.0000,  0.5000,  1.0000])

    Source: lecture, "What causes vanishing/exploding gradient?", where σ(z) ≤ 1/4 means σ'(z).
    """
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(_ACTIVATIONS)}, got {activation!r}")
    if weights.dim() != 1 or weights.shape != biases.shape or not len(weights):
        raise ValueError(
            "weights and biases must hold one number for each layer, got shapes "
            f"{tuple(weights.shape)} and {tuple(biases.shape)}"
        )
    g, backward = _ACTIVATIONS[activation]
    slopes, a = [], x
    for w, b in zip(weights, biases, strict=True):
        a = g(w * a + b)
        slopes.append(backward(torch.ones_like(a), a))  # σ'(z), of a = σ(z)
    later = torch.cat([weights[1:], weights.new_ones(1)])  # w₂ … w_L, and 1 for C itself
    return torch.stack([w * slope for w, slope in zip(later, slopes, strict=True)]).to(a.dtype)


def bias_gradients(weights: Tensor, biases: Tensor, x: Tensor, activation: str) -> Tensor:
    r"""Return ∂C/∂b_l of every layer of a chain, by the product formula, for ∂C/∂a_L = 1.

    ∂C/∂b_l = f_l f_{l+1} ⋯ f_L

    Args:
        weights: as in `factors`.
        biases: as in `factors`.
        x: as in `factors`.
        activation: as in `factors`.

    Returns:
        ∂C/∂b₁ to ∂C/∂b_L, (L, *x.shape).

    Raises:
        ValueError: as `factors`.

    Example:
        >>> w, b = torch.ones(9), torch.zeros(9)
        >>> gradients = bias_gradients(w, b, torch.tensor(0.0), "sigmoid")
        >>> bool(gradients[0] < 0.25**8 * gradients[8])
        True

    Source: lecture, "What causes vanishing/exploding gradient?".
    """
    return factors(weights, biases, x, activation).flip(0).cumprod(0).flip(0)


_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "sigmoid": (activations.sigmoid, activations.sigmoid_backward),
    "tanh": (activations.tanh, activations.tanh_backward),
    "relu": (activations.relu, activations.relu_backward),
}
