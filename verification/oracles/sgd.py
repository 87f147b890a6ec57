"""Stochastic gradient descent, with torch's momentum.

Lecture: W := W - alpha dW. Lecture -> code: alpha -> `lr`, lambda / m -> `weight_decay`.
The momentum here is torch's, a sum of gradients; the lecture's, an average, is in momentum.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, exact
from verification.oracles.trajectory import State, Store, run


def sgd(
    param: npt.ArrayLike,
    grads: Sequence[npt.ArrayLike | None],
    *,
    lr: float,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    store: Store = exact,
) -> list[State]:
    """Run the steps of gradient descent on one parameter.

    B_1 = dW_1 (undampened), B_t = momentum B_(t-1) + (1 - dampening) dW_t;
    W := W - lr B, with Nesterov W := W - lr (dW + momentum B)

    Args:
        param: W before the first step, any shape.
        grads: dW of each step, None to skip it.
        lr: alpha.
        momentum: share of the old buffer; 0 for W := W - lr dW, without a buffer.
        dampening: taken off the share of the new gradient, but not off the first.
        weight_decay: lambda / m, times W added to the gradient.
        nesterov: look ahead by one step of momentum.
        maximize: negate the gradient, before the decay.
        store: how a value is kept from step to step, see trajectory.run.

    Returns:
        For each step "param" and, with momentum, "momentum_buffer".

    Example:
        >>> steps = sgd([1.0], [[1.0], [1.0]], lr=0.5, momentum=0.5)
        >>> [float(step["param"][0]) for step in steps]
        [0.5, -0.25]

    Source: lecture, "Regularization for Neural network" and "Implement batch norm with mini-batch";
    momentum as torch documents it.
    """
    alpha, mu = np.longdouble(lr), np.longdouble(momentum)

    def rule(w: Exact, dw: Exact, state: State) -> tuple[Exact, State]:
        if not momentum:
            return w - alpha * dw, state
        old = state.get("momentum_buffer")
        buffer = dw if old is None else mu * old + (1 - np.longdouble(dampening)) * dw
        direction = dw + mu * buffer if nesterov else buffer
        return w - alpha * direction, {"momentum_buffer": buffer}

    return run(param, grads, rule, weight_decay=weight_decay, maximize=maximize, store=store)
