"""Stochastic gradient descent, with torch's momentum. The lecture's is in `momentum.py`.

Legend: w parameter W, dw its gradient dW (decay included), v momentum buffer V, lr α, momentum β.
"""

from __future__ import annotations

from typing import Any, ClassVar

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

__all__ = ["SGD", "sgd"]


def sgd(
    w: Tensor,
    dw: Tensor,
    v: Tensor | None,
    *,
    lr: Scalar,
    momentum: float,
    dampening: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor | None]:
    """V ← βV + (1 − dampening) dW;  W ← W − αV, or with Nesterov W − α (dW + βV).

    The first V is the raw gradient, undampened.
    """
    if momentum == 0:
        return add(w, dw, -lr), None
    v = dw.clone() if v is None else add(momentum * v, dw, 1 - dampening)
    return add(w, add(dw, v, momentum) if nesterov else v, -lr), v


class SGD(Optimizer):
    """Stochastic gradient descent, drop-in for `torch.optim.SGD`.

    W ← W − αV with V = dW, or V ← βV + (1 − dampening) dW with momentum β

    Args:
        params: parameters, or groups of them.
        lr: learning rate α.
        momentum: β, 0 for none.
        dampening: what is taken off the gradient's share in V.
        weight_decay: λ/m, added to the gradient as λ/m·W.
        nesterov: look ahead, W ← W − α (dW + βV).
        maximize: climb instead of descend.
        foreach: accepted; torch's choice of implementation.
        differentiable: keep the graph through `step`.
        fused: likewise; GradScaler leaves the unscaling and the skipping of a step to `step`.

    Raises:
        ValueError: a negative option, or Nesterov without momentum or with dampening.
        RuntimeError: options that exclude each other, or a sparse gradient and weight decay.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> SGD([w], lr=0.1).step()
        >>> w.data
        tensor([0.9500])

    Source: lecture, "Gradient descent example", "Regularization for Neural network"; momentum as in
    torch.

    Differs from torch: a sparse momentum buffer is kept coalesced, where torch's grows with every
    step. With `differentiable`, the first momentum buffer hangs on the gradient that it is.
    """

    kernel = cpu.sgd
    rows = ("momentum_buffer",)
    counts_steps = False
    foreach_differentiable = True
    added_later: ClassVar = {
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": False,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        require_one_element(lr=lr)
        require_non_negative(lr=lr, momentum=momentum, weight_decay=weight_decay, nan=True)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
                "foreach": foreach,
                "differentiable": differentiable,
                "fused": fused,
            },
        )

    def _state_names(self, group: Group) -> list[str]:
        return ["momentum_buffer"] if group["momentum"] != 0 else []

    def _initial(self, param: Tensor) -> None:
        return None

    def _numbers(self, group: Group) -> tuple[Any, ...]:
        return (
            group["lr"], group["momentum"], group["dampening"], group["nesterov"],
            group["weight_decay"], group["maximize"],
        )  # fmt: skip

    def _update(
        self, w: Tensor, dw: Tensor, state: State, t: Any, group: Group
    ) -> tuple[Tensor, State]:
        w, v = sgd(
            w,
            dw,
            state.get("momentum_buffer"),
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
        )
        return w, {"momentum_buffer": v}
