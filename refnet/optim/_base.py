"""What all optimizers share: the walk over groups and parameters, and the checks of options.

An optimizer is a pure update rule, W and its state in, the new W and state out, and a class that
names the state (`_state_names`) and calls the rule (`_update`). This file does the rest as torch
does it: parameters without a gradient are skipped wholly, `maximize` negates the gradient before
anything else, weight decay comes next, complex numbers count as pairs of reals.

A pure rule makes new tensors. So that they stay small, a parameter is updated block by block. Where
a kernel can update a parameter (`_plan.py` says where), it does; `kernel`, `rows` and `_numbers`
are what it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import (
    ParamsT,
    _device_dtype_check_for_fused,
    _get_capturable_supported_devices,
    _use_grad_for_differentiable,
)

from refnet import backend
from refnet._compile import Kernel
from refnet._triton import Kernels
from refnet.optim._arithmetic import add
from refnet.optim._blocks import as_real, blocks, shaped_like
from refnet.optim._checks import require_non_negative, require_one_element
from refnet.optim._plan import Plan

cuda = Kernels("refnet.optim.cuda")

__all__ = [
    "Group",
    "Optimizer",
    "ParamsT",
    "State",
    "require_non_negative",
    "require_one_element",
]

Group = dict[str, Any]
State = dict[str, Any]  # of tensors, or None for what comes into being with the first step


class Optimizer(torch.optim.Optimizer):
    """The base of all optimizers here; see the module's docstring.

    `foreach`, `fused` and `capturable` choose among torch's implementations. Here a kernel updates
    what it can, all parameters of a group in one call, and the pure rule the rest; those options
    are kept in the groups and state dicts, and where torch's choice raises, so does this.
    """

    # Options that older checkpoints, or torch's own, don't have, and what they mean there.
    added_later: ClassVar[dict[str, Any]] = {}
    counts_steps: ClassVar[bool] = True
    # The rule as a compiled loop, and the names of state in the order of its arguments.
    kernel: ClassVar[Kernel | None] = None
    rows: ClassVar[tuple[str, ...]] = ()
    sparse_error: ClassVar[str] = ""  # empty: sparse gradients are taken
    foreach_differentiable: ClassVar[bool] = False

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self._plans: dict[int, Plan] = {}  # by index of the group
        super().__init__(params, defaults)
        if defaults.get("fused"):
            self._step_supports_amp_scaling = True  # asks GradScaler for grad_scale and found_inf
            if defaults.get("differentiable"):
                raise RuntimeError("`fused` does not support `differentiable`")
            if defaults.get("foreach"):
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plans = {}
        for group in self.param_groups:
            for name, value in self.added_later.items():
                group.setdefault(name, value)
            for param in group["params"]:
                step = self.state.get(param, {}).get("step")
                if step is not None and not isinstance(step, Tensor):
                    self.state[param]["step"] = _step_count(float(step), param, group)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @_use_grad_for_differentiable
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the model again, with gradients on, and returns the loss.

        Returns:
            The closure's loss.

        Raises:
            RuntimeError: a gradient or a parameter that the options, or the rule, don't take;
                AssertionError where that is torch's error. Nothing of the group has changed then,
                but by a rule that finds a sparse gradient among dense ones, as in torch.
        """
        self._check_graph_capture()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for index, group in enumerate(self.param_groups):
            params = [param for param in group["params"] if param.grad is not None]
            forced = backend.forced() if backend.is_plain() else backend.REFERENCE
            plan = (
                None
                if forced == backend.REFERENCE
                else self._old_plan(index, params, group, forced)
            )
            if plan is None:
                for param in params:
                    self._prepare(param, group)
            self._check(params, group)
            if self._unscaled(params):
                options = _scalars(group, self.defaults)
                if params and forced != backend.REFERENCE:
                    plan = plan or self._new_plan(index, params, group, forced)
                if plan is not None:
                    plan.run(self._numbers(options))
                left: list[Any] = params if plan is None else plan.left
                for param in left:
                    self._step_one(param, param.grad, options)
                self._note(plan, params)
        return loss

    def _check_graph_capture(self) -> None:
        if self.counts_steps:  # the others have nothing that a CUDA graph would freeze
            name = "_{}_graph_capture_health_check"  # "cuda" before torch 2.12
            check = getattr(self, name.format("accelerator"), None)
            (check or getattr(self, name.format("cuda")))()

    def _prepare(self, param: Tensor, group: Group) -> None:
        """Refuse what cannot be updated, and make the state of what gets its first gradient."""
        if param.grad is not None and param.grad.is_sparse:
            if self.sparse_error:
                raise RuntimeError(self.sparse_error)
            if group.get("fused"):
                raise RuntimeError("`_fused_sgd` does not support sparse gradients")
        if group.get("fused"):
            _device_dtype_check_for_fused(param)
        if self._keeps_state(group) and not self.state[param]:
            if self.counts_steps:
                self.state[param]["step"] = _step_count(0.0, param, group)
            for name in self._state_names(group):
                self.state[param][name] = self._initial(param)
        if self.counts_steps and not isinstance(self.state[param]["step"], Tensor):
            raise RuntimeError(
                "API has changed, `state_steps` argument must contain a list of singleton tensors"
            )

    def _check(self, params: list[Tensor], group: Group) -> None:
        """Raise torch's errors for options that its implementations don't combine."""
        if group.get("capturable") and not (group.get("fused") or torch.compiler.is_compiling()):
            devices = _get_capturable_supported_devices()
            for param in params:
                found = {param.device.type, self.state[param]["step"].device.type}
                if len(found) > 1 or not found <= set(devices):
                    raise AssertionError(
                        "If capturable=True, params and state_steps must be on supported devices: "
                        f"{devices}."
                    )
        foreach = group.get("foreach") and not self.foreach_differentiable
        if params and foreach and group["differentiable"]:
            raise AssertionError("_foreach ops don't support autograd")

    def _unscaled(self, params: list[Tensor]) -> bool:
        """Whether a step is to be made: GradScaler has found no inf; undo its scale, as torch does.

        It sets `found_inf` and `grad_scale` for the time of a step of a fused optimizer.
        """
        found_inf, scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        if found_inf is not None and found_inf.item():
            return False
        if scale is not None:
            for param in params:
                param.grad.div_(scale.to(param.device))  # type: ignore[union-attr]
        return True

    def _old_plan(self, index: int, params: list[Tensor], group: Group, forced: str) -> Plan | None:
        """Return the plan of an earlier step for a group, if it still holds."""
        plan = self._plans.get(index)
        if plan is None or self._no_kernel(group, forced):
            return None
        if forced not in (backend.AUTO, plan.backend):
            return None
        grads: list[Any] = [param.grad for param in params]
        get = self.state.get
        states = [get(param, {}) for param in params] if self._keeps_state(group) else []
        return plan if plan.holds(self._state_names(group), params, grads, states) else None

    def _new_plan(self, index: int, params: list[Tensor], group: Group, forced: str) -> Plan | None:
        """Return which parameters a kernel updates; None for none.

        Raises:
            NotImplementedError: it doesn't update all, and somebody forces a backend.
        """
        plan, reason = None, self._no_kernel(group, forced)
        if forced == backend.CUDA and params:
            reason = reason or cuda.unavailable(params[0])
        if self.kernel is not None and not reason:
            grads: list[Any] = [param.grad for param in params]
            states = [self.state[p] for p in params] if self._keeps_state(group) else []
            names = self._state_names(group)
            for kind in _plans(params, forced):
                plan = kind(self.kernel, self.rows, names, params, grads, states)
                reason = plan.reason
                if not reason:
                    break
        if reason and forced != backend.AUTO:
            raise backend.cannot(type(self).__name__, reason)
        if plan is not None:
            self._plans[index] = plan
        return plan

    def _no_kernel(self, group: Group, forced: str) -> str:
        """Return why no parameter of a group has a kernel, or an empty text."""
        if self.kernel is None:
            return "it has no such implementation"
        if group["differentiable"] or group.get("capturable"):
            return "a differentiable or capturable step"
        return ""

    def _note(self, plan: Plan | None, params: list[Tensor]) -> None:
        left = params if plan is None else plan.left
        if len(left) < len(params):
            backend.ran(type(self).__name__, backend.CPU if plan is None else plan.backend)
        if left:
            backend.ran(type(self).__name__, backend.REFERENCE)

    def _numbers(self, group: Group) -> tuple[Any, ...]:
        """Return the kernel's last arguments."""
        raise NotImplementedError

    def _step_one(self, param: Tensor, grad: Tensor, group: Group) -> None:
        names = self._state_names(group)
        state = self.state[param] if self._keeps_state(group) else {}
        if self.counts_steps:
            state["step"] += 1
        t = _count(state["step"], group) if self.counts_steps else None
        old = [state[name] for name in names]
        if grad.is_sparse and all(value is None or value.is_sparse for value in old):
            state.update(self._step_sparse(param, grad, dict(zip(names, old, strict=True)), group))
            return
        into = [torch.empty_like(grad) if value is None else value for value in old]
        reals = [as_real(tensor) for tensor in (param, grad, *old, *into)]
        made: list[Tensor] = []
        for block in blocks(reals, whole=group["differentiable"]):
            made = self._step_block(block, names, t, group)
        written = (reals[0], *reals[2 + len(old) :])
        for tensor, real in zip((param, *into), written, strict=True):
            if tensor.is_complex() and tensor.is_conj():  # its pairs are a copy
                tensor.copy_(torch.view_as_complex(real))
        if group["differentiable"]:  # the graph holds the old ones
            into = [shaped_like(param, value) for value in made]
        state.update(zip(names, into, strict=True))

    def _step_block(
        self, block: Sequence[Any], names: list[str], t: Any, group: Group
    ) -> list[Tensor]:
        """Apply the rule to W, dW and the old state, and write W and the new state.

        Returns:
            The new state instead of writing it, where somebody differentiates the step.
        """
        w, dw, *views = block
        old, into = views[: len(names)], views[len(names) :]
        old_w = w.clone() if group["differentiable"] else w  # the graph may need what it was
        dw = _direction(old_w, dw, group)
        new_w, new = self._update(old_w, dw, dict(zip(names, old, strict=True)), t, group)
        w.copy_(new_w)
        if group["differentiable"]:
            return [new[name] for name in names]
        for name, view in zip(names, into, strict=True):
            view.copy_(new[name])
        return []

    def _step_sparse(self, param: Tensor, grad: Tensor, state: State, group: Group) -> State:
        """Change W where dW has entries: the rule on a W of zeros as sparse as dW gives by what."""
        dw = _direction(param, grad, group)
        change, new = self._update(torch.zeros_like(grad), dw, state, None, group)
        param.add_(change)
        return {name: new[name].coalesce() for name in state}

    def _keeps_state(self, group: Group) -> bool:
        """Whether a parameter of this group has an entry in `state` at all."""
        return self.counts_steps or bool(self._state_names(group))

    def _state_names(self, group: Group) -> list[str]:
        """Return the names, torch's, of the state that is as large as the parameter."""
        raise NotImplementedError

    def _initial(self, param: Tensor) -> Tensor | None:
        """Return one of these before the first step; None if the rule makes it."""
        return torch.zeros_like(param, memory_format=torch.preserve_format)

    def _update(
        self, w: Tensor, dw: Tensor, state: State, t: Any, group: Group
    ) -> tuple[Tensor, State]:
        """Return the new parameter and its new state; all tensors are real, none is changed."""
        raise NotImplementedError


