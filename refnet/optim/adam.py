"""Adam, the lecture's "Adam (Adaptive Moment Estimation) optimization algorithm".

Legend: w parameter W, dw its gradient dW (decay included), v and s the averages V of dW and S of
dW², t step, lr α, betas β₁ and β₂.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from refnet.optim._base import (
    Group,
    Optimizer,
    ParamsT,
    State,
    require_non_negative,
    step_value,
    zero_step,
)

__all__ = ["Adam", "adam"]


def adam(
    w: Tensor,
    dw: Tensor,
    v: Tensor,
    s: Tensor,
    s_max: Tensor | None,
    t: Any,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """V ← β₁V + (1 − β₁) dW;  S ← β₂S + (1 − β₂) dW²;  W ← W − α V̂ / (√Ŝ + ε).

    V̂ = V / (1 − β₁ᵗ) and Ŝ = S / (1 − β₂ᵗ) are the bias-corrected averages. Given s_max (AMSGrad),
    the largest S so far takes the place of S.
    """
    beta1, beta2 = betas
    v = beta1 * v + (1 - beta1) * dw
    s = beta2 * s + (1 - beta2) * dw * dw
    if s_max is not None:
        s_max = torch.maximum(s_max, s)
    v_hat = v / (1 - beta1**t)
    s_hat = (s if s_max is None else s_max) / (1 - beta2**t)
    return w - lr * v_hat / (s_hat.sqrt() + eps), v, s, s_max


class Adam(Optimizer):
    """Momentum and RMSprop together, bias-corrected, drop-in for `torch.optim.Adam`.

    V ← β₁V + (1 − β₁) dW;  S ← β₂S + (1 − β₂) dW²;  W ← W − α V̂ / (√Ŝ + ε)

    Args:
        params: parameters, or groups of them.
        lr: learning rate α.
        betas: β₁ and β₂, each in [0, 1).
        eps: ε, outside the root and after bias correction.
        weight_decay: λ/m, added to the gradient as λ/m·W, unless decoupled.
        amsgrad: divide by the root of the largest S so far.
        foreach: accepted; torch's choice of implementation.
        maximize: climb instead of descend.
        capturable: accepted; the step count is kept beside the parameters, and never read back.
        differentiable: keep the graph through `step`.
        fused: accepted; torch's choice of implementation.
        decoupled_weight_decay: shrink W by 1 − α λ/m instead, as AdamW does.

    Raises:
        ValueError: a negative option, or a β outside [0, 1).
        RuntimeError: options that exclude each other, or a sparse gradient.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> Adam([w], lr=0.1).step()
        >>> w.data
        tensor([0.9000])

    Source: lecture, "Adam (Adaptive Moment Estimation) optimization algorithm".
    """

    sparse_hint = ", please consider SparseAdam instead"
    added_later: ClassVar = {
        "amsgrad": False,
        "maximize": False,
        "foreach": None,
        "capturable": False,
        "differentiable": False,
        "fused": None,
        "decoupled_weight_decay": False,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        require_non_negative(lr=lr, eps=eps, weight_decay=weight_decay)
        if len(betas) != 2:
            raise ValueError(f"betas must be two numbers, but got {betas}")
        if isinstance(lr, Tensor) and foreach and not capturable:
            raise ValueError(
                "lr as a Tensor is not supported for capturable=False and foreach=True"
            )
        for i, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
                "differentiable": differentiable,
                "fused": fused,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _init_state(self, param: Tensor, group: Group) -> State:
        names = ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if group["amsgrad"] else [])
        zeros = {n: torch.zeros_like(param, memory_format=torch.preserve_format) for n in names}
        return {"step": zero_step(param, group), **zeros}

    def _update(self, w: Tensor, dw: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
        step = state["step"] + 1
        if group["decoupled_weight_decay"]:
            w = w * (1 - group["lr"] * group["weight_decay"])
        w, v, s, s_max = adam(
            w,
            dw,
            state["exp_avg"],
            state["exp_avg_sq"],
            state["max_exp_avg_sq"] if group["amsgrad"] else None,
            step_value(step, group),
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
        )
        new = {"step": step, "exp_avg": v, "exp_avg_sq": s}
        return w, new if s_max is None else {**new, "max_exp_avg_sq": s_max}
