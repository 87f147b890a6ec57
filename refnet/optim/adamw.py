"""Adam with decoupled weight decay. The rule is `adam.adam`, after W ← W (1 − α λ/m)."""

from __future__ import annotations

from torch import Tensor

from refnet.optim._base import ParamsT
from refnet.optim.adam import Adam

__all__ = ["AdamW"]


class AdamW(Adam):
    """Adam whose weight decay acts on W and not through the gradient, drop-in for torch's AdamW.

    W ← W (1 − α λ/m), then Adam's step

    Args:
        params: parameters, or groups of them.
        lr: learning rate α.
        betas: β₁ and β₂, each in [0, 1).
        eps: ε, outside the root and after bias correction.
        weight_decay: λ/m.
        amsgrad: divide by the root of the largest S so far.
        maximize: climb instead of descend.
        foreach: accepted; torch's choice of implementation.
        capturable: accepted; the step count is kept beside the parameters, and never read back.
        differentiable: keep the graph through `step`.
        fused: accepted; torch's choice of implementation.

    Raises:
        ValueError: a negative option, or a β outside [0, 1).
        RuntimeError: options that exclude each other, or a sparse gradient.

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
        betas: tuple[float, float] = (0.9, 0.999),
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
