"""The situations of an optimizer: each makes parameters and one of it, takes steps with it.

What they return is compared: parameters, state, and whatever else a script may read.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from verification.optimizers.option_values import Options

Make = Callable[..., Any]
Situation = Callable[[Make, Make, Options], Any]
Shapes = Sequence[tuple[int, ...]]
F64 = torch.float64
_SHAPES: Shapes = ((3, 2), (4,), (), (0,))


def _parameters(dtypes: Sequence[torch.dtype] = (F64,), shapes: Shapes = _SHAPES) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(_normal(s, dtype, g)) for dtype in dtypes for s in shapes]


def _normal(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draw in double precision, so that every dtype gets the same numbers."""
    wide = torch.complex128 if dtype.is_complex else F64
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def _steps(optimizer: Any, params: Sequence[Tensor], count: int = 3, seed: int = 1) -> None:
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in params:
            p.grad = _normal(p.shape, p.dtype, g)
        optimizer.step()


def _results(optimizer: Any, params: Sequence[Tensor]) -> Any:
    """Parameters and state, and whatever else of the optimizer a script may read."""
    state = [
        {name: value for name, value in optimizer.state.get(p, {}).items() if value is not None}
        for p in params
    ]
    entries = [p in optimizer.state for p in params]
    groups = [sorted(set(group) - {"eps_inside_root"}) for group in optimizer.param_groups]
    return list(params), state, entries, groups


def _plain(dtypes: Sequence[torch.dtype], shapes: Shapes = _SHAPES) -> Situation:
    def situation(make: Make, other: Make, options: Options) -> Any:
        params = _parameters(dtypes, shapes)
        optimizer = make(params, **options)
        _steps(optimizer, params)
        return _results(optimizer, params)

    return situation


def _laid_out(make: Make, other: Make, options: Options, *, as_parameter: bool) -> Any:
    """Transposed and channels-last parameters, with gradients laid out as they are, or not."""
    params = [torch.nn.Parameter(p.detach().t()) for p in _parameters(shapes=((3, 2), (5, 4)))]
    images = _parameters(shapes=((2, 3, 4, 4),))[0].detach().to(memory_format=torch.channels_last)
    params.append(torch.nn.Parameter(images))
    optimizer = make(params, **options)
    for count in range(3):
        for p in params:
            grad = torch.arange(p.numel(), dtype=F64).view(p.shape) - count
            p.grad = torch.empty_like(p).copy_(grad) if as_parameter else grad
        optimizer.step()
    return _results(optimizer, params)


def _views(make: Make, other: Make, options: Options) -> Any:
    memory = _parameters(shapes=((6,),))[0].detach()
    params = [memory[:4].requires_grad_(), memory[2:].requires_grad_()]
    optimizer = make(params, **{**options, "foreach": False} if "foreach" in options else options)
    _steps(optimizer, params)
    return _results(optimizer, params)


