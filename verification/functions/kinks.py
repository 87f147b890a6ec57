"""Are two gradients different only where the function has none?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from verification.functions.parties import Party, run
from verification.functions.quotients import bends
from verification.ops.arguments import Arguments, Setting, as_real, leaf

LOOKED_AT = 32  # elements, those that are off by most
EPS = 1e-7
UNIT = 2.0**-53


def only_at_kinks(
    party: Party,
    arguments: Arguments,
    setting: Setting,
    quantity: str,
    gap: npt.NDArray[np.floating],
    limit: float,
) -> bool:
    """Return whether all that is off in a gradient lies where a function has no derivative.

    Args:
        party: the function.
        arguments: where.
        setting: how they are rounded; seed of the cotangents.
        quantity: "grad x", "second x", "second cotangent of output".
        gap: by how much each of its elements is off.
        limit: what is off by more is looked at.

    Returns:
        False as well where nothing is off.
    """
    kind, _, name = quantity.partition(" ")
    if kind not in ("grad", "second"):
        return False
    gap = np.where(np.isfinite(gap), gap, np.inf)
    off = sorted(np.argwhere(gap > limit).tolist(), key=lambda index: -gap[tuple(index)])
    values = {n: leaf(arguments, n, setting, exact=True) for n in arguments.values}
    here, exactly = replace(arguments, values=values), replace(setting, dtype=torch.float64)
    wide = max(EPS, 8 * torch.finfo(setting.dtype).eps)
    for index in off[:LOOKED_AT]:
        if name.startswith("cotangent of "):
            output = name.removeprefix("cotangent of ")
            f, x, eps = _along(party, here, exactly, output, tuple(index)), 0.0, wide
        else:
            f, x, size = _by_element(party, here, exactly, name, tuple(index), kind == "second")
            eps = wide * size
        least = gap[tuple(index)] / 4
        noise = 8 * UNIT * abs(f(x)) / eps
        if not bends(f, x, eps, float(least) if math.isfinite(least) else 0.0, noise):
            return False
    return bool(off)


def _by_element(
    party: Party,
    arguments: Arguments,
    setting: Setting,
    name: str,
    index: tuple[int, ...],
    second: bool,
) -> tuple[Callable[[float], float], float, float]:
    """Return what is differentiated as a function of one element, that element, and its size."""
    tensor = arguments.values[name]
    real = as_real(tensor)
    size = real[real.isfinite()].square().mean().sqrt().item()

    def f(value: float) -> float:
        moved = tensor.clone()
        as_real(moved)[index] = value
        return run(party, arguments.changed(name, moved), setting, second=second).projection

    return f, real[index].item(), size if size > 0 else 1.0


def _along(
    party: Party, arguments: Arguments, setting: Setting, output: str, index: tuple[int, ...]
) -> Callable[[float], float]:
    """Return an element of the output as a function of a shift of all inputs."""

    def f(shift: float) -> float:
        values = run(party, arguments, setting, shift=shift).values
        return float(as_real(values[output])[index])

    return f
