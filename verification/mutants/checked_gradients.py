"""Planted bugs of the gradient check."""

from __future__ import annotations

_MODULE = "verification.functions.gradient_checks"

ROWS = [
    ("gradient_check", bug, _MODULE, old, new)
    for bug, old, new in (
        ("the gradient beside itself", "approx = [two_sided(J, x, eps) for J, x in points]", "approx = [gradient[index].item() for index in indices]"),
        ("half the quotient", "approx = [two_sided(J, x, eps) for J, x in points]", "approx = [two_sided(J, x, eps) / 2 for J, x in points]"),
        ("a large ε", "approx = [two_sided(J, x, eps) for J, x in points]", "approx = [two_sided(J, x, 0.1) for J, x in points]"),
        ("the first parameter alone", "parts = {EVERY: _together(list(parts.values())), **parts}", "parts = {EVERY: _together(list(parts.values())[:1]), **parts}"),
        ("not divided by the sizes", "return gap / size if size else 0.0, gap", "return gap / 1e6, gap"),
        ("sizes without the exact one's sign", "gap = float(np.linalg.norm(approx - exact))", "gap = float(np.linalg.norm(np.abs(approx) - np.abs(exact)))"),
        ("lengths compared, not vectors", "gap = float(np.linalg.norm(approx - exact))", "gap = float(abs(np.linalg.norm(approx) - np.linalg.norm(exact)))"),
        ("an element left as it was moved", "        element.fill_(before)\n", ""),
    )
]  # fmt: skip