def _absent(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    params[1].requires_grad_(False)
    optimizer = make(params, **options)
    for count in range(3):
        _steps(optimizer, params[:1] if count == 1 else params[2:], 1, count)
        for p in params:
            p.grad = None
    optimizer.step()
    return _results(optimizer, params)


class Wrong(Exception):
    """A party works, or refuses, and what is left is not what it has to be."""


def _sparse(make: Make, other: Make, options: Options) -> Any:
    shapes = ((3,), (4, 2))
    params = _parameters(shapes=shapes)
    optimizer = make(params, **options)
    for count in range(3):
        params[0].grad = torch.ones(3, dtype=F64)
        rows = torch.tensor([[0, 2, 2]])
        values = torch.arange(6, dtype=F64).view(3, 2) + count
        params[1].grad = torch.sparse_coo_tensor(rows, values, (4, 2), check_invariants=True)
        try:
            optimizer.step()
        except Exception as error:
            refused = "does not support sparse" in str(error)
            if refused and not torch.equal(params[0], _parameters(shapes=shapes)[0]):
                raise Wrong("a step that is refused has changed a parameter") from error
            raise
    params, state, *rest = _results(optimizer, params)
    dense = [{n: v.to_dense() if v.is_sparse else v for n, v in s.items()} for s in state]
    return params, dense, *rest


def _not_finite(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    for values in ((1.0, math.inf, -math.inf, math.nan), (0.0, -0.0, 1e-300, 1e300)):
        params[1].grad = torch.tensor(values, dtype=F64)
        optimizer.step()
    return _results(optimizer, params)


def _closure(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        losses += [optimizer.step(closure).detach() for _ in range(3)]
    return losses, _results(optimizer, params)


def _in_a_group(make: Make, other: Make, options: Options) -> Any:
    """The options come with a group, past the constructor's checks, and a group comes later."""
    params = _parameters()
    optimizer = make([{"params": params[:1], **options}, {"params": params[1]}])
    _steps(optimizer, params[:2])
    optimizer.add_param_group({"params": params[2:], **options})
    _steps(optimizer, params)
    return _results(optimizer, params)


def _named(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make([(f"p{i}", p) for i, p in enumerate(params)], **options)
    _steps(optimizer, params)
    names = [group["param_names"] for group in optimizer.state_dict()["param_groups"]]
    return names, _results(optimizer, params)


def _checkpoints(make: Make, other: Make, options: Options) -> Any:
    """From one party to the other in the middle of training, and back."""
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params, 2)
    for count, party in enumerate((other, make)):
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = party(params, **options)
        optimizer.load_state_dict(saved)
        _steps(optimizer, params, 2, seed=count)
    return _results(optimizer, params)


_LATE = (
    "maximize", "foreach", "capturable", "differentiable", "fused", "nesterov", "amsgrad",
    "decoupled_weight_decay", "centered", "eps_inside_root",
)  # fmt: skip


def _old_checkpoint(make: Make, other: Make, options: Options) -> Any:
    """From before these options, with a step count that is a number and buffers that are None."""
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for name in _LATE:
            group.pop(name, None)
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = int(state["step"])
    if not saved["state"]:
        saved["state"] = {0: {"momentum_buffer": None}}
    resumed = make(params, **options)
    resumed.load_state_dict(saved)
    _steps(resumed, params, 2)
    params, state, _, groups = _results(resumed, params)
    return params, state, groups, [str(g.get("fused")) for g in resumed.param_groups]


def _pickled(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        optimizer, params = twin, twin.param_groups[0]["params"]
        _steps(optimizer, params)
    return _results(optimizer, params)


def _meta_gradients(make: Make, other: Make, options: Options) -> Any:
    """Parameters that are results themselves, and the derivative of two steps."""
    start = [p.detach().requires_grad_() for p in _parameters(shapes=((3,), (2, 2)))]
    params = [p * 1 for p in start]
    if not options.get("differentiable"):
        params = [p.detach().requires_grad_() for p in params]
    optimizer = make(params, **options)
    grads = [[torch.full_like(p, 0.5 + i, requires_grad=True) for p in start] for i in range(2)]
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = g
        optimizer.step()
    if not options.get("differentiable"):
        return _results(optimizer, params)
    results = torch.stack([(p**2).sum() for p in params]).sum()
    # The first step's gradients are left out: torch cuts them off a momentum buffer.
    return torch.autograd.grad(results, [*start, *grads[1]], allow_unused=True)


def _scaled(make: Make, other: Make, options: Options) -> Any:
    """GradScaler, with an inf in the first and in the third step; unscaled by hand in the last."""
    params = _parameters(shapes=((3,), (2, 2)))
    optimizer = make(params, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    for count in range(5):
        optimizer.zero_grad()
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if count in (0, 2):
            params[0].grad = torch.full_like(params[0], math.inf)
        if count == 4:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    gradients = [p.grad for p in params]
    return torch.tensor(scaler.get_scale()), gradients, _results(optimizer, params)


def _within(context: Callable[[], Any]) -> Situation:
    def situation(make: Make, other: Make, options: Options) -> Any:
        params = _parameters()
        optimizer = make(params, **options)
        with context():
            _steps(optimizer, params)
        return _results(optimizer, params)

    return situation


def _zeroed(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    gradients = [p.grad.clone() for p in params if p.grad is not None]
    optimizer.zero_grad()
    return gradients, [p.grad is None for p in params], _results(optimizer, params)


def _hooked(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    calls: list[str] = []
    with register_optimizer_step_pre_hook(lambda *_: calls.append("all before")):
        optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
        optimizer.register_step_post_hook(lambda *_: calls.append("after"))
        optimizer.register_state_dict_post_hook(lambda *_: calls.append("saved"))
        optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("loading"))
        _steps(optimizer, params)
        optimizer.load_state_dict(optimizer.state_dict())
        _steps(optimizer, params)
    return calls, _results(optimizer, params)


def _meta(make: Make, other: Make, options: Options) -> Any:
    params = [torch.nn.Parameter(p.detach().to("meta")) for p in _parameters()]
    optimizer = make(params, **options)
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer.step()
    params, state, *rest = _results(optimizer, params)
    return [p.device.type for p in params], [sorted(s) for s in state], *rest


def _wide_default(make: Make, other: Make, options: Options) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        return _plain((F64, torch.float32))(make, other, options)
    finally:
        torch.set_default_dtype(before)


def _changed(make: Make, other: Make, options: Options) -> Any:
    """A schedule, or somebody, sets the options of the group while training."""
    params = _parameters()
    optimizer = make(params)
    _steps(optimizer, params)
    optimizer.param_groups[0].update(options)
    _steps(optimizer, params)
    return _results(optimizer, params)


PLAIN: dict[str, Situation] = {
    "float64": _plain((F64,)),
    "options in a group": _in_a_group,
    "checkpoints both ways": _checkpoints,
}
SITUATIONS: dict[str, Situation] = {
    **PLAIN,
    "float32": _plain((torch.float32,)),
    "bfloat16": _plain((torch.bfloat16,)),
    "float16": _plain((torch.float16,)),
    "mixed dtypes": _plain((torch.float32, torch.bfloat16, F64)),
    "complex": _plain((torch.complex128,)),
    "not contiguous": partial(_laid_out, as_parameter=True),
    "gradients laid out otherwise": partial(_laid_out, as_parameter=False),
    "shared memory": _views,
    "gradients absent": _absent,
    "sparse gradient": _sparse,
    "inf and NaN": _not_finite,
    "closure": _closure,
    "options changed later": _changed,
    "named parameters": _named,
    "old checkpoint": _old_checkpoint,
    "pickle, deepcopy": _pickled,
    "meta-gradients": _meta_gradients,
    "GradScaler": _scaled,
    "no_grad": _within(torch.no_grad),
    "inference mode": _within(torch.inference_mode),
    "autocast": _within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "zero_grad": _zeroed,
    "hooks": _hooked,
    "meta device": _meta,
    "default float64": _wide_default,
}
