"""Planted bugs of the activations."""

from __future__ import annotations

_OP, _MODULE = "ops.activations", "ops.activations.reference"

ROWS = [
    (subject, bug, module, old, new)
    for subject, bug, module, old, new in (
        ("relu", "NaN becomes 0", _MODULE,
         "torch.where(z <= 0, torch.zeros_like(z), z)", "torch.where(z > 0, z, torch.zeros_like(z))"),
        ("relu", "gradient 1 at 0", _MODULE, "torch.where(a <= 0,", "torch.where(a < 0,"),
        ("relu", "gradient everywhere", _MODULE,
         "return torch.where(a <= 0, torch.zeros_like(da), da)", "return da"),
        ("relu", "no gradient", _MODULE,
         "torch.where(a <= 0, torch.zeros_like(da), da)", "torch.zeros_like(da)"),
        ("relu", "absolute value", _MODULE, "torch.where(z <= 0, torch.zeros_like(z), z)", "z.abs()"),
        ("leaky_relu", "slope ignored", _MODULE,
         "torch.where(z > 0, z, z * negative_slope)", "torch.where(z > 0, z, z * 0.01)"),
        ("leaky_relu", "gradient's slope ignored", _MODULE, "da * negative_slope", "da * 0.01"),
        ("leaky_relu", "gradient 1 at 0", _MODULE,
         "torch.where(z > 0, da,", "torch.where(z >= 0, da,"),
        ("leaky_relu", "output saved for a negative slope", _OP,
         "ctx.save_for_backward(z)", "ctx.save_for_backward(output)"),
        ("leaky_relu", "slope on the positive side", _MODULE,
         "torch.where(z > 0, z, z * negative_slope)", "torch.where(z > 0, z * negative_slope, z)"),
        ("tanh", "1 − a", _MODULE, "(1 - a * a).conj()", "(1 - a).conj()"),
        ("tanh", "1 + a²", _MODULE, "(1 - a * a).conj()", "(1 + a * a).conj()"),
        ("tanh", "no gradient", _MODULE, "return da * (1 - a * a).conj()", "return da * 0"),
        ("tanh", "a sigmoid", _MODULE, "return z.tanh()", "return sigmoid(z)"),
        ("tanh", "through exponentials that overflow", _MODULE, "return z.tanh()",
         "return (z.exp() - (-z).exp()) / (z.exp() + (-z).exp())"),
        ("tanh", "beside zero", _MODULE, "return z.tanh()",
         "return torch.where(z.abs() < 1e-15, z + 1e-12, z.tanh())"),
        ("sigmoid", "no left tail", _MODULE, "(torch.where(z >= 0, 1, e) / (1 + e))",
         "torch.where(z < -25, 0 * e, torch.where(z >= 0, 1, e) / (1 + e))"),
        ("sigmoid", "g' = a", _MODULE, "(a * (1 - a)).conj()", "a"),
        ("sigmoid", "g' = 1 − a", _MODULE, "(a * (1 - a)).conj()", "1 - a"),
        ("sigmoid", "g' ≤ 1", _MODULE, "(a * (1 - a)).conj()", "(4 * a * (1 - a)).conj()"),
        ("sigmoid", "the other tail", _MODULE,
         "torch.where(z >= 0, 1, e) / (1 + e)", "torch.where(z >= 0, e, 1) / (1 + e)"),
        ("sigmoid", "the small tail lost", _MODULE,
         "(torch.where(z >= 0, 1, e) / (1 + e))", "torch.where(z >= 0, 1 / (1 + e), 1 - 1 / (1 + e))"),
    )
]  # fmt: skip
