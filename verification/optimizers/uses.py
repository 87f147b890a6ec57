"""The uses of an optimizer: what it is made with, and the steps that it takes.

`usage.py` has candidate and builtin go through them alike.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

Make = Callable[..., Any]
Options = Mapping[str, Any]
Use = Callable[[Make, Options], tuple[Any, list[Tensor]]]  # an optimizer and its parameters
F64 = torch.float64
DEVICE: ContextVar[str] = ContextVar("device", default="cpu")  # where parameters are made
_DECAY = {"lr": 0.05, "weight_decay": 0.1}
# With an ε of 0 the smallest one that a candidate puts in its place shows.
_ADAM: tuple[Options, ...] = (
    {"lr": 0.05},
    {**_DECAY, "amsgrad": True, "maximize": True},
    {"lr": 0.05, "betas": (0.0, 0.99), "eps": 0.0},
)
OPTIONS: dict[str, tuple[Options, ...]] = {
    "SGD": ({"lr": 0.05}, {**_DECAY, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "Momentum": ({"lr": 0.05}, {**_DECAY, "momentum": 0.8, "maximize": True}),
    "RMSprop": (
        {"lr": 0.05},
        {**_DECAY, "momentum": 0.9, "centered": True, "maximize": True},
        {"lr": 0.05, "eps": 0.0},
    ),
    "Adam": _ADAM,
    "AdamW": _ADAM,
}
# The constructor's arguments after the parameters, in their order.
_ADAM_ARGUMENTS = (0.05, (0.8, 0.95), 1e-3, 0.1, True)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "SGD": (0.05, 0.9, 0.3, 0.1, False),
    "Momentum": (0.05, 0.8, 0.1),
    "RMSprop": (0.05, 0.9, 1e-3, 0.1, 0.8, True),
    "Adam": _ADAM_ARGUMENTS,
    "AdamW": _ADAM_ARGUMENTS,
}
_REFUSED: tuple[Options, ...] = ({"lr": -1.0}, {"weight_decay": -0.1})
_ADAM_REFUSED: tuple[Options, ...] = (
    *_REFUSED, {"eps": -1e-8}, {"betas": (1.0, 0.999)}, {"betas": (-0.1, 0.999)},
    {"betas": (0.9, 1.0)}, {"betas": (0.9, -0.1)},
)  # fmt: skip
REFUSED: dict[str, tuple[Options, ...]] = {
    "SGD": (*_REFUSED, {"momentum": -0.5}),
    "Momentum": (*_REFUSED, {"momentum": -0.5}),
    "RMSprop": (*_REFUSED, {"momentum": -0.5}, {"alpha": -0.1}, {"eps": -1e-8}),
    "Adam": _ADAM_REFUSED,
    "AdamW": _ADAM_REFUSED,
}
# What somebody sets in a group between two steps.
CHANGED: Options = {
    "lr": 0.02,
    "momentum": 0.6,
    "dampening": 0.2,
    "betas": (0.7, 0.95),
    "alpha": 0.8,
    "eps": 1e-3,
    "weight_decay": 0.3,
}
LARGE = 3 * 2**15 + 1  # elements: more than a block, a thread's share or a vector, and odd


class Wrong(Exception):
    """An optimizer does what none may do."""


class NoCount(Exception):
    """No number in an optimizer's state tells how many steps it has taken."""


# What the uses are made of

_SHAPES: Sequence[tuple[int, ...]] = ((3, 2), (4,), (), (0,))


def _parameters(
    shapes: Sequence[tuple[int, ...]] = _SHAPES, dtype: torch.dtype = F64
) -> list[Tensor]:
    generator, place = torch.Generator().manual_seed(0), DEVICE.get()
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype).to(place))
        for s in shapes
    ]  # fmt: skip


