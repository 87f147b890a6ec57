"""RMSprop, with ε outside the root as in torch, or inside as in the lecture.

Legend: w parameter W, dw its gradient dW (decay included), s average S of dW², g average of dW,
v momentum buffer, lr the lecture's α, alpha the lecture's β.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from refnet.optim import cpu
from refnet.optim._arithmetic import Scalar, add, addcdiv, addcmul, lerp
from refnet.optim._base import (
    Group,
    Optimizer,
    ParamsT,
    State,
    require_non_negative,
    require_one_element,
)

__all__ = ["RMSprop", "rmsprop"]


def rmsprop(
    w: Tensor,
    dw: Tensor,
    s: Tensor,
    g: Tensor | None,
    v: Tensor | None,
    *,
    lr: Scalar,
    alpha: float,
    eps: float,
    momentum: float,
    eps_inside_root: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """S ← βS + (1 − β) dW²;  W ← W − α dW / (√S + ε), or with ε inside W − α dW / √(S + ε).

    Given g, S − g² takes the place of S (centered); given v, V ← μV + dW / (√S + ε), W ← W − αV.
    """
    s = addcmul(alpha * s, dw, dw, 1 - alpha)
    spread = s
    if g is not None:
        g = lerp(g, dw, 1 - alpha)
        spread = addcmul(s, g, g, -1)
    root = (spread + eps).sqrt() if eps_inside_root else spread.sqrt() + eps
    if v is None:
        return addcdiv(w, dw, root, -lr), s, g, None
    v = addcdiv(momentum * v, dw, root, 1)
    return add(w, v, -lr), s, g, v


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
        capturable: keep the step count beside the parameters, on devices that can capture.
        foreach: accepted; torch's choice of implementation.
        maximize: climb instead of descend.
        differentiable: keep the graph through `step`.
        eps_inside_root: the lecture's form, W ← W − α dW / √(S + ε).

    Raises:
        ValueError: a negative option.
        RuntimeError: a sparse gradient.
        AssertionError: in `step`, `capturable` on a CPU, or `foreach` with `differentiable`.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.5])
        >>> RMSprop([w], lr=0.1, alpha=0.9).step()
        >>> w.data
        tensor([0.6838])

    Source: lecture, "RMSprop" (whose first form has no ε and divides by zero).

    Differs from torch: `eps_inside_root` is ours. A step on an average S with it is torch's step
    with ε' = √(S + ε) − √S, which no constant is, but where S is: ε' → √ε as S → 0, and
    ε' ≈ ε / (2√S) where S ≫ ε.
    """

    kernel = cpu.rmsprop
    rows = ("square_avg", "momentum_buffer", "grad_avg")
    sparse_error = "RMSprop does not support sparse gradients"
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
        require_one_element(lr=lr)
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

    def _state_names(self, group: Group) -> list[str]:
        names = ["square_avg"]
        names += ["momentum_buffer"] if group["momentum"] > 0 else []
        names += ["grad_avg"] if group["centered"] else []
        return names

    def _numbers(self, group: Group) -> tuple[Any, ...]:
        return (
            group["lr"], group["alpha"], group["eps"], group["momentum"], group["centered"],
            group["eps_inside_root"], group["weight_decay"], group["maximize"],
        )  # fmt: skip

    def _update(
        self, w: Tensor, dw: Tensor, state: State, t: Any, group: Group
    ) -> tuple[Tensor, State]:
        w, s, g, v = rmsprop(
            w,
            dw,
            state["square_avg"],
            state.get("grad_avg"),
            state.get("momentum_buffer"),
            lr=group["lr"],
            alpha=group["alpha"],
            eps=group["eps"],
            momentum=group["momentum"],
            eps_inside_root=group["eps_inside_root"],
        )
        return w, {"square_avg": s, "grad_avg": g, "momentum_buffer": v}
