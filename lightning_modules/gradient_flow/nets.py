"""How far the gradient comes in a deep net, by activation, initial weights and batch norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from refnet import init, nn

ACTIVATIONS = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}


def _normal(std: float) -> Callable[[Tensor, Generator], Tensor]:
    return lambda weight, generator: weight.normal_(0, std, generator=generator)


INITIALIZATIONS: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {
    **init.RULES,
    "standard_normal": _normal(1.0),  # too large: w[l] = np.random.randn(...) alone
    "small_normal": _normal(0.01),  # nearly zero
    "unit_uniform": lambda weight, generator: weight.uniform_(-1, 1, generator=generator),
}


def gradients(
    activation: str,
    initialization: str,
    *,
    depth: int = 20,
    width: int = 64,
    batch_norm: bool = False,
    examples: int = 128,
    seed: int = 0,
) -> list[float]:
    r"""Return the size of ∂C/∂b of each layer of a deep net, just after it has been initialized.

    $z^{[l]} = W^{[l]} a^{[l-1]} + b^{[l]}$ (then batch norm, whose shift takes the place of $b$),
    $a^{[l]} = g(z^{[l]})$; C is such that the entries of $\partial C / \partial a^{[L]}$ are drawn
    from N(0, 1). Each example has a C of its own, so that nothing averages out. In float64.

    Args:
        activation: g, one of `ACTIVATIONS`.
        initialization: of the weights, one of `INITIALIZATIONS`; biases are 0.
        depth: L, layers.
        width: units of each layer; 1 is the lecture's chain.
        batch_norm: between z and g.
        examples: of the mini-batch, of inputs from N(0, 1).
        seed: of weights, inputs and C.

    Returns:
        The root mean square over units and examples, for the layers 1 to L.

    Raises:
        ValueError: naming the argument and its value.

    Example:
        >>> first, *_, last = gradients("sigmoid", "xavier_normal", depth=10)
        >>> first < last / 4**9
        True

    Source: lecture, "What causes vanishing/exploding gradient?".
    """
    for name, value, known in (
        ("activation", activation, ACTIVATIONS),
        ("initialization", initialization, INITIALIZATIONS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {list(known)}, got {value!r}")
    for name, number in (("depth", depth), ("width", width), ("examples", examples)):
        least = 2 if name == "examples" and batch_norm else 1
        if number < least:
            raise ValueError(f"{name} must be at least {least}, got {number}")
    generator = torch.Generator().manual_seed(seed)
    g = ACTIVATIONS[activation]()
    a = torch.randn(examples, width, generator=generator, dtype=torch.float64)
    shifted = []
    for _ in range(depth):
        linear = nn.Linear(width, width, bias=False, dtype=torch.float64)
        with torch.no_grad():
            INITIALIZATIONS[initialization](linear.weight, generator=generator)  # type: ignore[call-arg]
        z = linear(a)  # (examples, width), b = 0
        shifted.append(nn.BatchNorm1d(width, dtype=torch.float64)(z) if batch_norm else z)
        a = g(shifted[-1])
    top = torch.randn(examples, width, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(a, shifted, top)
    return [float(gradient.square().mean().sqrt()) for gradient in found]
