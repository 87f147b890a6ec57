"""The lecture's chain of single units, and difference quotients, each number on its own.

Lecture -> code: dC/db_1 = s'(z_1) w_2 s'(z_2) ... w_L s'(z_L) dC/da_L, here with dC/da_L = 1.
Erratum 7: s(z) <= 1/4 means s'(z) <= 1/4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact

_Function = Callable[[Exact], Exact]


def chain_of_units(
    weights: npt.ArrayLike, biases: npt.ArrayLike, x: npt.ArrayLike, activation: str
) -> Result:
    """Compute the chain's factors, and its gradients, multiplied out anew for every layer.

    Args:
        weights: w of each layer, (L).
        biases: b of each layer, (L).
        x: inputs, (m).
        activation: "sigmoid", "tanh" or "relu".

    Returns:
        "factors" and "grad b", both (L, m), and "output" (m).

    Example:
        >>> found = chain_of_units([1, 1], [0, 0], [0.0], "sigmoid").values["grad b"]
        >>> round(float(found[0, 0] / found[1, 0]), 6)
        0.25

    Source: lecture, "What causes vanishing/exploding gradient?".
    """
    w, b, a = exact(weights), exact(biases), exact(x)
    depth = len(w)
    g, slope = _ACTIVATIONS[activation]
    z = []
    for layer in range(depth):
        z.append(w[layer] * a + b[layer])
        a = g(z[layer])
    gradients = []
    for layer in range(depth):
        product = slope(z[layer])
        for later in range(layer + 1, depth):
            product = product * w[later] * slope(z[later])
        gradients.append(product)
    factors = [w[i + 1] * slope(z[i]) if i + 1 < depth else slope(z[i]) for i in range(depth)]
    return Result({"factors": np.stack(factors), "grad b": np.stack(gradients), "output": a})


_ONE = exact(1)
_ACTIVATIONS: dict[str, tuple[_Function, _Function]] = {  # s and s', each from its definition
    "sigmoid": (lambda z: _ONE / (1 + np.exp(-z)), lambda z: _ONE / (2 + np.exp(z) + np.exp(-z))),
    "tanh": (np.tanh, lambda z: np.cosh(z) ** -2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, _ONE, exact(0))),
}
