r"""L2, L1 and elastic-net regularization: as a loss term, and L1 as a proximal step.

J = 1/m Σ L + λ/(2m) Σ_l ‖W^[l]‖²_F   or   J = 1/m Σ L + λ/(2m) Σ_l ‖W^[l]‖₁

on weights and never on biases (the lecture strikes that term out). As weight decay, L2 is an option
of every optimizer, with `refnet.optim.decay_groups`. The subgradient of L1, λ/(2m) sign(W), lets
weights jump about zero and makes none of them zero: a proximal step does. Legend: W weight,
m number of training examples, λ strength, α learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from refnet import backend, optim
from refnet.optim import decay_groups

__all__ = ["elastic_net_penalty", "l1_penalty", "l2_penalty", "proximal_l1", "soft_threshold"]

Weights = Tensor | nn.Module | Iterable[Tensor]

_OURS = (optim.SGD, optim.Momentum, optim.RMSprop, optim.Adam)  # AdamW is an Adam, in torch too
_TORCHS = (  # to recognize, not to use
    torch.optim.SGD,  # noqa: TID251
    torch.optim.RMSprop,  # noqa: TID251
    torch.optim.Adam,  # noqa: TID251
    torch.optim.Adagrad,  # noqa: TID251
    torch.optim.Adamax,  # noqa: TID251
)


def l2_penalty(weights: Weights, strength: float, m: int) -> Tensor:
    r"""Return the L2 term of a loss, whose gradient is λ/m W.

    λ/(2m) Σ_l ‖W^[l]‖²_F

    Args:
        weights: a tensor, several, or a module: of that, what `refnet.optim.decay_groups` decays.
        strength: λ ≥ 0.
        m: number of training examples, at least 1 (not of a mini-batch).

    Returns:
        A number in the weights' dtype, float32 for half precision; 0 where there are no weights.

    Raises:
        TypeError: a weight isn't real and floating.
        ValueError: a negative or infinite strength, m below 1 or infinite.

    Example:
        >>> w = torch.tensor([3.0, -4.0], requires_grad=True)
        >>> penalty = l2_penalty(w, strength=0.5, m=10)  # 0.5 / 20 · 25
        >>> penalty.backward()
        >>> round(penalty.item(), 4), [round(g, 4) for g in w.grad.tolist()]
        (0.625, [0.15, -0.2])

    Source: lecture, "Regularization for logistic regression", "Regularization for Neural network".
    """
    _require_strength(strength=strength)
    return elastic_net_penalty(weights, 0.0, strength, m)


def l1_penalty(weights: Weights, strength: float, m: int) -> Tensor:
    r"""Return the L1 term of a loss, whose (sub)gradient is λ/(2m) sign(W), 0 at 0.

    λ/(2m) Σ_l ‖W^[l]‖₁

    Args and errors as in `l2_penalty`. To make weights exactly zero, use `proximal_l1`.

    Example:
        >>> w = torch.tensor([3.0, 0.0, -4.0], requires_grad=True)
        >>> penalty = l1_penalty(w, strength=0.5, m=10)  # 0.5 / 20 · 7
        >>> penalty.backward()
        >>> round(penalty.item(), 4), [round(g, 4) for g in w.grad.tolist()]
        (0.175, [0.025, 0.0, -0.025])

    Source: lecture, "Regularization for logistic regression"; the slide has λ/(2m) for L1 too, so
    that its gradient is λ/(2m) sign(W).
    """
    _require_strength(strength=strength)
    return elastic_net_penalty(weights, strength, 0.0, m)


def elastic_net_penalty(weights: Weights, l1: float, l2: float, m: int) -> Tensor:
    r"""Return both terms: λ₁/(2m) Σ ‖W‖₁ + λ₂/(2m) Σ ‖W‖²_F.

    Args:
        weights: as in `l2_penalty`.
        l1: λ₁ ≥ 0.
        l2: λ₂ ≥ 0.
        m: number of training examples, at least 1.

    Example:
        >>> round(elastic_net_penalty(torch.tensor([3.0, -4.0]), l1=0.5, l2=0.5, m=10).item(), 4)
        0.8

    Source: lecture, "Regularization for logistic regression".
    """
    _require_strength(l1=l1, l2=l2)
    if not 1 <= m < math.inf:
        raise ValueError(f"m must be finite and at least 1, got {m}")
    penalty = None
    for w in _tensors(weights):
        if not w.is_floating_point():
            raise TypeError(f"weights must be real and floating, got {w.dtype}")
        composed = backend.composes()
        term = (_penalty if composed else _Penalty.apply)(w, l1 / (2 * m), l2 / (2 * m))
        penalty = term if penalty is None else penalty + term.to(penalty.device)
    return torch.zeros(()) if penalty is None else penalty


def _require_strength(**strengths: float) -> None:
    for name, value in strengths.items():
        if not 0 <= value < math.inf:  # NaN, too
            raise ValueError(f"{name} must be finite and at least 0, got {value}")


def _tensors(weights: Weights) -> Iterable[Tensor]:
    if isinstance(weights, Tensor):
        return [weights]
    if isinstance(weights, nn.Module):
        decayed: list[Tensor] = decay_groups(weights, 0.0)[0]["params"]
        return decayed
    return weights


def _penalty(w: Tensor, l1: float, l2: float) -> Tensor:
    """l1 ‖W‖₁ + l2 ‖W‖², without a term whose factor is 0, so that ∞ · 0 is no NaN."""
    w = w.float() if w.dtype in (torch.float16, torch.bfloat16) else w
    absolute = l1 * w.abs().sum() if l1 or not l2 else None
    squared = l2 * w.square().sum() if l2 else None
    if absolute is None or squared is None:
        return squared if absolute is None else absolute  # type: ignore[return-value]
    return absolute + squared


class _Penalty(torch.autograd.Function):
    """dJ/dW = l1 sign(W) + 2 l2 W."""

    generate_vmap_rule = True

    @staticmethod
    def forward(w: Tensor, l1: float, l2: float) -> Tensor:
        return _penalty(w, l1, l2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        w, ctx.l1, ctx.l2 = inputs
        ctx.save_for_backward(w)

    @staticmethod
    def backward(ctx: Any, dj: Tensor) -> tuple[Tensor, None, None]:
        (w,) = ctx.saved_tensors
        gradient = ctx.l1 * w.sign() + 2 * ctx.l2 * w
        return (dj * gradient).to(w.dtype), None, None


def soft_threshold(w: Tensor, threshold: float | Tensor) -> Tensor:
    r"""Return the proximal map of threshold · ‖W‖₁: nearer to zero by the threshold, or zero.

    sign(W) max(|W| − threshold, 0) = argmin_V ½ ‖V − W‖² + threshold · ‖V‖₁

    Args:
        w: real, of any shape.
        threshold: at least 0; a number, or a tensor that broadcasts.

    Returns:
        A tensor like `w`; NaN stays NaN.

    Raises:
        ValueError: a negative threshold.

    Example:
        >>> soft_threshold(torch.tensor([3.0, 0.5, -0.5, -3.0]), 1.0).tolist()
        [2.0, 0.0, -0.0, -2.0]

    Source: closed form of the lecture's "w will be sparse".
    """
    if not isinstance(threshold, Tensor) and not threshold >= 0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    return w.sign() * (w.abs() - threshold).clamp(min=0)


def proximal_l1(optimizer: torch.optim.Optimizer, l1: float = 0.0) -> RemovableHandle:
    r"""Let every step of an optimizer end with the proximal step of L1, which makes weights zero.

    W ← soft_threshold(W, a · l1) with l1 = λ/(2m), after the optimizer's own change of W

    With SGD, a = α, this is proximal gradient descent, whose fixed point is the minimum of J with
    the L1 term (of the lasso, on least squares); with `weight_decay` = λ₂/m beside it, of the
    elastic net. So that the others have that fixed point too, a is the length of their step per
    gradient: α/(√Ŝ + ε) for Adam, element by element, α/(√S + ε) for RMSprop, α/(√ΣdW² + ε) for
    Adagrad, with α after its decay, α/max|dW| for Adamax, and with torch's momentum, which adds up
    gradients, 1/(1 − β) as much.

    A group's own `l1` goes before, and is part of the optimizer's state dict: give 0 to a group of
    biases. Parameters without a gradient, and steps that GradScaler skips, are left alone.

    Args:
        optimizer: any of refnet's; SGD, RMSprop, Adam, AdamW, Adagrad or Adamax of torch; or a
            subclass of one, which keeps its update rule.
        l1: λ/(2m) ≥ 0 of the groups that have none of their own.

    Returns:
        A handle whose `remove()` ends it.

    Raises:
        ValueError: another optimizer, whose step per gradient isn't known here; a negative or
            infinite l1.

    Example:
        >>> from refnet.optim import SGD
        >>> w = nn.Parameter(torch.tensor([1.0, 0.05]))
        >>> optimizer = SGD([{"params": [w], "l1": 0.9}], lr=0.1)
        >>> handle = proximal_l1(optimizer)
        >>> w.grad = torch.zeros(2)
        >>> optimizer.step()
        >>> w.data
        tensor([0.9100, 0.0000])

    Source: lecture, "Regularization for logistic regression": "after regularization, w will be
    sparse (i.e. having many zero elements)".
    """
    if not isinstance(optimizer, _OURS + _TORCHS):
        raise ValueError(
            "optimizer must be one of refnet's, or torch's SGD, RMSprop, Adam, AdamW, Adagrad or "
            f"Adamax, got {type(optimizer).__name__}"
        )
    for value in (l1, *(group.get("l1", 0.0) for group in optimizer.param_groups)):
        _require_strength(l1=value)
    for group in optimizer.param_groups:
        group.setdefault("l1", l1)

    def shrink(stepped: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(stepped, "found_inf", None)
        if found_inf is not None and found_inf.item():
            return
        for group in stepped.param_groups:
            strength = group.get("l1", l1)
            for param in group["params"]:
                if strength and param.grad is not None:
                    with torch.no_grad():
                        length = _step_length(group, stepped.state.get(param, {}))
                        param.copy_(soft_threshold(param, length * strength))

    return optimizer.register_step_post_hook(shrink)


def _step_length(group: dict[str, Any], state: dict[str, Any]) -> Any:
    """Return ΔW per unit of a gradient that stays the same: a number, or one for each element.

    Read from what the optimizer keeps, which has torch's names in refnet too.
    """
    length = group["lr"]
    if "exp_avg_sq" in state:  # Adam, AdamW
        correction = 1 - group["betas"][1] ** state["step"]
        s = state.get("max_exp_avg_sq", state["exp_avg_sq"]) / correction
        return length / (s.sqrt() + group["eps"])
    if "exp_inf" in state:  # Adamax, with ε within the maximum
        return length / state["exp_inf"]
    if "sum" in state:  # Adagrad
        decay = 1 + (state["step"] - 1) * group["lr_decay"]
        return length / decay / (state["sum"].sqrt() + group["eps"])
    if "square_avg" in state:  # RMSprop
        s = state["square_avg"]
        if group["centered"]:
            s = s - state["grad_avg"].square()
        inside = group.get("eps_inside_root", False)
        root = (s + group["eps"]).sqrt() if inside else s.sqrt() + group["eps"]
        length = length / root
    if group.get("momentum") and "bias_correction" not in group:  # a sum, no average of gradients
        length = length * (1 - group.get("dampening", 0)) / (1 - group["momentum"])
    return length