def _steps(optimizer: Any, params: Sequence[Tensor], count: int = 3, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        optimizer.step()


# The uses


def _every_shape(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """A matrix, a vector, a number, nothing; parameters come from an iterator."""
    params = _parameters()
    optimizer = make(iter(params), **options)
    _steps(optimizer, params)
    return optimizer, params


def _complex(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    params = _parameters(dtype=torch.complex128)
    optimizer = make(params, **options)
    _steps(optimizer, params)
    return optimizer, params


def _laid_out(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Transposed, channels-last and sliced parameters; gradients that lie otherwise."""
    matrix, images, long = _parameters(((3, 2), (2, 3, 4, 4), (4, 6)))
    views = [matrix.detach().t(), images.detach().to(memory_format=torch.channels_last)]
    params: list[Tensor] = [torch.nn.Parameter(v) for v in (*views, long.detach()[:, ::2])]
    optimizer = make(params, **options)
    _steps(optimizer, params)
    return optimizer, params


def _added_group(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """The second group has a learning rate of its own, the third one comes later."""
    params = _parameters(((3, 2), (4,), (2,)))
    optimizer = make([{"params": params[:1]}, {"params": params[1], "lr": 0.2}], **options)
    _steps(optimizer, params[:2])
    optimizer.add_param_group({"params": params[2], "lr": 0.01})
    _steps(optimizer, params)
    return optimizer, params


def _schedule(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Somebody, or a schedule, sets what is in a group."""
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5).step()
    _steps(optimizer, params)
    optimizer.param_groups[0]["weight_decay"] = 0.3
    _steps(optimizer, params)
    return optimizer, params


def _absent(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Gradients that come and go; one of zeros is another thing; a frozen parameter."""
    params = _parameters(((3, 2), (4,), (2,), (5,)))
    params[1].requires_grad_(False)
    optimizer = make(params, **options)
    for count in range(5):
        _steps(optimizer, params[2:] if count % 2 else params[:1], 1, count)
        for p in params:
            p.grad = torch.zeros_like(p) if p is params[3] and count else None
        optimizer.step()
    return optimizer, [params[0], params[2], params[3]]


def _zeroed(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    _steps(optimizer, params)
    optimizer.zero_grad(set_to_none=False)
    if any(p.grad is None or p.grad.any() for p in params):
        raise Wrong("zero_grad(set_to_none=False) leaves no zeros")
    optimizer.step()
    optimizer.zero_grad()
    if any(p.grad is not None for p in params):
        raise Wrong("zero_grad() leaves gradients")
    optimizer.step()
    return optimizer, params


def _closure(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """A loss that is computed in the step, although gradients are off outside."""
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(3):
        expected = sum((p.detach() ** 2).sum() for p in params)
        with torch.no_grad():
            loss = optimizer.step(closure)
        if not isinstance(loss, Tensor) or loss.detach() != expected:
            raise Wrong(f"step(closure) returns {loss}, the loss is {expected}")
    return optimizer, params


def _in_place(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """The parameter stays the leaf that it is, where it is; its gradient is left alone."""
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    places = [p.data_ptr() for p in params]
    for count in range(3):
        grads = [torch.full_like(p, 0.5 + count) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step()
        if [p.data_ptr() for p in params] != places:
            raise Wrong("the parameters are in another place of memory")
        if not all(p.is_leaf and p.requires_grad for p in params):
            raise Wrong("the parameters are no leaves that need gradients any more")
        for p, g in zip(params, grads, strict=True):
            if p.grad is not g or not bool((g == 0.5 + count).all()):
                raise Wrong("a gradient was changed")
    return optimizer, params


def _own_memory(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """No part of the state lies in a parameter, in a gradient, or in another part."""
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    for count in range(3):
        _steps(optimizer, params, 1, count)
        held = [*params, *(p.grad for p in params if p.grad is not None)]
        for p in params:
            held += [v for v in optimizer.state.get(p, {}).values() if isinstance(v, Tensor)]
        places = [t.untyped_storage().data_ptr() for t in held]
        if len(set(places)) < len(places):
            raise Wrong("parameters, gradients and state share memory")
    return optimizer, params


def _two_at_once(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """A second optimizer, of other parameters, steps in between."""
    params, others = _parameters(((3, 2), (4,))), _parameters(((3, 2), (4,)))
    optimizer, other = make(params, **options), make(others, **options)
    for count in range(3):
        _steps(optimizer, params, 1, count)
        _steps(other, others, 2, count + 10)
    return optimizer, [*params]


def _resumed(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """From its own state dict, in an optimizer that was made with other options."""
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    _steps(optimizer, params)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer = make(params, lr=0.7)
    optimizer.load_state_dict(saved)
    _steps(optimizer, params)
    return optimizer, params


def _no_parameters(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    return make([], **options), []


def _defaults(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """No learning rate, and at first no option at all."""
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **{name: v for name, v in options.items() if name != "lr"})
    _steps(optimizer, params)
    return optimizer, params


def _changed(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Every option of a group is another one after three steps."""
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    _steps(optimizer, params)
    for group in optimizer.param_groups:
        for name, value in CHANGED.items():
            # Where there was no momentum, RMSprop has no buffer.
            if name in group and (name != "momentum" or group[name]):
                group[name] = value
        if "maximize" in group:
            group["maximize"] = not group["maximize"]
    _steps(optimizer, params)
    return optimizer, params


def _tensor_rate(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """The learning rate is a tensor that somebody changes in place."""
    params, rate = _parameters(((3, 2), (4,))), torch.tensor(0.05, dtype=F64)
    optimizer = make(params, **{**options, "lr": rate})
    _steps(optimizer, params)
    rate.fill_(0.2)
    _steps(optimizer, params)
    return optimizer, params


def _large(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    params = _parameters(((LARGE,),))
    optimizer = make(params, **options)
    _steps(optimizer, params, 2)
    return optimizer, params


def _long(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    _steps(optimizer, params, 300)
    return optimizer, params


def _late(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """From a state dict that says that many steps have been taken, as after long training.

    At 10 000 a bias correction with β₂ = 0.999 is still 5e-5, at 100 000 the power is near 0.
    """
    params = _parameters(((3, 2), (4,)))
    optimizer, taken = make(params, **options), 0
    for count in (1_000, 10_000, 100_000):
        _steps(optimizer, params, seed=count)
        saved = copy.deepcopy(optimizer.state_dict())
        if not _jump(saved, taken + 3, count):
            if taken:
                raise Wrong(f"after 3 steps from {taken} on, no count is {taken + 3}")
            raise NoCount("no count of steps in the state: see the 300 steps")
        optimizer, taken = make(params, **options), count
        optimizer.load_state_dict(saved)
    _steps(optimizer, params)
    return optimizer, params


def _jump(saved: Any, taken: int, count: int) -> bool:
    """Set every number that counts the steps taken to another count; tell whether there is one."""
    found = False
    for entries in (*saved["state"].values(), *saved["param_groups"]):
        for name, value in entries.items():
            if isinstance(value, Tensor):
                counts = not value.dim() and value.item() == taken
                if counts:
                    entries[name] = torch.full_like(value, count)
            else:
                counts = isinstance(value, int | float) and value == taken
                if counts:
                    entries[name] = type(value)(count)
            found = found or counts
    return found


def _not_finite(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """NaN and ∞ among the last gradients go where they go in the builtin.

    One step further 0·∞ would be NaN in a right rewrite that multiplies by a decay of 0;
    with a β₁ of 0 it is so at once.
    """
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **{name: v for name, v in options.items() if name != "betas"})
    _steps(optimizer, params)
    for p, values in zip(params, ([math.nan], [math.inf, -math.inf]), strict=True):
        p.grad = torch.ones_like(p)
        p.grad.view(-1)[: len(values)] = torch.tensor(values, dtype=F64, device=p.device)
    optimizer.step()
    return optimizer, params


def _hooks(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    params, calls = _parameters(((3, 2), (4,))), []
    optimizer = make(params, **options)
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    _steps(optimizer, params)
    # A subclass of a torch optimizer that calls `super().step()` calls them twice.
    if calls[:1] != ["pre"] or calls[-1] != "post" or min(map(calls.count, ("pre", "post"))) < 3:
        raise Wrong(f"three steps call the hooks {calls}")
    return optimizer, params


def _frozen(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Who has a gradient is stepped, although it needs none any more."""
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    params[0].requires_grad_(False)
    _steps(optimizer, params)
    return optimizer, params


def _by_place(make: Make, options: Options, arguments: Sequence[Any]) -> tuple[Any, list[Tensor]]:
    params = _parameters(((3, 2), (4,)))
    optimizer = make(params, *arguments)
    _steps(optimizer, params)
    return optimizer, params


def _refused(make: Make, options: Options, wrong: Options) -> tuple[Any, list[Tensor]]:
    return make(_parameters(), **{**options, **wrong}), []


USES: dict[str, Use] = {
    "every shape": _every_shape,
    "complex": _complex,
    "laid out otherwise": _laid_out,
    "groups": _added_group,
    "schedule": _schedule,
    "gradients come and go": _absent,
    "zero_grad": _zeroed,
    "closure": _closure,
    "in place": _in_place,
    "memory of its own": _own_memory,
    "two at once": _two_at_once,
    "resumed": _resumed,
    "no parameters": _no_parameters,
    "defaults": _defaults,
    "changed options": _changed,
    "rate changed in place": _tensor_rate,
    "large": _large,
    "300 steps": _long,
    "after 100000 steps": _late,
    "NaN and inf": _not_finite,
    "hooks": _hooks,
    "frozen with a gradient": _frozen,
}


def uses_of(name: str) -> dict[str, Use]:
    """Return the uses of an optimizer, with those that know its arguments.

    Example:
        >>> list(uses_of("SGD"))[-3:]
        ['refuses lr=-1.0', 'refuses weight_decay=-0.1', 'refuses momentum=-0.5']
    """
    refused: dict[str, Use] = {
        f"refuses {option}={value}": partial(_refused, wrong=wrong)
        for wrong in REFUSED[name]
        for option, value in wrong.items()
    }
    return {**USES, "by place": partial(_by_place, arguments=ARGUMENTS[name]), **refused}
