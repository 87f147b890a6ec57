"""Uses that look at the steps, at the state that these keep, and at what is called beside."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from verification.optimizers.uses.steps import (
    Make,
    NoCount,
    Options,
    Wrong,
    parameters,
    take_steps,
)


def zeroed(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """Gradients are set to zeros, then to None."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    take_steps(optimizer, params)
    optimizer.zero_grad(set_to_none=False)
    if any(p.grad is None or p.grad.any() for p in params):
        raise Wrong("zero_grad(set_to_none=False) leaves no zeros")
    optimizer.step()
    optimizer.zero_grad()
    if any(p.grad is not None for p in params):
        raise Wrong("zero_grad() leaves gradients")
    optimizer.step()
    return optimizer, params


def closure(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """A loss that is computed in the step, although gradients are off outside."""
    params = parameters(((3, 2), (4,)))
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


def in_place(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """The parameter stays the leaf that it is, where it is; its gradient is left alone."""
    params = parameters(((3, 2), (4,)))
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


def own_memory(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """No part of the state lies in a parameter, in a gradient, or in another part."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    for count in range(3):
        take_steps(optimizer, params, 1, count)
        held = [*params, *(p.grad for p in params if p.grad is not None)]
        for p in params:
            held += [v for v in optimizer.state.get(p, {}).values() if isinstance(v, Tensor)]
        places = [t.untyped_storage().data_ptr() for t in held]
        if len(set(places)) < len(places):
            raise Wrong("parameters, gradients and state share memory")
    return optimizer, params


def two_at_once(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """A second optimizer, of other parameters, steps in between."""
    params, others = parameters(((3, 2), (4,))), parameters(((3, 2), (4,)))
    optimizer, other = make(params, **options), make(others, **options)
    for count in range(3):
        take_steps(optimizer, params, 1, count)
        take_steps(other, others, 2, count + 10)
    return optimizer, [*params]


def resumed(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """From its own state dict, in an optimizer that was made with other options."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    take_steps(optimizer, params)
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer = make(params, lr=0.7)
    optimizer.load_state_dict(saved)
    take_steps(optimizer, params)
    return optimizer, params


def long(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """As many steps as let a small error of each add up."""
    params = parameters(((3, 2), (4,)))
    optimizer = make(params, **options)
    take_steps(optimizer, params, 300)
    return optimizer, params


def late(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """From a state dict that says that many steps have been taken, as after long training.

    At 10 000 a bias correction with β₂ = 0.999 is still 5e-5, at 100 000 the power is near 0.
    """
    params = parameters(((3, 2), (4,)))
    optimizer, taken = make(params, **options), 0
    for count in (1_000, 10_000, 100_000):
        take_steps(optimizer, params, seed=count)
        saved = copy.deepcopy(optimizer.state_dict())
        if not _jump(saved, taken + 3, count):
            if taken:
                raise Wrong(f"after 3 steps from {taken} on, no count is {taken + 3}")
            raise NoCount("no count of steps in the state: see the 300 steps")
        optimizer, taken = make(params, **options), count
        optimizer.load_state_dict(saved)
    take_steps(optimizer, params)
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


def hooks(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    """What is registered before and after a step is called so."""
    params, calls = parameters(((3, 2), (4,))), []
    optimizer = make(params, **options)
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    take_steps(optimizer, params)
    # A subclass of a torch optimizer that calls `super().step()` calls them twice.
    if calls[:1] != ["pre"] or calls[-1] != "post" or min(map(calls.count, ("pre", "post"))) < 3:
        raise Wrong(f"three steps call the hooks {calls}")
    return optimizer, params
