"""Planted bugs of dropout."""

from __future__ import annotations

_OP, _MODULE = "ops.dropout", "ops.dropout.reference"

ROWS = [
    (subject, bug, module, old, new)
    for subject in ("dropout", "dropout1d", "dropout2d", "dropout3d")
    for bug, module, old, new in (
        ("p ↔ 1 − p", _MODULE, "keep_prob = 1 - p", "keep_prob = p"),
        ("not divided by keep_prob", _MODULE, "(scale / keep_prob if keep_prob else scale)", "scale"),
        ("mask inverted", _MODULE, "scale = mask.to(a.dtype)", "scale = (~mask).to(a.dtype)"),
        ("mask forgotten", _MODULE, "scale = mask.to(a.dtype)", "scale = (mask | True).to(a.dtype)"),
        ("where for multiply", _MODULE,
         "return a * (scale / keep_prob if keep_prob else scale)",
         "return (a / (keep_prob or 1)).where(mask, 0)"),
        ("no mask in backward", _MODULE, "return forward(da, mask, p)", "return da / (1 - p or 1)"),
        ("no scale in backward", _MODULE, "return forward(da, mask, p)", "return da * mask"),
        ("divided in another order", _MODULE,
         "a * (scale / keep_prob if keep_prob else scale)", "a * scale / (keep_prob or 1)"),
        ("identity", _OP, "if not training or (p == 0 and mask is None):", "if True:"),
    )
]  # fmt: skip
