"""Planted bugs of the linear layer."""

from __future__ import annotations

_MODULE = "ops.linear.reference"

ROWS = [
    ("linear", bug, _MODULE, old, new)
    for bug, old, new in (
        ("bias forgotten", "return z if bias is None else z + bias", "return z"),
        ("bias subtracted", "z + bias", "z - bias"),
        ("dA is the forward", "matmul(matrix.conj())", "matmul(matrix.flip(0))"),
        ("dA of one example for all", "da = _rows(dz, weight.shape)",
         "da = _rows(dz, weight.shape)[:1].expand(_rows(dz, weight.shape).shape)"),
        ("dW averaged over the examples", "rows.t().matmul(a)",
         "rows.t().matmul(a).div(rows.shape[0])"),
        ("dW of the first example", "rows.t().matmul(a)", "rows[:1].t().matmul(a[:1])"),
        ("db averaged", "return dz.sum_to_size(shape)",
         "return dz.sum_to_size(shape) / (dz.numel() // shape.numel())"),
        ("db twice", "return dz.sum_to_size(shape)", "return 2 * dz.sum_to_size(shape)"),
        ("dA zero", "matmul(matrix.conj())", "matmul(0 * matrix)"),
        ("rounded to half precision", "z = a.matmul(weight.t())",
         "z = a.bfloat16().to(a.dtype).matmul(weight.t())"),
    )
]  # fmt: skip
