"""Inverted dropout, the lecture's "Implementing dropout".

Legend: a input, d the keep-mask (true: kept), p = 1 − keep_prob, da = dL/d output.
"""

from __future__ import annotations

from torch import Tensor


def forward(a: Tensor, mask: Tensor, p: float) -> Tensor:
    """a * d / keep_prob.

    Multiplied, not selected: inf · 0 is NaN here, as in the builtin. The division is done on the
    mask and in the input's dtype, in the builtin's order, so that the results are the same bits.
    """
    keep_prob = 1 - p
    scale = mask.to(a.dtype)
    return a * (scale / keep_prob if keep_prob else scale)


def backward(da: Tensor, mask: Tensor, p: float) -> Tensor:
    """The same mask and the same scale: da * d / keep_prob."""
    return forward(da, mask, p)
