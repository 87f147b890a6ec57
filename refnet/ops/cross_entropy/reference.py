"""Softmax cross-entropy, the lecture's "Loss function softmax" and "Gradient descent with softmax".

Legend: z logits (N, C, *), classes in dimension `dim` (1, or 0 without a batch); a = softmax(z);
y target, class indices (N, *) or probabilities (N, C, *); w weight (C); s label smoothing.

Every option is one set of soft targets q (N, C, *): the loss of a row is L = −Σ_c q_c log a_c, and
because a sums to 1, dL/dz = a Σ_c q_c − q, which is the lecture's A − Y where q is one-hot.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from refnet.ops import wide


class Options(NamedTuple):
    """The options that are no tensors."""

    ignore_index: int
    label_smoothing: float
    reduction: str


def class_dim(z: Tensor) -> int:
    """The classes are in dimension 1, or 0 where there is no batch."""
    return 0 if z.dim() == 1 else 1


def log_probabilities(logits: Tensor) -> Tensor:
    """log a = z − log Σ_c e^{z_c}, in float64.

    The maximum is detached, since a shift of all z has derivative 0 in log a.
    """
    z, dim = wide(logits), class_dim(logits)
    if not z.numel():  # no maximum to take
        return z
    top = z.amax(dim, keepdim=True).detach()
    z = z - top
    return z - z.exp().sum(dim, keepdim=True).log()


def forward(logits: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """The loss: of every row, their sum, or their mean."""
    log_a = log_probabilities(logits)
    losses = _losses(log_a, target, weight, options)
    if options.reduction == "sum":
        losses = losses.sum()
    elif options.reduction == "mean":
        losses = losses.sum() / _divisor(log_a, target, weight, options)
    return losses.to(_result_dtype(logits, target, weight))


def backward(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor:
    """dZ = g (A Σq − Q): the lecture's dZ = A − Y, row by row scaled with the loss' cotangent."""
    a, dim = log_probabilities(logits).exp(), class_dim(logits)
    q = _soft_targets(a, target, weight, options)
    dz = _row_cotangent(grad, a, target, weight, options) * (a * q.sum(dim, keepdim=True) - q)
    dz = dz.contiguous()  # as the builtin's is
    if _is_probabilities(target):
        return dz
    # where, not times: with every row ignored the mean's divisor is 0
    return torch.where(_kept(target, options)[0].unsqueeze(dim), dz, 0)


def backward_probabilities(
    grad: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> tuple[Tensor, Tensor]:
    """dL/dy_c = −g (1 − s) w_c log a_c, and dL/dw_c = −Σ g ỹ_c log a_c with ỹ the smoothed y."""
    log_a, dim = log_probabilities(logits), class_dim(logits)
    upstream = -_row_cotangent(grad, log_a, target, weight, options) * log_a
    dtarget = upstream * (1 - options.label_smoothing) * _per_class(weight, log_a)
    dweight = (upstream * _smooth(target, log_a, options)).movedim(dim, -1)
    return dtarget, dweight.reshape(-1, log_a.shape[dim]).sum(0)


def _losses(log_a: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """L of every row, shape (N, *)."""
    dim = class_dim(log_a)
    if _is_probabilities(target):
        return -(_soft_targets(log_a, target, weight, options) * log_a).sum(dim)
    s, classes = options.label_smoothing, log_a.shape[dim]
    kept, own = _kept(target, options)
    own = own.unsqueeze(dim)
    w = _per_class(weight, log_a)
    # gather, not a sum over one-hot: 0 · −inf would spoil a row with a logit of −inf
    losses = -(w * log_a).gather(dim, own).squeeze(dim) * (1 - s)
    if s:
        losses = losses - (w * log_a).sum(dim) * (s / classes)
    return torch.where(kept, losses, 0)


def _divisor(
    like: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor | float:
    """What the mean divides by: the number of rows, or the summed weight of the rows kept."""
    dim = class_dim(like)
    if _is_probabilities(target):
        return like.numel() / like.shape[dim] if like.numel() else 0.0
    kept, own = _kept(target, options)
    weights = _per_class(weight, like).gather(dim, own.unsqueeze(dim)).squeeze(dim)
    return torch.where(kept, weights, 0).sum()


def _row_cotangent(
    grad: Tensor, like: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor:
    """g of every row, shaped to go with (N, C, *)."""
    grad = wide(grad)
    if options.reduction == "mean":
        grad = grad / _divisor(like, target, weight, options)
    return grad if options.reduction != "none" else grad.unsqueeze(class_dim(like))


def _soft_targets(like: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
    """q = w ỹ, (N, C, *); for class indices y is one-hot. Rows to ignore are the caller's."""
    dim = class_dim(like)
    if not _is_probabilities(target):
        _, own = _kept(target, options)
        target = torch.zeros_like(like).scatter(dim, own.unsqueeze(dim), 1)
    return _smooth(target, like, options) * _per_class(weight, like)


def _smooth(target: Tensor, like: Tensor, options: Options) -> Tensor:
    """ỹ = (1 − s) y + s/C."""
    s = options.label_smoothing
    return wide(target) * (1 - s) + s / max(like.shape[class_dim(like)], 1)


def _kept(target: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Which rows count, and the indices with 0 in place of the rows that don't."""
    target = target.long()  # uint8 would wrap a negative ignore_index
    kept = target != options.ignore_index
    return kept, torch.where(kept, target, 0)


def _per_class(weight: Tensor | None, like: Tensor) -> Tensor:
    """w as (C, 1, …), expanded to (N, C, *); ones without a weight."""
    if weight is None:
        return like.new_ones(()).expand(like.shape)
    trailing = like.dim() - class_dim(like) - 1
    return wide(weight).reshape(-1, *[1] * trailing).expand(like.shape)


def _is_probabilities(target: Tensor) -> bool:
    return target.is_floating_point()


def _result_dtype(logits: Tensor, target: Tensor, weight: Tensor | None) -> torch.dtype:
    """Class indices leave the logits' dtype; probabilities and their weight promote it."""
    if not _is_probabilities(target):
        return logits.dtype
    dtype = torch.promote_types(logits.dtype, target.dtype)
    return dtype if weight is None else torch.promote_types(dtype, weight.dtype)
