"""Batch norm: ways to take the mean and the variance, and ways to apply them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from verification.false_alarms.rewrites import wide

Moments = Callable[[Tensor], tuple[Tensor, Tensor]]  # (m, C) -> mean and biased variance, (C,)
Normalize = Callable[[Tensor, Tensor, Tensor, float], Tensor]  # (m, C) and those of the channels


def _two_passes(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    return mean, (x - mean).square().mean(0)


def _var_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x, 0, correction=0)
    return mean, variance


def _merged(x: Tensor) -> tuple[Tensor, Tensor]:
    """Moments of blocks of rows, merged one after another (Chan, Golub, LeVeque 1983)."""
    count, mean, squares = 0, x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    for first in range(0, len(x), 50):
        block = x[first : first + 50]
        new = len(block)
        own = block.mean(0)
        gap = own - mean
        squares = squares + (block - own).square().sum(0) + gap**2 * (count * new / (count + new))
        mean = mean + gap * (new / (count + new))
        count += new
    return mean, squares / count


def _by_root(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (x - mean) / torch.sqrt(variance + eps)


def _by_power(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return (variance + eps) ** -0.5 * (x - mean)


class _Normalize(torch.autograd.Function):
    """dx = (dy − mean(dy) − y mean(dy y)) / σ, what the batch itself is normalized by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.eps = eps
        return _by_root(x, *_two_passes(x), eps)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (x,), (dy,) = ctx.saved_tensors, cotangents
        mean, variance = _two_passes(x)  # again, so that derivatives of this go through them
        y = _by_root(x, mean, variance, ctx.eps)
        dx = (dy - dy.mean(0) - y * (dy * y).mean(0)) / torch.sqrt(variance + ctx.eps)
        return dx, None


def _batch_norm(
    moments: Moments,
    normalize: Normalize,
    dtype: torch.dtype | None = None,
    whole: Callable[[Tensor, float], Tensor] | None = None,
) -> Callable[..., Tensor]:
    """Make a batch norm; `whole` normalizes a batch by its own moments in one go."""

    def batch_norm(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        rows = input.movedim(1, -1)  # (N, …, C)
        x = wide(rows).to(dtype or wide(rows).dtype).reshape(-1, input.shape[1])
        count = len(x)
        if training and count == 1:
            shape = tuple(input.shape)
            raise ValueError(f"Expected more than 1 value per channel when training, got {shape}")
        if training and not count:
            y = x
        elif training:
            mean, variance = moments(x)
            unbiased = variance.detach() * (count / (count - 1))
            for running, new in ((running_mean, mean.detach()), (running_var, unbiased)):
                if running is not None:
                    running.copy_(running.to(x.dtype) * (1 - momentum) + new * momentum)
            y = whole(x, eps) if whole else normalize(x, mean, variance, eps)
        elif running_mean is None or running_var is None:
            raise RuntimeError("expected running_mean and running_var to be defined in evaluation")
        else:
            y = normalize(x, running_mean.to(x.dtype), running_var.to(x.dtype), eps)
        if weight is not None:
            y = y * weight.to(x.dtype)
        if bias is not None:
            y = y + bias.to(x.dtype)
        return y.reshape(rows.shape).movedim(-1, 1).to(input.dtype)

    return batch_norm


def _group_norm(x: Tensor, eps: float) -> Tensor:
    """A group of one channel in a batch of one example has all of the batch's values."""
    channels = x.shape[1]
    return functional.group_norm(x.T[None], channels, eps=eps)[0].T


REWRITES = {
    "batch_norm": {
        "two passes": _batch_norm(_two_passes, _by_power),
        "float64 inside": _batch_norm(_var_mean, _by_root, torch.float64),
        "blocks merged": _batch_norm(_merged, _by_root),
        "by group norm": _batch_norm(_var_mean, _by_root, whole=_group_norm),
        "backward by hand": _batch_norm(_two_passes, _by_root, whole=_Normalize.apply),
    }
}
