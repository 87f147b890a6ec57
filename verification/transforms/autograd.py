"""Autograd: forward mode, and kinds of cotangents."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from verification.transforms.trial import BATCH, Trial, grad, gradients, value


def forward_mode(t: Trial) -> Any:
    """Dual numbers."""
    with forward_ad.dual_level():
        return _parts(t(*_duals(t.inputs, t)))


def forward_over_reverse(t: Trial) -> Any:
    """The gradients' change along the tangents."""
    with forward_ad.dual_level():
        duals = _duals(t.leaves(), t)
        slopes = grad(t.loss(*duals), duals, create_graph=True)
        return [_parts(slope)[1] for slope in slopes]


def reverse_over_forward(t: Trial) -> Any:
    """The gradients of the change along the tangents."""
    inputs = t.leaves()
    with forward_ad.dual_level():
        return grad(_parts(t.loss(*_duals(inputs, t)))[1], inputs)


def jacobian_vectorized(t: Trial) -> Any:
    """The backward under vmap."""
    jacobian: Any = torch.autograd.functional.jacobian
    return jacobian(t, t.inputs, vectorize=True)


def batched_cotangents(t: Trial) -> Any:
    """The backward under vmap, as `gradcheck(check_batched_grad=True)` has it."""
    inputs = t.leaves()
    output = t(*inputs)
    stacked = torch.stack(_cotangents(t))
    return output, grad(output, inputs, stacked, is_grads_batched=True)


def one_cotangent_at_a_time(t: Trial) -> Any:
    """The truth of `batched_cotangents`."""
    found = [gradients(replace(t, cotangent=c))[1] for c in _cotangents(t)]
    return value(t), [torch.stack(parts) for parts in zip(*found, strict=True)]


def expanded_cotangent(t: Trial) -> Any:
    """As `sum` makes it: all strides are 0."""
    return gradients(replace(t, cotangent=t.cotangent.mean().expand(t.cotangent.shape)))


def repeated_cotangent(t: Trial) -> Any:
    """As a sum over the batch makes it: one stride is 0."""
    return gradients(replace(t, cotangent=t.cotangent.mean(0, keepdim=True).expand_as(t.cotangent)))


def strided_cotangent(t: Trial) -> Any:
    """No two numbers are neighbours."""
    columns = torch.stack([t.cotangent, t.cotangent], -1)
    return gradients(replace(t, cotangent=columns[..., 0]))


def undefined_cotangent(t: Trial) -> Any:
    """None, as `gradcheck(check_undefined_grad=True)` has it."""
    inputs = t.leaves()
    undefined: Any = torch._C._functions.UndefinedGrad()
    output = undefined(t(*inputs))
    return output, grad(output, inputs, t.cotangent)


def zeros(t: Trial) -> Any:
    """The truth of `undefined_cotangent`."""
    return value(t), [torch.zeros_like(x) for x in t.inputs]


def _cotangents(t: Trial) -> list[Tensor]:
    return [(number + 1) * t.cotangent for number in range(BATCH)]


def _duals(inputs: tuple[Tensor, ...], t: Trial) -> list[Tensor]:
    make_dual: Any = forward_ad.make_dual
    return [make_dual(x, d) for x, d in zip(inputs, t.tangents, strict=True)]


def _parts(dual: Tensor) -> tuple[Tensor, Tensor]:
    unpack_dual: Any = forward_ad.unpack_dual
    primal, tangent = unpack_dual(dual)
    return primal, torch.zeros_like(primal) if tangent is None else tangent
