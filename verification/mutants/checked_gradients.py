"""Planted bugs of the gradient check."""

from __future__ import annotations

_CHECKS = "verification.functions.gradient_checks"
_DIFFERENCES = "verification.functions.differences"

ROWS = [
    ("gradient_check", bug, module, old, new)
    for bug, module, old, new in (
        ("the gradient beside itself", _DIFFERENCES, "approx.append(two_sided(J, x, eps))", "approx.append(gradient[indices[len(approx)]].item())"),
        ("half the quotient", _DIFFERENCES, "approx.append(two_sided(J, x, eps))", "approx.append(two_sided(J, x, eps) / 2)"),
        ("a large ε", _DIFFERENCES, "approx.append(two_sided(J, x, eps))", "approx.append(two_sided(J, x, 0.1))"),
        ("the first parameter alone", _CHECKS, "parts = {EVERY: together(list(parts.values())), **parts}", "parts = {EVERY: together(list(parts.values())[:1]), **parts}"),
        ("not divided by the sizes", _DIFFERENCES, "return gap / size if size else 0.0, gap", "return gap / 1e6, gap"),
        ("sizes without the exact one's sign", _DIFFERENCES, "gap = float(np.linalg.norm(approx - exact))", "gap = float(np.linalg.norm(np.abs(approx) - np.abs(exact)))"),
        ("lengths compared, not vectors", _DIFFERENCES, "gap = float(np.linalg.norm(approx - exact))", "gap = float(abs(np.linalg.norm(approx) - np.linalg.norm(exact)))"),
        ("an element left as it was moved", _DIFFERENCES, "        element.fill_(before)\n", ""),
    )
]  # fmt: skip
