"""RMSprop: divide the gradient by the root of the average of its squares.

Lecture -> code: alpha -> `lr`, beta -> `alpha` (torch's name), epsilon -> `eps`, S -> "square_avg".

Erratum 2: the slide's (1 - b) db^2 is (1 - beta) db^2, and its first form, without epsilon, divides
by zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, exact
from verification.oracles.trajectory import State, Store, run


def rmsprop(
    param: npt.ArrayLike,
    grads: Sequence[npt.ArrayLike | None],
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    maximize: bool = False,
    eps_inside_root: bool = False,
    store: Store = exact,
) -> list[State]:
    """Run the steps of RMSprop on one parameter.

    S = beta S + (1 - beta) dW^2;
    W := W - lr dW / sqrt(S + eps) in the lecture, W := W - lr dW / (sqrt(S) + eps) in torch

    Centered, the variance S - G^2 stands in for S, with G = beta G + (1 - beta) dW. With momentum,
    B = momentum B + (the quotient) and W := W - lr B. Both are torch's.

    Args:
        param: W before the first step, any shape.
        grads: dW of each step, None to skip it.
        lr: the lecture's alpha.
        alpha: the lecture's beta.
        eps: epsilon.
        weight_decay: lambda / m, times W added to the gradient.
        momentum: share of the old buffer of quotients; 0 for no buffer.
        centered: divide by the root of the variance.
        maximize: negate the gradient, before the decay.
        eps_inside_root: the lecture's place of epsilon; False for torch's.
        store: how a value is kept from step to step, see trajectory.run.

    Returns:
        For each step "param", "step", "square_avg" and, where used, "grad_avg", "momentum_buffer".

    Example:
        >>> steps = rmsprop([0.0], [[3.0]], lr=1.0, alpha=0.0, eps=16.0, eps_inside_root=True)
        >>> float(steps[0]["param"][0])  # -3 / sqrt(9 + 16)
        -0.6

    Source: lecture, "RMSprop".
    """
    rate, beta, epsilon = np.longdouble(lr), np.longdouble(alpha), np.longdouble(eps)

    def rule(w: Exact, dw: Exact, state: State) -> tuple[Exact, State]:
        zeros = np.zeros_like(w)
        s = beta * state.get("square_avg", zeros) + (1 - beta) * dw**2
        new = {"step": state.get("step", exact(0.0)) + 1, "square_avg": s}
        if centered:
            g = state.get("grad_avg", zeros)
            # S - G^2 of a steady gradient is cancellation, down to the root of a negative number.
            # The same variance without it: D = beta (D + (1 - beta) (dW - G_before)^2).
            variance = beta * (state.get("_variance", zeros) + (1 - beta) * (dw - g) ** 2)
            g = beta * g + (1 - beta) * dw
            if store is not exact:  # S and G are all that is kept: what their rounding costs shows
                variance = np.maximum(s - g**2, 0)
            new |= {"grad_avg": g, "_variance": variance}
        mean_square = variance if centered else s
        root = np.sqrt(mean_square + epsilon) if eps_inside_root else np.sqrt(mean_square) + epsilon
        step = dw / root
        if momentum:
            step = np.longdouble(momentum) * state.get("momentum_buffer", zeros) + step
            new["momentum_buffer"] = step
        return w - rate * step, new

    return run(param, grads, rule, weight_decay=weight_decay, maximize=maximize, store=store)
