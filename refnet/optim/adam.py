"""Adam, the lecture's "Adam (Adaptive Moment Estimation) optimization algorithm".

Legend: w parameter W, dw its gradient dW (decay included), v and s the averages V of dW and S of
dW², t step, lr α, betas β₁ and β₂.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from refnet.optim import cpu
from refnet.optim._arithmetic import Scalar, addcdiv, addcmul, lerp
from refnet.optim._base import (
    Group,
    Optimizer,
    ParamsT,
    State,
    require_non_negative,
    require_one_element,
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
    lr: Scalar,
    betas: tuple[Scalar, Scalar],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """V ← β₁V + (1 − β₁) dW;  S ← β₂S + (1 − β₂) dW²;  W ← W − α V̂ / (√Ŝ + ε).

    V̂ = V / (1 − β₁ᵗ) and Ŝ = S / (1 − β₂ᵗ) are the bias-corrected averages. Given s_max (AMSGrad),
    the largest S so far takes the place of S.
    """
    beta1, beta2 = betas
    v = lerp(v, dw, 1 - beta1)
    s = addcmul(beta2 * s, dw, dw, 1 - beta2)
    if s_max is not None:
        s_max = torch.maximum(s_max, s)
    root = (s if s_max is None else s_max).sqrt() / (1 - beta2**t) ** 0.5  # √Ŝ
    return addcdiv(w, v, root + eps, -lr / (1 - beta1**t)), v, s, s_max


class Adam(Optimizer):
    """Momentum and RMSprop together, bias-corrected, drop-in for `torch.optim.Adam`.

    V ← β₁V + (1 − β₁) dW;  S ← β₂S + (1 − β₂) dW²;  W ← W − α V̂ / (√Ŝ + ε)

    Args:
        params: parameters, or groups of them.
        lr: learning rate α.
        betas: β₁ and β₂, each in [0, 1): two floats, or two tensors of one element.
        eps: ε, outside the root and after bias correction.
        weight_decay: λ/m, added to the gradient as λ/m·W, unless decoupled.
        amsgrad: divide by the root of the largest S so far.
        foreach: accepted; torch's choice of implementation.
        maximize: climb instead of descend.
        capturable: keep the step count beside the parameters, on devices that can capture, and
            never read it back.
        differentiable: keep the graph through `step`.
        fused: likewise; GradScaler leaves the unscaling and the skipping of a step to `step`.
        decoupled_weight_decay: shrink W by 1 − α λ/m instead, as AdamW does.

    Raises:
        ValueError: a negative option, or a β outside [0, 1).
        RuntimeError: options that exclude each other, or a sparse gradient.
        AssertionError: in `step`, `capturable` on a CPU, or `foreach` with `differentiable`.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> Adam([w], lr=0.1).step()
        >>> w.data
        tensor([0.9000])

    Source: lecture, "Adam (Adaptive Moment Estimation) optimization algorithm".
    """

    kernel = cpu.adam
    rows = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    sparse_error = "Adam does not support sparse gradients, please consider SparseAdam instead"
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
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
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
        if isinstance(lr, Tensor) and foreach and not capturable:
            raise ValueError(_no_foreach("lr"))
        require_one_element(lr=lr)
        require_non_negative(lr=lr, eps=eps)
        _require_betas(betas, foreach=bool(foreach) and not capturable)
        require_non_negative(weight_decay=weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(b.squeeze() if isinstance(b, Tensor) else b for b in betas),
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

    def _state_names(self, group: Group) -> list[str]:
        return ["exp_avg", "exp_avg_sq"] + (["max_exp_avg_sq"] if group["amsgrad"] else [])

    def _check(self, params: list[Tensor], group: Group) -> None:
        if params and group["foreach"] and not group["capturable"]:
            if isinstance(group["lr"], Tensor):
                raise RuntimeError(_no_foreach("lr"))
            for i, beta in enumerate(group["betas"]):
                if isinstance(beta, Tensor):
                    raise ValueError(_no_foreach(f"beta{i + 1}"))
        if params and group["fused"] and group["differentiable"]:
            raise RuntimeError("Adam with fused=True does not support differentiable=True")
        super()._check(params, group)

    def _numbers(self, group: Group) -> tuple[Any, ...]:
        betas, decoupled = group["betas"], group["decoupled_weight_decay"]
        if betas[0] == 1:  # a group may have what the constructor refuses
            raise ZeroDivisionError("float division by zero: betas[0] is 1")
        return (
            group["lr"], *betas, group["eps"], group["amsgrad"],
            group["weight_decay"], decoupled, group["maximize"],
        )  # fmt: skip

    def _update(
        self, w: Tensor, dw: Tensor, state: State, t: Any, group: Group
    ) -> tuple[Tensor, State]:
        if group["decoupled_weight_decay"] and group["weight_decay"] != 0:
            w = w * (1 - group["lr"] * group["weight_decay"])
        w, v, s, s_max = adam(
            w,
            dw,
            state["exp_avg"],
            state["exp_avg_sq"],
            state.get("max_exp_avg_sq"),
            t,
            lr=group["lr"],
            betas=group["betas"],
            eps=group["eps"],
        )
        return w, {"exp_avg": v, "exp_avg_sq": s, "max_exp_avg_sq": s_max}


def _require_betas(betas: Any, *, foreach: bool) -> None:
    if len(betas) != 2:
        raise ValueError(f"betas must be two numbers, but got {betas}")
    require_one_element(**{f"betas[{i}]": beta for i, beta in enumerate(betas)})
    for i, beta in enumerate(betas):
        if not 0 <= beta < 1:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    if not any(all(isinstance(beta, kind) for beta in betas) for kind in (float, Tensor)):
        raise ValueError(f"betas must be either both floats or both Tensors, but got {betas}")
    if foreach and isinstance(betas[0], Tensor):
        raise ValueError(_no_foreach("betas[0]"))


def _no_foreach(option: str) -> str:
    return f"{option} as a Tensor is not supported for capturable=False and foreach=True"
