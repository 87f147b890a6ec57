"""What all optimizers share: the walk over groups and parameters, and the checks of options.

An optimizer is a pure update rule, W and its state in, the new W and state out, and a class that
says which state there is at first (`_init_state`) and calls the rule (`_update`). This file does
the rest as torch does it: parameters without a gradient are skipped wholly, `maximize` negates the
gradient before anything else, weight decay comes next, complex numbers count as pairs of reals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT, _use_grad_for_differentiable

__all__ = [
    "Group",
    "Optimizer",
    "ParamsT",
    "State",
    "require_non_negative",
    "step_value",
    "zero_step",
]

Group = dict[str, Any]
State = dict[str, Tensor]

_TORCH_NAMES = {"lr": "learning rate", "eps": "epsilon value"}


def require_non_negative(**options: float | Tensor) -> None:
    """Raise torch's ValueError for an option that is negative or NaN.

    Example:
        >>> require_non_negative(lr=-1.0)
        Traceback (most recent call last):
        ValueError: Invalid learning rate: -1.0
    """
    for name, value in options.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element, but got {list(value.shape)}")
        if not value >= 0:
            raise ValueError(f"Invalid {_TORCH_NAMES.get(name, f'{name} value')}: {value}")


class Optimizer(torch.optim.Optimizer):
    """The base of all optimizers here; see the module's docstring.

    `foreach`, `fused` and `capturable` are accepted for torch's signature and kept in the groups
    and state dicts: they choose among torch's implementations, and here there is one.
    """

    # Options that older checkpoints, or torch's own, don't have, and what they mean there.
    added_later: ClassVar[dict[str, Any]] = {}
    sparse_hint: ClassVar[str] = ""

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        if defaults.get("fused"):
            if defaults.get("differentiable"):
                raise RuntimeError("`fused` does not support `differentiable`")
            if defaults.get("foreach"):
                raise RuntimeError("`fused` and `foreach` cannot be `True` together.")

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.added_later.items():
                group.setdefault(name, value)
            for param in group["params"]:
                param_state = self.state.get(param, {})
                if "step" in param_state and not torch.is_tensor(param_state["step"]):
                    param_state["step"] = torch.tensor(float(param_state["step"]))

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
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self._step_one(param, param.grad, group)
        return loss

    def _step_one(self, param: Tensor, grad: Tensor, group: Group) -> None:
        if grad.is_sparse:
            raise RuntimeError(
                f"{type(self).__name__} does not support sparse gradients{self.sparse_hint}"
            )
        if group["maximize"]:
            grad = -grad
        if group["weight_decay"] != 0 and not group.get("decoupled_weight_decay", False):
            grad = grad + group["weight_decay"] * param  # L2: dW + λ/m W
        if isinstance(group["lr"], Tensor):  # of one element, in any shape
            group = {**group, "lr": group["lr"].reshape(())}
        state = self.state[param] if self._keeps_state(group) else {}
        if not state:
            state.update(self._init_state(param, group))
        views = {name: _real(value) for name, value in state.items()}
        new_param, new_state = self._update(_real(param), _real(grad), views, group)
        _real(param).copy_(new_param)
        for name, value in new_state.items():
            if views.get(name) is None:
                state[name] = torch.view_as_complex(value) if param.is_complex() else value
            else:
                views[name].copy_(value)

    def _keeps_state(self, group: Group) -> bool:
        """Whether a parameter of this group has an entry in `state` at all."""
        return True

    def _init_state(self, param: Tensor, group: Group) -> State:
        """Return the state of a parameter that gets its first gradient, under torch's names."""
        return {}

    def _update(self, w: Tensor, dw: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
        """Return the new parameter and its new state; all tensors are real, none is changed."""
        raise NotImplementedError


def zero_step(param: Tensor, group: Group) -> Tensor:
    """Return a step count of 0: on the CPU, or beside the parameter where torch keeps it there."""
    beside = group.get("capturable") or group.get("fused")
    return torch.zeros((), dtype=torch.float32, device=param.device if beside else "cpu")


def step_value(step: Tensor, group: Group) -> Any:
    """Return the step count t as a number, or as a tensor where nothing may wait for the device."""
    return step if group["differentiable"] or group.get("capturable") else step.item()


def _real(tensor: Any) -> Any:
    return torch.view_as_real(tensor) if tensor is not None and tensor.is_complex() else tensor
