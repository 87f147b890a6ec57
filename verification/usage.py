"""How an optimizer is used: groups, closures, schedules, layouts, several at once, checkpoints.

Every use is a few steps that candidate and builtin take alike, in float64, and whose parameters and
state have to agree; some uses look at what one optimizer does on its own as well.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from verification.cases.optimizers import OptimizerTable
from verification.limits import time_limit as limited
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, WORSE, Row

Make = Callable[..., Any]
Options = Mapping[str, Any]
Use = Callable[[Make, Options], tuple[Any, list[Tensor]]]  # an optimizer and its parameters
BOUND = 1e-12  # relative to the largest element of a tensor
F64 = torch.float64
_DECAY = {"lr": 0.05, "weight_decay": 0.1}
_ADAM: tuple[Options, ...] = ({"lr": 0.05}, {**_DECAY, "amsgrad": True, "maximize": True})
OPTIONS: dict[str, tuple[Options, ...]] = {
    "SGD": ({"lr": 0.05}, {**_DECAY, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "Momentum": ({"lr": 0.05}, {**_DECAY, "momentum": 0.8, "maximize": True}),
    "RMSprop": ({"lr": 0.05}, {**_DECAY, "momentum": 0.9, "centered": True, "maximize": True}),
    "Adam": _ADAM,
    "AdamW": _ADAM,
}


class Wrong(Exception):
    """An optimizer does what none may do."""


def usage_rows(
    table: OptimizerTable,
    candidate: Make | None = None,
    *,
    state: bool = True,
    time_limit: float | None = None,
) -> Iterator[list[Row]]:
    """Yield a row for each use of an optimizer, with few options and with many.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.
        state: whether the state has to be the builtin's too, or the parameters alone.
        time_limit: seconds that a use may take.

    Returns:
        An iterator over lists of one row; "error" is the largest relative difference.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(usage_rows(optimizer_tables()["SGD"]))
        >>> rows[0].case, rows[0].quantity, rows[0].passed
        ('lr=0.05', 'every shape', True)
    """
    make = candidate or table.candidate
    for options in OPTIONS[table.name]:
        words = " ".join(f"{name}={value}" for name, value in options.items())
        for name, use in USES.items():
            theirs = _outcome(use, table.builtin, options, table.own_state, None)
            ours = _outcome(use, make, options, table.own_state, time_limit)
            verdict, error, note = _compare(ours, theirs, state)
            yield [Row(table.name, words, name, "float64", error, math.nan, BOUND, "like torch",
                       verdict, note)]  # fmt: skip


def _compare(ours: Any, theirs: Any, state: bool) -> tuple[str, float, str]:
    said = [f"{type(r).__name__}: {r}".splitlines()[0] for r in (ours, theirs)]
    if isinstance(theirs, BaseException):
        if isinstance(theirs, Wrong):
            return INCONCLUSIVE, math.nan, f"the builtin: {said[1]}"
        if isinstance(ours, type(theirs)):
            return AS_GOOD, math.nan, f"both {type(theirs).__name__}"
        raised = f"raises {said[0]}" if isinstance(ours, BaseException) else "works"
        return WORSE, math.nan, f"{raised}; the builtin raises {said[1]}"
    if isinstance(ours, BaseException):
        return ANOTHER, math.nan, said[0]
    gaps = {"the parameters differ": _distance(ours[0], theirs[0])}
    if state:
        gaps["the state differs"] = _distance(ours[1], theirs[1])
    worst = max(gaps, key=gaps.__getitem__)
    verdict = AS_GOOD if gaps[worst] <= BOUND else ANOTHER
    return verdict, gaps[worst], "" if verdict == AS_GOOD else worst


def _outcome(
    use: Use, make: Make, options: Options, own: Sequence[str], time_limit: float | None
) -> Any:
    """Return parameters and state after a use, or what was raised."""
    try:
        with warnings.catch_warnings(), torch.enable_grad(), limited(time_limit):
            warnings.simplefilter("ignore")
            optimizer, params = use(make, options)
            state = [
                {n: v for n, v in found.items() if v is not None and n not in own}
                for found in (optimizer.state.get(p, {}) for p in params)
            ]
            return [p.detach() for p in params], state
    except (Exception, SystemExit) as error:
        return error


def _distance(ours: Any, theirs: Any) -> float:
    """Return the largest relative difference; infinite where names, types or shapes differ."""
    if isinstance(theirs, Tensor):
        if not isinstance(ours, Tensor) or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return math.inf
        scale = theirs.abs().max().item() if theirs.numel() else 1.0
        gap = (ours - theirs).abs().max().item() if theirs.numel() else 0.0
        return gap / (scale or 1.0) if math.isfinite(gap) else math.inf
    if isinstance(theirs, Mapping):
        if not isinstance(ours, Mapping) or ours.keys() != theirs.keys():
            return math.inf
        return max((_distance(ours[name], theirs[name]) for name in theirs), default=0.0)
    if isinstance(theirs, list):
        return max((_distance(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    return 0.0 if ours == theirs else math.inf


# What the uses are made of

_SHAPES: Sequence[tuple[int, ...]] = ((3, 2), (4,), (), (0,))


def _parameters(
    shapes: Sequence[tuple[int, ...]] = _SHAPES, dtype: torch.dtype = F64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype)) for s in shapes
    ]  # fmt: skip


def _steps(optimizer: Any, params: Sequence[Tensor], count: int = 3, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
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
    if make.__name__ == "_sgd_as_momentum":  # torch's buffers start with the first gradient
        optimizer.param_groups[-1]["dampening"] = optimizer.param_groups[-1]["momentum"]
        optimizer.state[params[2]]["momentum_buffer"] = torch.zeros_like(params[2])
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


def _negative_rate(make: Make, options: Options) -> tuple[Any, list[Tensor]]:
    return make(_parameters(), **{**options, "lr": -1.0}), []


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
    "negative rate": _negative_rate,
}
