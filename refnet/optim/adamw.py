"""Adam with decoupled weight decay. The rule is `adam.adam`, after W ← W (1 − α λ/m)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from refnet.optim._arithmetic import Scalar
from refnet.optim._base import ParamsT
from refnet.optim.adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam):
    """Adam whose weight decay acts on W and not through the gradient, drop-in for torch's AdamW.

    W ← W (1 − α λ/m), then Adam's step

    Args:
        params: parameters, or groups of them.
        lr: learning rate α.
        betas: β₁ and β₂, each in [0, 1): two floats, or two tensors of one element.
        eps: ε, outside the root and after bias correction.
        weight_decay: λ/m.
        amsgrad: divide by the root of the largest S so far.
        maximize: climb instead of descend.
        foreach: accepted; torch's choice of implementation.
        capturable: keep the step count beside the parameters, on devices that can capture, and
            never read it back.
        differentiable: keep the graph through `step`.
        fused: likewise; GradScaler leaves the unscaling and the skipping of a step to `step`.

    Raises:
        ValueError: a negative option, or a β outside [0, 1).
        RuntimeError: options that exclude each other, or a sparse gradient.
        AssertionError: in `step`, `capturable` on a CPU, or `foreach` with `differentiable`.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> w.grad = torch.tensor([0.0])
        >>> AdamW([w], lr=0.1, weight_decay=0.5).step()
        >>> w.data
        tensor([0.9500])

    Source: lecture, "Regularization for Neural network" (W ← (1 − α λ/m) W − α dW) and "Adam";
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[Scalar, Scalar] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # whatever Adam's checkpoint says
            group["decoupled_weight_decay"] = True