def _plans(params: list[Tensor], forced: str) -> list[Any]:
    """Return the kinds of plans that may serve parameters, the preferred first.

    Where a group has parameters on a GPU and on the CPU, those on the GPU decide: the others are
    left to the reference.
    """
    if forced == backend.CPU or not params:
        return [Plan]
    decides = next((param for param in params if not param.is_cpu), params[0])
    if cuda.unavailable(decides):
        return [Plan]
    return [cuda.Plan, Plan] if decides.is_cpu and forced == backend.AUTO else [cuda.Plan]


def _direction(w: Tensor, dw: Tensor, group: Group) -> Tensor:
    """Return the gradient of what is to be minimized, with its L2 term λ/m W."""
    if group["maximize"]:
        dw = -dw
    if group["weight_decay"] != 0 and not group.get("decoupled_weight_decay", False):
        dw = add(dw, w, group["weight_decay"])
    return dw


def _step_count(value: float, param: Tensor, group: Group) -> Tensor:
    """Return a count of steps: on the CPU, or beside the parameter where torch keeps it there."""
    fused, beside = group.get("fused"), group.get("capturable") or group.get("fused")
    wide = torch.get_default_dtype() == torch.float64 and not fused
    dtype, device = torch.float64 if wide else torch.float32, param.device if beside else "cpu"
    return torch.tensor(value, dtype=dtype, device=device)


def _count(step: Tensor, group: Group) -> Any:
    """Return the count of steps as a number, or as a tensor where it has to stay one.

    In float64, since 1 − βᵗ is small.
    """
    return step.double() if _stays_tensor(group) else step.item()


def _scalars(group: Group, options: Collection[str]) -> Group:
    """Return a group's options with numbers for tensors, or without dimensions if they stay."""
    values = (*group.values(), *group.get("betas", ()))
    if not any(issubclass(kind, Tensor) for kind in {*map(type, values)}):
        return group

    def scalar(name: str, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return tuple(scalar(name, item) for item in value)
        if not isinstance(value, Tensor):
            return value
        require_one_element(**{name: value})
        return value.reshape(()) if _stays_tensor(group) else value.item()

    return {name: scalar(name, value) for name, value in group.items() if name in options}


def _stays_tensor(group: Group) -> bool:
    """Whether somebody differentiates, captures or compiles the step: no number may be read."""
    return bool(group["differentiable"] or group.get("capturable") or torch.compiler.is_compiling())
