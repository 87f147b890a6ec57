"""Uses that differ in the parameters, and in the gradients that these get."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from verification.optimizers.uses.steps import (
    F64,
    Make,
    Options,
    parameters,
    take_steps,
)

LARGE = 3 * 2**15 + 1  # elements: more than a block, a thread's share or a vector, and odd


def every_shape(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """A matrix, a vector, a number, nothing; parameters come from an iterator."""
    params = parameters()
    optimizer = make(iter(params), **options)
    take_steps(optimizer, params)
    return optimizer, params


def complex_numbers(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Their real and imaginary parts count as numbers of their own."""
    params = parameters(dtype=torch.complex128)
    optimizer = make(params, **options)
    take_steps(optimizer, params)
    return optimizer, params


def laid_out(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Transposed, channels-last and sliced parameters; gradients that lie otherwise."""
    matrix, images, long = parameters(((3, 2), (2, 3, 4, 4), (4, 6)))
    views = [matrix.detach().t(), images.detach().to(memory_format=torch.channels_last)]
    params: list[Tensor] = [torch.nn.Parameter(v) for v in (*views, long.detach()[:, ::2])]
    optimizer = make(params, **options)
    take_steps(optimizer, params)
    return optimizer, params


def added_group(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """The second group has a learning rate of its own, the third one comes later."""
    params = parameters(((3, 2), (4,), (2,)))
    optimizer = make([{"params": params[:1]}, {"params": params[1], "lr": 0.2}], **options)
    take_steps(optimizer, params[:2])
    optimizer.add_param_group({"params": params[2], "lr": 0.01})
    take_steps(optimizer, params)
    return optimizer, params


def absent(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Gradients that come and go; one of zeros is another thing; a frozen parameter."""
    params = parameters(((3, 2), (4,), (2,), (5,)))
    params[1].requires_grad_(False)
    optimizer = make(params, **options)
    for count in range(5):
        take_steps(optimizer, params[2:] if count % 2 else params[:1], 1, count)
        for p in params:
            p.grad = torch.zeros_like(p) if p is params[3] and count else None
        optimizer.step()
    return optimizer, [params[0], params[2], params[3]]


def frozen(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Who has a gradient is stepped, although it needs none any more."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    params[0].requires_grad_(False)
    take_steps(optimizer, params)
    return optimizer, params


def no_parameters(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """An optimizer of nothing is refused."""
    return make([], **options), []


def large(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """A parameter that no block, thread or vector holds in whole."""
    params = parameters(((LARGE,),))
    optimizer = make(params, **options)
    take_steps(optimizer, params, 2)
    return optimizer, params


def not_finite(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """NaN and ∞ among the last gradients go where they go in the builtin.

    One step further 0·∞ would be NaN in a right rewrite that multiplies by a decay of 0;
    with a β₁ of 0 it is so at once.
    """
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **{name: v for name, v in options.items() if name != "betas"})
    take_steps(optimizer, params)
    for p, values in zip(params, ([math.nan], [math.inf, -math.inf]), strict=True):
        p.grad = torch.ones_like(p)
        p.grad.view(-1)[: len(values)] = torch.tensor(values, dtype=F64, device=p.device)
    optimizer.step()
    return optimizer, params
