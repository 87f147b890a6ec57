"""Planted bugs of the whole chain, each on the way forward or back through a layer."""

from __future__ import annotations

_MODULE = "chain"

ROWS = [
    ("chain", bug, _MODULE, old, new)
    for bug, old, new in (
        ("cost summed", "dZ = (log_A.exp() - Y) / m", "dZ = log_A.exp() - Y"),
        ("da = −1/a of every class", "(log_A.exp() - Y)", "(log_A.exp() - 1)"),
        ("batch norm left out between Wᵀdz and g'(z̃)",
         "dZ = gamma / (var + eps).sqrt() * (dZ_tilde - dbeta / m - Z_norm * dgamma / m)", "dZ = dZ_tilde"),
        ("μ and σ² constant", "(dZ_tilde - dbeta / m - Z_norm * dgamma / m)", "dZ_tilde"),
        ("no dμ", "dZ_tilde - dbeta / m - ", "dZ_tilde - "),
        ("no dσ²", " - Z_norm * dgamma / m)", ")"),
        ("γ left out of dz_norm", "dZ = gamma / (var", "dZ = 1 / (var"),
        ("unbiased variance", "square().mean(0)", "square().sum(0) / (m - 1)"),
        ("no ε on the way back", "dZ = gamma / (var + eps)", "dZ = gamma / var"),
        ("dγ without z_norm", "dgamma = (dZ_tilde * Z_norm)", "dgamma = dZ_tilde"),
        ("dγ of z̃", "dgamma = (dZ_tilde * Z_norm)", "dgamma = (dZ_tilde * Z_tilde)"),
        ("dβ averaged", "dbeta = dZ_tilde.sum(0)\n", "dbeta = dZ_tilde.mean(0)\n"),
        ("dW of the activations of another layer", "dW = dZ.T @ A\n", "dW = dZ.T @ kept[layer % depth][0][:, : A.shape[1]]\n"),
        ("g'(z) for g'(z̃)", "_slope(activations[layer - 1], Z_tilde)", "_slope(activations[layer - 1], Z_norm)"),
        ("g' of the layer after", "_slope(activations[layer - 1], Z_tilde)", "_slope(activations[min(layer, depth - 1)], Z_tilde)"),
        ("σ' = σ", "return a * (1 - a)", "return a"),
        ("tanh' = 1 − tanh", "return 1 - a * a", "return 1 - a"),
        ("the slope rounded to single precision", "torch.where(z > 0, torch.ones_like(z), 0.0 if name == \"relu\" else SLOPE)",
         "torch.where(z > 0, 1.0, 0.0 if name == \"relu\" else SLOPE).to(z.dtype)"),
        ("no bias at the logits", "Z = A @ W.T + b", "Z = A @ W.T"),
        ("db averaged", "found[\"logits.bias\"] = dZ.sum(0)", "found[\"logits.bias\"] = dZ.mean(0)"),
    )
]  # fmt: skip
