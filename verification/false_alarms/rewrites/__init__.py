"""Every op and optimizer again, in several right ways: what no check may flag.

Written from the formulas, composed from other primitives than refnet's and torch's kernels, summed
in another order, in float64 inside, or with a backward by hand. They take torch's arguments;
dropout's have a keyword `mask` too. Sums and intermediate values of half-precision inputs are in
float32, as in any implementation that is meant to be accurate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Rewrites = Mapping[str, Callable[..., Any]]  # in words -> a function or a factory of optimizers


def rewrites() -> dict[str, Rewrites]:
    """Return the right implementations of every op and optimizer by the name of its table.

    Example:
        >>> min(len(found) for found in rewrites().values())
        3
    """
    from verification.false_alarms.rewrites import (
        activations,
        batch_norm,
        cross_entropy,
        dropout,
        linear,
        optimizers,
        softmax,
    )

    modules: Any = (batch_norm, dropout, softmax, cross_entropy, linear, activations, optimizers)
    return {name: found for module in modules for name, found in module.REWRITES.items()}


def wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 at the least, for the sums of half-precision numbers."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
