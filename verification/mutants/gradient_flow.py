"""Planted bugs of the lecture's chain of single units."""

from __future__ import annotations

_MODULE = "gradient_flow"

ROWS = [
    ("gradient_flow", bug, _MODULE, old, new)
    for bug, old, new in (
        ("the layer's own weight", "later = torch.cat([weights[1:], weights.new_ones(1)])", "later = weights"),
        ("weights one layer late", "torch.cat([weights[1:], weights.new_ones(1)])", "torch.cat([weights.new_ones(1), weights[1:]])"),
        ("weights left out", "torch.stack([w * slope for", "torch.stack([slope for"),
        ("slopes left out", "torch.stack([w * slope for", "torch.stack([w * torch.ones_like(slope) for"),
        ("the size of the weights alone", "torch.stack([w * slope for", "torch.stack([w.abs() * slope for"),
        ("no bias", "a = g(w * a + b)", "a = g(w * a)"),
        ("the slope of z in place of a", "backward(torch.ones_like(a), a)", "backward(torch.ones_like(a), w * a + b)"),
        ("layers in the wrong order", ".flip(0).cumprod(0).flip(0)", ".cumprod(0)"),
        ("not turned back", ".flip(0).cumprod(0).flip(0)", ".flip(0).cumprod(0)"),
        ("a factor in place of the product", ".flip(0).cumprod(0).flip(0)", ".clone()"),
        ("a sum in place of the product", ".flip(0).cumprod(0).flip(0)", ".flip(0).cumsum(0).flip(0)"),
        ("last slope left out", "return torch.stack([w * slope", "slopes[-1] = torch.ones_like(slopes[-1])\n    return torch.stack([w * slope"),
        ("sigmoid and tanh exchanged", "g, backward = _ACTIVATIONS[activation]", "g, backward = _ACTIVATIONS[{'sigmoid': 'tanh', 'tanh': 'sigmoid'}.get(activation, activation)]"),
    )
]  # fmt: skip
