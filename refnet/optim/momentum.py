"""Gradient descent with momentum as an exponentially weighted average, the lecture's "Momentum".

Legend: w parameter W, dw its gradient dW (decay included), v average V, t step, lr α, momentum β.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from refnet.optim import cpu
from refnet.optim._arithmetic import Scalar, add
from refnet.optim._base import (
    Group,
    Optimizer,
    ParamsT,
    State,
    require_non_negative,
    require_one_element,
)

__all__ = ["Momentum", "momentum_rule"]


def momentum_rule(
    w: Tensor, dw: Tensor, v: Tensor, t: Any, *, lr: Scalar, momentum: float, bias_correction: bool
) -> tuple[Tensor, Tensor]:
    """V ← βV + (1 − β) dW;  W ← W − αV, or with bias correction W − α V / (1 − βᵗ)."""
    v = add(momentum * v, dw, 1 - momentum)
    return add(w, v, -lr / (1 - momentum**t) if bias_correction else -lr), v


class Momentum(Optimizer):
    """Gradient descent along the averaged gradient.

    V ← βV + (1 − β) dW, V₀ = 0;  W ← W − αV

    Args:
        params: parameters, or groups of them.
        lr: learning rate α.
        momentum: β in [0, 1); 0.9 averages about the last 10 gradients.
        weight_decay: λ/m, added to the gradient as λ/m·W.
        bias_correction: divide V by 1 − βᵗ, so that the first steps are not too short.
        maximize: climb instead of descend.
        differentiable: keep the graph through `step`.

    Raises:
        ValueError: a negative option, or β of 1 or more.
        RuntimeError: a sparse gradient.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> Momentum([w], lr=0.1, momentum=0.9).step()
        >>> w.data
        tensor([0.9950])

    Source: lecture, "Momentum", "Bias correction".

    Differs from torch: `torch.optim.SGD(momentum=β)` has no 1 − β. With `dampening=β`, and zero
    momentum buffers laid in before the first step, it is this rule to the last bit.
    """

    kernel = cpu.momentum_rule
    rows = ("momentum_buffer",)
    sparse_error = "Momentum does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0,
        *,
        bias_correction: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
    ) -> None:
        require_one_element(lr=lr)
        require_non_negative(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if momentum >= 1:
            raise ValueError(f"Invalid momentum value: {momentum}")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "bias_correction": bias_correction,
                "maximize": maximize,
                "differentiable": differentiable,
            },
        )

    def _state_names(self, group: Group) -> list[str]:
        return ["momentum_buffer"]

    def _numbers(self, group: Group) -> tuple[Any, ...]:
        if group["momentum"] == 1 and group["bias_correction"]:
            raise ZeroDivisionError("float division by zero: momentum is 1")
        return (
            group["lr"], group["momentum"], group["bias_correction"],
            group["weight_decay"], group["maximize"],
        )  # fmt: skip

    def _update(
        self, w: Tensor, dw: Tensor, state: State, t: Any, group: Group
    ) -> tuple[Tensor, State]:
        w, v = momentum_rule(
            w,
            dw,
            state["momentum_buffer"],
            t,
            lr=group["lr"],
            momentum=group["momentum"],
            bias_correction=group["bias_correction"],
        )
        return w, {"momentum_buffer": v}
