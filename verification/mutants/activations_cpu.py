"""Planted bugs of the activations' loops."""

from __future__ import annotations

_CPU = "ops.activations.cpu"

ROWS = [
    (subject, f"loop: {bug}", _CPU, old, new)
    for subject, bug, old, new in (
        ("relu", "NaN becomes 0", "a[i] = real(0) if z[i] <= 0 else z[i]", "a[i] = z[i] if z[i] > 0 else real(0)"),
        ("relu", "absolute value", "a[i] = real(0) if z[i] <= 0 else z[i]", "a[i] = abs(z[i])"),
        ("relu", "gradient 1 at 0", "dz[i] = real(0) if a[i] <= 0 else d", "dz[i] = real(0) if a[i] < 0 else d"),
        ("relu", "gradient everywhere", "dz[i] = real(0) if a[i] <= 0 else d", "dz[i] = d"),
        ("relu", "a block is left out", "-(-count // BLOCK), count,", "count // BLOCK, count,"),
        ("relu", "the input's memory as it lies", "if z.stride() != a.stride():", "if False:"),
        ("relu", "the cotangent's memory as it lies", "t if t.stride() == dz.stride() else", "t if True else"),
        ("leaky_relu", "slope ignored", "a[i] = z[i] if z[i] > 0 else z[i] * rate", "a[i] = z[i] if z[i] > 0 else z[i] * type(z[0])(0.01)"),
        ("leaky_relu", "slope on the positive side", "a[i] = z[i] if z[i] > 0 else z[i] * rate", "a[i] = z[i] * rate if z[i] > 0 else z[i]"),
        ("leaky_relu", "gradient 1 at 0", "dz[i] = d if z[i] > 0 else d * rate", "dz[i] = d if z[i] >= 0 else d * rate"),
        ("leaky_relu", "gradient's slope squared", "dz[i] = d if z[i] > 0 else d * rate", "dz[i] = d if z[i] > 0 else d * rate * rate"),
        ("tanh", "1 − a", "real(1) - a[i] * a[i]", "real(1) - a[i]"),
        ("tanh", "1 + a²", "real(1) - a[i] * a[i]", "real(1) + a[i] * a[i]"),
        ("sigmoid", "the other tail", "(real(1) if z[i] >= 0 else e)", "(e if z[i] >= 0 else real(1))"),
        ("sigmoid", "the small tail lost", "(real(1) if z[i] >= 0 else e) / (real(1) + e)", "real(1) / (real(1) + e) if z[i] >= 0 else real(1) - real(1) / (real(1) + e)"),
        ("sigmoid", "NaN becomes 1/2", "e = exp(-abs(z[i]))", "e = exp(-abs(z[i])) if z[i] == z[i] else real(1)"),
        ("sigmoid", "g' = a", "a[i] * (real(1) - a[i])", "a[i]"),
        ("sigmoid", "g' ≤ 1", "a[i] * (real(1) - a[i])", "real(4) * a[i] * (real(1) - a[i])"),
    )
]  # fmt: skip
