"""The lecture's momentum: descend along an exponentially weighted average of the gradients.

Lecture -> code: alpha -> `lr`, beta -> `momentum`, V_dW -> "momentum_buffer".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, exact
from verification.oracles.trajectory import State, Store, run


def momentum(
    param: npt.ArrayLike,
    grads: Sequence[npt.ArrayLike | None],
    *,
    lr: float,
    momentum: float = 0.9,
    bias_correction: bool = False,
    weight_decay: float = 0.0,
    maximize: bool = False,
    store: Store = exact,
) -> list[State]:
    """Run the steps of gradient descent with momentum on one parameter.

    V_0 = 0;  V = beta V + (1 - beta) dW;  W := W - alpha V;
    with bias correction W := W - alpha V / (1 - beta^t)

    Args:
        param: W before the first step, any shape.
        grads: dW of each step, None to skip it.
        lr: alpha.
        momentum: beta; the average is over about 1 / (1 - beta) gradients.
        bias_correction: divide V by 1 - beta^t, t the number of gradients so far; the buffer stays
            uncorrected.
        weight_decay: lambda / m, times W added to the gradient.
        maximize: negate the gradient, before the decay.
        store: how a value is kept from step to step, see trajectory.run.

    Returns:
        For each step "param", "momentum_buffer" and, with bias correction, "step".

    Example:
        >>> steps = momentum([0.0], [[1.0], [0.0]], lr=1.0, momentum=0.98, bias_correction=True)
        >>> [round(float(step["param"][0]), 3) for step in steps]  # -1, then -0.495 more
        [-1.0, -1.495]

    Source: lecture, "Momentum" and "Bias correction". Differs from torch's SGD, which leaves out
    the factor 1 - beta: this is SGD with the learning rate lr (1 - beta).
    """
    alpha, beta = np.longdouble(lr), np.longdouble(momentum)

    def rule(w: Exact, dw: Exact, state: State) -> tuple[Exact, State]:
        v = beta * state.get("momentum_buffer", np.zeros_like(w)) + (1 - beta) * dw
        if not bias_correction:
            return w - alpha * v, {"momentum_buffer": v}
        t = state.get("step", exact(0.0)) + 1
        return w - alpha * v / (1 - beta**t), {"momentum_buffer": v, "step": t}

    return run(param, grads, rule, weight_decay=weight_decay, maximize=maximize, store=store)
