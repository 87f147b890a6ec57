"""Trivial candidates: what no check may let through, whatever it is a check of.

They are made by wrapping refnet's own function, class or schedule, which has all the options of the
builtin and those of the lecture; nothing in them knows which one it is.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

Candidate = Callable[..., Any]
Step = Callable[..., Any]


def trivial_op(op: Candidate) -> dict[str, Candidate]:
    """Return trivial candidates for an op, by what is wrong with them.

    Example:
        >>> wrong = trivial_op(torch.tanh)
        >>> wrong["×2"](torch.tensor([10.0])), wrong["zeros"](torch.ones(2))
        (tensor([2.]), tensor([0., 0.]))
    """
    return {bug: _afterwards(op, change) for bug, change in _CHANGES.items()} | {
        "the input as it is": lambda input, *args, **options: input * 1,
        "the input changed": _spoiling(op),
    }


def _afterwards(op: Candidate, change: Callable[[Tensor], Tensor]) -> Candidate:
    return lambda *args, **options: change(op(*args, **options))


def _spoiling(op: Candidate) -> Candidate:
    def spoil(input: Tensor, *args: Any, **options: Any) -> Tensor:
        output: Tensor = op(input, *args, **options)
        input.data.mul_(2)  # past autograd's watch
        return output

    return spoil


class _Gradient(Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return (grad * ctx.factor if ctx.factor else torch.zeros_like(grad)), None


def _gradient(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda output: _Gradient.apply(output, factor)  # type: ignore[no-untyped-call]


_CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": lambda output: output.masked_fill(torch.ones_like(output, dtype=torch.bool), 0),
    "NaN": lambda output: output * torch.nan,
    "×2": lambda output: output * 2,
    "the sign flipped": lambda output: -output,
    "rows permuted": lambda output: output.roll(1, 0) if output.dim() else output,
    "in bfloat16": lambda output: output.bfloat16().to(output.dtype),
    "detached": lambda output: output.detach(),
    "gradient ×2": _gradient(2.0),
    "gradient of zeros": _gradient(0.0),
    "gradient's sign flipped": _gradient(-1.0),
}


def trivial_optimizer(make: type[Any]) -> dict[str, Candidate]:
    """Return trivial candidates for an optimizer, by what is wrong with them.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(1)); p.grad = torch.ones(1)
        >>> trivial_optimizer(torch.optim.SGD)["×2 steps"]([p], lr=0.1).step(); p.data
        tensor([0.8000])
    """
    shared: dict[int, Any] = {}
    return {
        "no-op": _stepping(make, _skip),
        "×2 steps": _stepping(make, _scaled(2.0)),
        "steps of zero, state kept": _stepping(make, _scaled(0.0)),
        "the sign flipped": _stepping(make, _scaled(-1.0)),
        "None is zero": _stepping(make, _none_is_zero),
        "the gradient cleared": _stepping(make, _clearing),
        "the first group only": _stepping(make, _first_group),
        "state shared by two": _stepping(make, _sharing(shared)),
        "built with 1.01 lr": lambda params, *, lr, **options: make(
            params, lr=lr * 1.01, **options
        ),
        "options but lr ignored": lambda params, *, lr, **options: make(params, lr=lr),
        "the state dict ignored": _deaf(make),
    }


def _stepping(
    make: Candidate, step: Callable[[torch.optim.Optimizer, Step, Any], Any]
) -> Candidate:
    """Put another `step` into an optimizer, which gets the old one."""

    def build(params: Any, **options: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = make(params, **options)
        original = optimizer.step

        def other(self: torch.optim.Optimizer, closure: Any = None) -> Any:
            return step(self, original, closure)

        optimizer.step = MethodType(other, optimizer)  # type: ignore[method-assign]
        return optimizer

    return build


def _params(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def _skip(optimizer: torch.optim.Optimizer, step: Step, closure: Any) -> Any:
    return closure() if closure else None


def _scaled(factor: float) -> Callable[[torch.optim.Optimizer, Step, Any], Any]:
    def scale(optimizer: torch.optim.Optimizer, step: Step, closure: Any) -> Any:
        old = [param.detach().clone() for param in _params(optimizer)]
        loss = step(closure)
        with torch.no_grad():
            for param, before in zip(_params(optimizer), old, strict=True):
                param.copy_(before + factor * (param - before))
        return loss

    return scale


def _none_is_zero(optimizer: torch.optim.Optimizer, step: Step, closure: Any) -> Any:
    loss = closure() if closure else None
    absent = [param for param in _params(optimizer) if param.grad is None]
    for param in absent:
        param.grad = torch.zeros_like(param)
    step()
    for param in absent:
        param.grad = None
    return loss


def _clearing(optimizer: torch.optim.Optimizer, step: Step, closure: Any) -> Any:
    loss = step(closure)
    optimizer.zero_grad()
    return loss


def _first_group(optimizer: torch.optim.Optimizer, step: Step, closure: Any) -> Any:
    groups = optimizer.param_groups
    optimizer.param_groups = groups[:1]
    try:
        return step(closure)
    finally:
        optimizer.param_groups = groups


def _sharing(shared: dict[int, Any]) -> Callable[[torch.optim.Optimizer, Step, Any], Any]:
    """Every optimizer goes on with the state of the one before, parameter by parameter."""

    def step_on(optimizer: torch.optim.Optimizer, step: Step, closure: Any) -> Any:
        for place, param in enumerate(_params(optimizer)):
            if place in shared:
                optimizer.state[param] = shared[place]
        loss = step(closure)
        shared.update(
            (place, optimizer.state[param])
            for place, param in enumerate(_params(optimizer))
            if param in optimizer.state
        )
        return loss

    return step_on


def _deaf(make: type[Any]) -> Candidate:
    """Loading a state dict does nothing."""
    return type(make.__name__, (make,), {"load_state_dict": lambda self, state: None})


def trivial_schedule(make: type[Any]) -> dict[str, Candidate]:
    """Return trivial candidates for a schedule, by what is wrong with them.

    Example:
        >>> from torch.optim.lr_scheduler import ExponentialLR
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        >>> schedule = trivial_schedule(ExponentialLR)["×2"](optimizer, 0.5)
        >>> optimizer.param_groups[0]["lr"]
        2.0
    """
    return {
        "×2": _rated(make, lambda rate, last: rate * 2),
        "1.01 times": _rated(make, lambda rate, last: rate * 1.01),
        "the sign flipped": _rated(make, lambda rate, last: -rate),
        "zeros": _rated(make, lambda rate, last: rate * 0),
        "NaN": _rated(make, lambda rate, last: rate * torch.nan),
        "constant": _rated(make, lambda rate, last: last),
        "last_epoch ignored": lambda optimizer, value, last_epoch=-1: make(optimizer, value),
        "the state dict ignored": _deaf(make),
    }


def _rated(make: type[Any], change: Callable[[Any, Any], Any]) -> Candidate:
    """Derive a class with another rule, of the right rate and the one before."""

    def get_lr(self: Any) -> list[Any]:
        before = [group["lr"] for group in self.optimizer.param_groups]
        return [change(*rates) for rates in zip(make.get_lr(self), before, strict=True)]

    return type(make.__name__, (make,), {"get_lr": get_lr})
