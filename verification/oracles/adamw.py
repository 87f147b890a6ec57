"""AdamW: Adam whose weight decay shrinks the parameter instead of entering the averages.

The lecture has Adam, and weight decay W := (1 - alpha lambda / m) W - alpha dW for plain gradient
descent; AdamW keeps the second form beside the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from verification.oracles import exact
from verification.oracles.adam import adam
from verification.oracles.trajectory import State, Store


def adamw(
    param: npt.ArrayLike,
    grads: Sequence[npt.ArrayLike | None],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    maximize: bool = False,
    store: Store = exact,
) -> list[State]:
    """Run the steps of AdamW on one parameter.

    W := W (1 - lr weight_decay) - lr V^ / (sqrt(S^) + eps), V^ and S^ as in adam.py

    Args:
        param: W before the first step, any shape.
        grads: dW of each step, None to skip it.
        lr: alpha.
        betas: beta_1 and beta_2.
        eps: epsilon, added after the root and after the correction.
        weight_decay: lambda / m.
        amsgrad: divide by the root of the largest S so far.
        maximize: negate the gradient, not the decay.
        store: how a value is kept from step to step, see trajectory.run.

    Returns:
        For each step "param", "step", "exp_avg", "exp_avg_sq" and, with amsgrad, "max_exp_avg_sq".

    Example:
        >>> steps = adamw([2.0], [[0.0]], lr=0.5, weight_decay=0.5)
        >>> float(steps[0]["param"][0])
        1.5

    Source: lecture, "Regularization for Neural network" and "Adam"; Loshchilov and Hutter,
    "Decoupled weight decay regularization".
    """
    return adam(
        param,
        grads,
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled_weight_decay=True,
        store=store,
    )
