"""RMSprop, with ε outside the root as in torch, or inside as in the lecture.

Legend: w parameter W, dw its gradient dW (decay included), s average S of dW², g average of dW,
v momentum buffer, lr the lecture's α, alpha the lecture's β.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from refnet.optim._base import Group, Optimizer, ParamsT, State, require_non_negative, zero_step

__all__ = ["RMSprop", "rmsprop"]


def rmsprop(
    w: Tensor,
    dw: Tensor,
    s: Tensor,
    g: Tensor | None,
    v: Tensor | None,
    *,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    eps_inside_root: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """S ← βS + (1 − β) dW²;  W ← W − α dW / (√S + ε), or with ε inside W − α dW / √(S + ε).

    Given g, S − g² takes the place of S (centered); given v, V ← μV + dW / (√S + ε), W ← W − αV.
    """
    s = alpha * s + (1 - alpha) * dw * dw
    spread = s
    if g is not None:
        g = g + (1 - alpha) * (dw - g)
        spread = s - g * g
    ratio = dw / ((spread + eps).sqrt() if eps_inside_root else spread.sqrt() + eps)
    if v is not None:
        v = ratio = momentum * v + ratio
    return w - lr * ratio, s, g, v


class RMSprop(Optimizer):
    """Divide the gradient by the root of its averaged square, drop-in for `torch.optim.RMSprop`.

    S ← βS + (1 − β) dW²;  W ← W − α dW / (√S + ε)

    Args:
        params: parameters, or groups of them.
        lr: learning rate, the lecture's α.
        alpha: the lecture's β.
        eps: ε.
        weight_decay: λ/m, added to the gradient as λ/m·W.
        momentum: of the steps, 0 for none.
        centered: divide by the root of S − (average of dW)², an estimate of the variance.
        capturable: accepted; the step count is kept beside the parameters.
        foreach: accepted; torch's choice of implementation.
        maximize: climb instead of descend.
        differentiable: keep the graph through `step`.
        eps_inside_root: the lecture's form, W ← W − α dW / √(S + ε).

    Raises:
        ValueError: a negative option.
        RuntimeError: a sparse gradient.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> RMSprop([w], lr=0.1, alpha=0.9).step()
        >>> w.data
        tensor([0.6838])

    Source: lecture, "RMSprop" (whose first form has no ε and divides by zero).

    Differs from torch: `eps_inside_root` is ours.
    """

    added_later: ClassVar = {
        "momentum": 0,
        "centered": False,
        "foreach": None,
        "maximize": False,
        "differentiable": False,
        "capturable": False,
        "eps_inside_root": False,
    }

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        eps_inside_root: bool = False,
    ) -> None:
        require_non_negative(
            lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha
        )
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "alpha": alpha,
                "eps": eps,
                "centered": centered,
                "weight_decay": weight_decay,
                "capturable": capturable,
                "foreach": foreach,
                "maximize": maximize,
                "differentiable": differentiable,
                "eps_inside_root": eps_inside_root,
            },
        )

    def _init_state(self, param: Tensor, group: Group) -> State:
        names = ["square_avg"]
        names += ["momentum_buffer"] if group["momentum"] > 0 else []
        names += ["grad_avg"] if group["centered"] else []
        zeros = {n: torch.zeros_like(param, memory_format=torch.preserve_format) for n in names}
        return {"step": zero_step(param, group), **zeros}

    def _update(self, w: Tensor, dw: Tensor, state: State, group: Group) -> tuple[Tensor, State]:
        w, s, g, v = rmsprop(
            w,
            dw,
            state["square_avg"],
            state["grad_avg"] if group["centered"] else None,
            state["momentum_buffer"] if group["momentum"] > 0 else None,
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            momentum=group["momentum"],
            eps_inside_root=group["eps_inside_root"],
        )
        new = {"step": state["step"] + 1, "square_avg": s, "grad_avg": g, "momentum_buffer": v}
        return w, {name: value for name, value in new.items() if value is not None}
