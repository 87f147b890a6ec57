"""Planted bugs of the difference quotients."""

from __future__ import annotations

_MODULE = "verification.functions.quotients"

ROWS = [
    ("numerical_gradients", bug, _MODULE, old, new)
    for bug, old, new in (
        ("one-sided, to the other side", "return (f(x + eps) - f(x)) / eps", "return (f(x) - f(x - eps)) / eps"),
        ("one-sided over 2ε", "return (f(x + eps) - f(x)) / eps", "return (f(x + eps) - f(x)) / (2 * eps)"),
        ("one-sided with the wrong sign", "return (f(x + eps) - f(x)) / eps", "return (f(x) - f(x + eps)) / eps"),
        ("one-sided in place of two-sided", "return (f(x + eps) - f(x - eps)) / (2 * eps)", "return (f(x + eps) - f(x)) / eps"),
        ("two-sided over ε", "return (f(x + eps) - f(x - eps)) / (2 * eps)", "return (f(x + eps) - f(x - eps)) / eps"),
        ("2ε without brackets", "return (f(x + eps) - f(x - eps)) / (2 * eps)", "return (f(x + eps) - f(x - eps)) / 2 * eps"),
        ("two-sided with half of ε", "return (f(x + eps) - f(x - eps)) / (2 * eps)", "return (f(x + eps / 2) - f(x - eps / 2)) / eps"),
        ("two-sided with uneven sides", "return (f(x + eps) - f(x - eps)) / (2 * eps)", "return (f(x + eps) - f(x - 2 * eps)) / (3 * eps)"),
        ("ε of the lecture whatever is given", "return (f(x + eps) - f(x - eps)) / (2 * eps)", "return (f(x + 1e-7) - f(x - 1e-7)) / 2e-7"),
        ("in float32", "return (f(x + eps) - f(x)) / eps", "import numpy as np\n    x = np.float32(x)\n    return (f(np.float32(x + eps)) - f(x)) / eps"),
    )
]  # fmt: skip
