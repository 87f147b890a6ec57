"""Second derivatives against difference quotients of the same function's gradients."""

from __future__ import annotations

import numpy as np
import torch

from verification.functions.parties import Party, run
from verification.limits import TimeLimitExceeded
from verification.ops.arguments import Arguments, Setting, as_real
from verification.tensors import to_numpy
from verification.tolerance import Array, distance, size_of

STEP = 1e-5
GOOD = 1e-6  # how good a quotient is at best


def second_by_quotients(
    party: Party, arguments: Arguments, setting: Setting
) -> list[tuple[str, float, float]]:
    """Compare the gradients of ⟨v, g⟩, g a function's gradients, with their change along v.

    H v ≈ (g(x + h v) − g(x − h v)) / 2h

    Args:
        party: the function.
        arguments: where.
        setting: of float64.

    Returns:
        For each argument quantity, error, and a bound that grows with the difference that a quarter
        of the step makes; nothing if the function has no second derivatives.
    """
    try:
        found = run(party, arguments, setting, second=True).values
    except TimeLimitExceeded:
        raise
    except Exception:  # such as "not implemented"
        return []
    wide, narrow = (_quotients(party, arguments, setting, step) for step in (STEP, STEP / 4))
    compared = []
    for name, expected in narrow.items():
        value = _array(found[f"second {name}"])
        scale = size_of(expected) or 1.0
        bound = GOOD + 8 * distance(wide[name], expected) / scale
        compared.append((f"second {name}", distance(value, expected) / scale, bound))
    return compared


def _quotients(
    party: Party, arguments: Arguments, setting: Setting, step: float
) -> dict[str, Array]:
    up, down = (run(party, arguments, setting, shift=s).values for s in (step, -step))
    return {
        name.removeprefix("grad "): (_array(up[name]) - _array(down[name])) / (2 * step)
        for name in up
        if name.startswith("grad ") and name in down
    }


def _array(tensor: torch.Tensor) -> Array:
    return np.asarray(to_numpy(as_real(tensor)), dtype=np.longdouble)
