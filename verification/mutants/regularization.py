"""Planted bugs of the penalties and the proximal step."""

from __future__ import annotations

_MODULE = "regularization"

ROWS = [
    ("regularization", bug, _MODULE, old, new)
    for bug, old, new in (
        ("λ/m for L1 and L2", "l1 / (2 * m), l2 / (2 * m))", "l1 / m, l2 / m)"),
        ("not divided by m", "l1 / (2 * m), l2 / (2 * m))", "l1 / 2, l2 / 2)"),
        ("λ of L1 and L2 exchanged", "l1 / (2 * m), l2 / (2 * m))", "l2 / (2 * m), l1 / (2 * m))"),
        ("gradient λ/(2m) W of L2", "gradient = ctx.l1 * w.sign() + 2 * ctx.l2 * w", "gradient = ctx.l1 * w.sign() + ctx.l2 * w"),
        ("gradient λ/m sign(W) of L1", "gradient = ctx.l1 * w.sign() + 2 * ctx.l2 * w", "gradient = 2 * ctx.l1 * w.sign() + 2 * ctx.l2 * w"),
        ("a subgradient of 1 at 0", "gradient = ctx.l1 * w.sign()", "gradient = ctx.l1 * torch.where(w < 0, -1.0, 1.0)"),
        ("the norm, not its square", "l2 * w.square().sum()", "l2 * w.square().sum().sqrt()"),
        ("averaged over the weights", "l2 * w.square().sum()", "l2 * w.square().mean()"),
        ("biases too", "decayed: list[Tensor] = decay_groups(weights, 0.0)[0][\"params\"]", "decayed: list[Tensor] = list(weights.parameters())"),
        ("the last layer forgotten", "return decayed", "return decayed[:-1]"),
        ("the hard threshold", "return w.sign() * (w.abs() - threshold).clamp(min=0)", "return w * (w.abs() > threshold)"),
        ("the threshold below zero too", "(w.abs() - threshold).clamp(min=0)", "(w.abs() - threshold)"),
        ("the learning rate left out of the threshold", "soft_threshold(param, length * strength)", "soft_threshold(param, strength)"),
        ("twice the threshold", "soft_threshold(param, length * strength)", "soft_threshold(param, 2 * length * strength)"),
        ("the subgradient's step, which makes no zeros", "param.copy_(soft_threshold(param, length * strength))",
         "param.sub_(length * strength * param.sign())"),
    )
]  # fmt: skip
