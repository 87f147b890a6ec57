"""What all optimizer oracles share: one parameter, a list of gradients, the state after each step.

An optimizer is a rule, a pure function (W, dW, state) -> (W, state); its arrays are never changed
in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from verification.oracles import Exact, exact

State: TypeAlias = dict[str, Exact]
Store: TypeAlias = Callable[[Exact], Exact]
Rule: TypeAlias = Callable[[Exact, Exact, State], tuple[Exact, State]]


def run(
    param: npt.ArrayLike,
    grads: Sequence[npt.ArrayLike | None],
    rule: Rule,
    *,
    weight_decay: float = 0.0,
    maximize: bool = False,
    store: Store = exact,
) -> list[State]:
    """Apply a rule once per gradient, with the decay of L2 regularization added to the gradient.

    dW = dW_before + weight_decay W, weight_decay = lambda / m; to maximize, the gradient is negated
    first, the decay is not.

    Args:
        param: W before the first step, any shape.
        grads: dW_before of each step, shape of the parameter; None skips the parameter, with its
            state and its count of steps.
        rule: the optimizer; the state that it gets first is empty.
        weight_decay: lambda / m.
        maximize: climb instead of descend.
        store: how W and the state are kept from step to step. Exactly, unless one wants to know
            what rounding them to float32 costs, however exact the steps are.

    Returns:
        For each step "param" and the state under torch's names, as copies. What a rule keeps
        under a name with a leading underscore is its own and is left out.

    Example:
        >>> steps = run([1.0], [[0.5], None], lambda w, dw, state: (w - dw, state))
        >>> [float(step["param"][0]) for step in steps]
        [0.5, 0.5]

    Source: lecture, "Regularization for Neural network".
    """
    w, state = exact(param), State()
    steps = []
    for grad in grads:
        if grad is not None:
            dw = -exact(grad) if maximize else exact(grad)
            if weight_decay:
                dw = dw + np.longdouble(weight_decay) * w
            w, state = rule(w, dw, state)
            w, state = store(w), {name: store(value) for name, value in state.items()}
        public = {name: exact(v) for name, v in state.items() if not name.startswith("_")}
        steps.append({"param": exact(w), **public})
    return steps
