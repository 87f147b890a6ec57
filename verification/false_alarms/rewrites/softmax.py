"""Softmax and log-softmax: in one go, in float64, score by score, and with a backward by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from verification.false_alarms.rewrites import wide

Along = Callable[[Tensor, int], Tensor]


def _exponentials(z: Tensor, dim: int) -> Tensor:
    return torch.exp(z - z.amax(dim, keepdim=True).detach())


def _quotient(z: Tensor, dim: int) -> Tensor:
    terms = _exponentials(z, dim)
    return terms / terms.sum(dim, keepdim=True)


def _difference(z: Tensor, dim: int) -> Tensor:
    shifted = z - z.amax(dim, keepdim=True).detach()
    return shifted - torch.log(torch.exp(shifted).sum(dim, keepdim=True))


def _score_by_score(z: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest score and Σ e^(z − largest), in one pass (Milakov, Gimelshein 2018)."""
    first, *others = z.unbind(dim)
    top, total = first.detach(), torch.exp(first - first.detach())
    for score in others:
        new = torch.maximum(top, score.detach())
        total = total * torch.exp(top - new) + torch.exp(score - new)
        top = new
    return top.unsqueeze(dim), total.unsqueeze(dim)


def _online_softmax(z: Tensor, dim: int) -> Tensor:
    top, total = _score_by_score(z, dim)
    return torch.exp(z - top) / total


def _online_log_softmax(z: Tensor, dim: int) -> Tensor:
    top, total = _score_by_score(z, dim)
    return (z - top) - torch.log(total)


class _Softmax(torch.autograd.Function):
    """dz = a (da − Σ a da)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, dim: int) -> Tensor:
        ctx.dim, a = dim, _quotient(z, dim)
        ctx.save_for_backward(a)
        return a

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (a,), (da,) = ctx.saved_tensors, cotangents
        return a * (da - (a * da).sum(ctx.dim, keepdim=True)), None


class _LogSoftmax(torch.autograd.Function):
    """dz = g − a Σ g."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, dim: int) -> Tensor:
        ctx.dim, y = dim, _difference(z, dim)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None]:
        (y,), (g,) = ctx.saved_tensors, cotangents
        return g - torch.exp(y) * g.sum(ctx.dim, keepdim=True), None


def _op(along: Along, inside: torch.dtype | None = None) -> Callable[..., Tensor]:
    def op(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
        z = input if dtype is None else input.to(dtype)
        if not z.numel():
            return z * 1
        return along(wide(z).to(inside or wide(z).dtype), dim).to(z.dtype)

    return op


REWRITES = {
    "softmax": {
        "exponentials over their sum": _op(_quotient),
        "float64 inside": _op(lambda z, dim: torch.exp(z - z.logsumexp(dim, True)), torch.float64),
        "score by score": _op(_online_softmax),
        "backward by hand": _op(_Softmax.apply),
    },
    "log_softmax": {
        "less the log of the sum": _op(_difference),
        "float64 inside": _op(lambda z, dim: z - z.logsumexp(dim, True), torch.float64),
        "score by score": _op(_online_log_softmax),
        "backward by hand": _op(_LogSoftmax.apply),
    },
}
