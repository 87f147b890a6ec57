"""Cross-entropy: with the whole distribution of the targets, by class indices, class by class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verification.false_alarms.rewrites import wide

# scores and target probabilities (R, C), weights (C,), smoothing -> loss of each row (R,)
Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def _distribution(z: Tensor, y: Tensor, w: Tensor, smoothing: float) -> Tensor:
    q = w * (y * (1 - smoothing) + smoothing / z.shape[1])
    shifted = z - z.amax(1, keepdim=True).detach()
    return -(q * (shifted - shifted.exp().sum(1, keepdim=True).log())).sum(1)


def _log_sum(z: Tensor, y: Tensor, w: Tensor, smoothing: float) -> Tensor:
    """Σ q (lse − z), of which the two parts of q are summed apart."""
    behind = torch.logsumexp(z, 1, keepdim=True) - z
    true, every = (w * y * behind).sum(1), torch.mv(behind, w)
    return true * (1 - smoothing) + every * (smoothing / z.shape[1])


def _class_by_class(z: Tensor, y: Tensor, w: Tensor, smoothing: float) -> Tensor:
    z = z - z.amax(1, keepdim=True).detach()  # the sum is rounded as often as there are classes
    normalizer = z[:, 0]
    for score in z.T[1:]:
        normalizer = torch.logaddexp(normalizer, score)
    loss = torch.zeros_like(normalizer)
    for c in reversed(range(z.shape[1])):
        q = w[c] * ((1 - smoothing) * y[:, c] + smoothing / z.shape[1])
        loss = loss + q * (normalizer - z[:, c])
    return loss


def _cross_entropy(rows: Loss, inside: torch.dtype | None = None) -> Callable[..., Tensor]:
    def cross_entropy(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        axis = 0 if input.dim() == 1 else 1
        classes, dtype = input.shape[axis], inside or wide(input).dtype
        z = input.movedim(axis, -1).reshape(-1, classes).to(dtype)  # (R, C)
        w = torch.ones(classes) if weight is None else weight
        w = w.to(dtype)
        kept = torch.ones(len(z), dtype=torch.bool)
        if target.is_floating_point():
            y = target.movedim(axis, -1).reshape(-1, classes).to(dtype)
            divisor: float | Tensor = len(z)
        else:
            labels = target.reshape(-1).long()
            kept = labels != ignore_index
            labels = torch.where(kept, labels, 0)
            if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
                raise IndexError(f"Target is out of bounds for {classes} classes")
            y = (labels[:, None] == torch.arange(classes)).to(dtype)
            divisor = (w[labels] * kept).sum()
        loss = torch.where(kept, rows(z, y, w, label_smoothing), 0)
        if reduction == "none":
            shape = input.shape[:axis] + input.shape[axis + 1 :]
            return loss.reshape(shape).to(input.dtype)
        total = loss.sum()
        return (total / divisor if reduction == "mean" else total).to(input.dtype)

    return cross_entropy


REWRITES = {
    "cross_entropy": {
        "whole distribution": _cross_entropy(_distribution),
        "float64 inside": _cross_entropy(_log_sum, torch.float64),
        "class by class": _cross_entropy(_class_by_class),
    }
}
