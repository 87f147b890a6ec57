"""Adam: momentum and RMSprop together, both with bias correction.

Lecture -> code: alpha -> `lr`, (beta_1, beta_2) -> `betas`, epsilon -> `eps`, V -> "exp_avg",
S -> "exp_avg_sq", t -> "step".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, exact
from verification.oracles.trajectory import State, Store, run


def adam(
    param: npt.ArrayLike,
    grads: Sequence[npt.ArrayLike | None],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    store: Store = exact,
) -> list[State]:
    """Run the steps of Adam on one parameter.

    V = beta_1 V + (1 - beta_1) dW;  S = beta_2 S + (1 - beta_2) dW^2;
    V^ = V / (1 - beta_1^t);  S^ = S / (1 - beta_2^t);  W := W - lr V^ / (sqrt(S^) + eps)

    Args:
        param: W before the first step, any shape.
        grads: dW of each step, None to skip it.
        lr: alpha.
        betas: beta_1 and beta_2.
        eps: epsilon, added after the root and after the correction.
        weight_decay: lambda / m, times W added to the gradient unless decoupled.
        amsgrad: S^ is the corrected maximum of all S so far; the maximum is of the uncorrected S,
            as in torch.
        maximize: negate the gradient, before the decay.
        decoupled_weight_decay: W := W (1 - lr weight_decay) before the step instead; the averages
            do not see the decay.
        store: how a value is kept from step to step, see trajectory.run.

    Returns:
        For each step "param", "step", "exp_avg", "exp_avg_sq" and, with amsgrad, "max_exp_avg_sq".

    Example:
        >>> steps = adam([0.0], [[4.0]], lr=0.5, eps=4.0)  # first step: V^ = dW, S^ = dW^2
        >>> round(float(steps[0]["param"][0]), 12)
        -0.25

    Source: lecture, "Adam (Adaptive Moment Estimation) optimization algorithm".
    """
    alpha, epsilon = np.longdouble(lr), np.longdouble(eps)
    beta1, beta2 = np.longdouble(betas[0]), np.longdouble(betas[1])

    def rule(w: Exact, dw: Exact, state: State) -> tuple[Exact, State]:
        zeros = np.zeros_like(w)
        t = state.get("step", exact(0.0)) + 1
        v = beta1 * state.get("exp_avg", zeros) + (1 - beta1) * dw
        s = beta2 * state.get("exp_avg_sq", zeros) + (1 - beta2) * dw**2
        new = {"step": t, "exp_avg": v, "exp_avg_sq": s}
        if amsgrad:
            s = np.maximum(state.get("max_exp_avg_sq", zeros), s)
            new["max_exp_avg_sq"] = s
        v_corrected = v / (1 - beta1**t)
        s_corrected = s / (1 - beta2**t)
        if decoupled_weight_decay:
            w = w * (1 - alpha * np.longdouble(weight_decay))
        return w - alpha * v_corrected / (np.sqrt(s_corrected) + epsilon), new

    coupled = 0.0 if decoupled_weight_decay else weight_decay
    return run(param, grads, rule, weight_decay=coupled, maximize=maximize, store=store)
