"""Planted bugs of batch norm."""

from __future__ import annotations

_OP, _MODULE = "ops.batch_norm", "ops.batch_norm.reference"

ROWS = [
    ("batch_norm", bug, module, old, new)
    for bug, module, old, new in (
        ("no x̂ term in dx", _MODULE, " - z_norm * _per_channel(mean_dy_z, z)", ""),
        ("no mean term in dx", _MODULE, " - _per_channel(mean_dy, z)", ""),
        ("no γ in dx", _MODULE, "inv_std if weight is None else inv_std * wide(weight)", "inv_std"),
        ("N−1 for N in dx", _MODULE,
         "total(torch.stack([dbias, dweight])) / m", "total(torch.stack([dbias, dweight])) / (m - 1)"),
        ("no inv_std in dx", _MODULE,
         "scale = inv_std if weight is None else inv_std * wide(weight)",
         "scale = inv_std / inv_std if weight is None else wide(weight)"),
        ("dγ without inv_std", _MODULE,
         "dweight = (dy * z_norm)", "dweight = (dy * z_norm / _per_channel(inv_std, z))"),
        ("dβ is the mean", _MODULE, "dbias = dy.sum(", "dbias = dy.mean("),
        ("ε dropped", _MODULE, "(wide(var) + eps)", "wide(var)"),
        ("ε 1.1 times", _MODULE, "(wide(var) + eps)", "(wide(var) + 1.1 * eps)"),
        ("ε outside the root", _MODULE, "(wide(var) + eps).rsqrt()", "1 / (wide(var).sqrt() + eps)"),
        ("variance as E[x²] − E[x]²", _MODULE,
         "(z - _per_channel(mean, z)).square().mean(_but_channels(z))",
         "z.square().mean(_but_channels(z)) - mean.square()"),
        ("normalized by the unbiased variance", _MODULE,
         "square().mean(_but_channels(z))",
         "square().sum(_but_channels(z)) / (count(z) - 1)"),
        ("biased running variance", _MODULE, "var * (m / (m - 1))", "var"),
        ("momentum ↔ 1 − momentum", _MODULE,
         "(1 - momentum) * wide(average) + momentum * value", "momentum * wide(average) + (1 - momentum) * value"),
        ("running mean not moved", _MODULE, "    move(running_mean, mean, momentum)\n", ""),
        ("batch statistics in evaluation", _OP,
         "    if training:\n        return reference.statistics", "    if True:\n        return reference.statistics"),
        ("training backward in evaluation", _OP, "reference.count(z) if ctx.training else None", "reference.count(z)"),
        ("evaluation backward in training", _OP, "reference.count(z) if ctx.training else None", "None"),
        ("weight's size for the gradient ignored", _OP,
         "dweight.to(weight.dtype) if needs_weight", "2 * dweight.to(weight.dtype) if needs_weight"),
        ("no bias added", _MODULE, "y = y + _per_channel(wide(bias), z)", "pass"),
    )
]  # fmt: skip
