"""The whole chain with examples in columns: every gradient of a deep net, line by line as derived.

X -> [Z = W A -> Z~ = gamma Z_norm + beta -> A = g(Z~)] x L -> Z = W A + b -> softmax -> J

Lecture -> code: m -> `m`, the number of columns; W of layer l (n_l, n_(l-1)) -> `linear{l}.weight`,
gamma and beta -> `norm{l}.weight` and `norm{l}.bias`, W and b of the last layer -> `logits.weight`
and `logits.bias`. Batch norm goes back step by step, by dz_norm, dsigma^2 and dmu.

Errata: 4, da = -1/a is the derivative for the true class alone, dZ = A - Y is right; 5, g'(z^[1])
and W^[2] stand for layers l and l + 1; 8, the last line of the chain omits the batch norm between
W^T dz and g'(z~).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, Result, exact, largest


def chain(
    parameters: Mapping[str, npt.ArrayLike],
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    activations: Sequence[str],
    *,
    eps: float = 1e-5,
) -> Result:
    """Compute the cost of a mini-batch and the gradient of every parameter.

    Args:
        parameters: by name, in the shapes of the slides: W (n, n before), vectors (n).
        x: the mini-batch, examples in columns (n_x, m).
        y: classes (m), from 0.
        activations: g of each layer: "sigmoid", "tanh", "relu" or "leaky_relu" (slope 0.01).
        eps: added to the variance, inside the root.

    Returns:
        "cost" and "grad <parameter>". The scale of a gradient is the size that it would have if
        nothing cancelled in the batch norms behind it: with two examples nearly everything does.

    Example:
        >>> weights = {"logits.weight": np.eye(4), "logits.bias": np.zeros(4)}
        >>> y_hat = np.array([[0.3], [0.2], [0.1], [0.4]])  # one example, a column
        >>> result = chain(weights, np.log(y_hat), [1], [])
        >>> round(float(result.values["cost"]), 6), round(float(-np.log(0.2)), 6)
        (1.609438, 1.609438)
        >>> [round(float(v), 6) for v in result.values["grad logits.bias"]]  # A - Y
        [0.3, -0.8, 0.1, 0.4]

    Source: lecture, "Adding batch norm to a network", "Calculate gradient with batch norm", "Batch
    norm derivation", "Gradient descent with softmax".
    """
    p = {name: exact(value) for name, value in parameters.items()}
    a, labels = exact(x), np.asarray(y)
    m, depth, half = a.shape[1], len(activations), exact(0.5)

    def column(name: str) -> Exact:
        return p[name].reshape(-1, 1)

    kept = []
    for layer, g in enumerate(activations, start=1):
        z = p[f"linear{layer}.weight"] @ a  # (n, m)
        mu = z.sum(1, keepdims=True) / m  # (n, 1)
        var = ((z - mu) ** 2).sum(1, keepdims=True) / m
        std = np.sqrt(var + exact(eps))
        z_tilde = column(f"norm{layer}.weight") * (z - mu) / std + column(f"norm{layer}.bias")
        kept.append((a, z - mu, std, z_tilde))
        a = _ACTIVATIONS[g][0](z_tilde)
    z = p["logits.weight"] @ a + column("logits.bias")  # (C, m)
    e = np.exp(z - z.max(0))
    a_hat = e / e.sum(0)
    one_hot: Exact = exact(np.arange(len(z))[:, None] == labels)  # Y, (C, m)
    values = {"cost": -(one_hot * (z - z.max(0) - np.log(e.sum(0)))).sum() / m}

    dz = (a_hat - one_hot) / m  # dZ = A - Y, of the mean
    size = (a_hat + one_hot) / m
    scales = {}

    def keep(name: str, gradient: Exact, terms: Exact) -> None:
        values[f"grad {name}"], scales[f"grad {name}"] = gradient, largest(gradient, terms)

    keep("logits.weight", dz @ a.T, size @ np.abs(a).T)
    keep("logits.bias", dz.sum(1), size.sum(1))
    da, size = p["logits.weight"].T @ dz, np.abs(p["logits.weight"]).T @ size
    for layer in range(depth, 0, -1):
        a, centered, std, z_tilde = kept[layer - 1]
        slope = _ACTIVATIONS[activations[layer - 1]][1](z_tilde)
        gamma, w = column(f"norm{layer}.weight"), p[f"linear{layer}.weight"]
        dz_tilde, size = da * slope, size * np.abs(slope)
        keep(f"norm{layer}.weight", (dz_tilde * centered / std).sum(1),
             (size * np.abs(centered) / std).sum(1))  # fmt: skip
        keep(f"norm{layer}.bias", dz_tilde.sum(1), size.sum(1))
        dz_norm = dz_tilde * gamma
        dvar = (dz_norm * centered * -half * std**-3).sum(1, keepdims=True)
        dmu = (-dz_norm / std).sum(1, keepdims=True)
        dmu = dmu + dvar * (-2 * centered).sum(1, keepdims=True) / m
        dz, size = dz_norm / std + dvar * 2 * centered / m + dmu / m, size * np.abs(gamma) / std
        keep(f"linear{layer}.weight", dz @ a.T, size @ np.abs(a).T)  # dW = dz aT
        da, size = w.T @ dz, np.abs(w).T @ size  # da = WT dz
    return Result(values, scales)


def _logistic(z: Exact) -> Exact:
    small = np.exp(-np.abs(z))
    a: Exact = np.where(z >= 0, 1, small) / (1 + small)
    return a


_Function = Callable[[Exact], Exact]
_ACTIVATIONS: dict[str, tuple[_Function, _Function]] = {  # g and g'
    "sigmoid": (_logistic, lambda z: _logistic(z) * _logistic(-z)),
    "tanh": (np.tanh, lambda z: np.cosh(z) ** -2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: np.where(z > 0, exact(1), 0)),
    "leaky_relu": (
        lambda z: np.where(z > 0, z, exact(0.01) * z),
        lambda z: np.where(z > 0, exact(1), exact(0.01)),
    ),
}
