"""Dropout with the builtin's own masks: bit for bit the same, and the oracle's function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import Arrays, Case, OpTable, normal
from verification.oracles import Result
from verification.oracles.dropout import dropout as oracle


def next_mask(input: Tensor, p: float) -> Tensor:
    """Recover the keep-mask that the builtin draws next, and use up those random numbers.

    Example:
        >>> import torch
        >>> x = torch.ones(1000)
        >>> _ = torch.manual_seed(0); mask = next_mask(x, 0.3)
        >>> _ = torch.manual_seed(0); bool(((builtin.dropout(x, 0.3) != 0) == mask).all())
        True
    """
    return builtin.dropout(torch.ones_like(input), p) != 0


def _seeded(function: Callable[[], Tensor], seed: Tensor) -> Tensor:
    """Call a function under a seed and put the random states back."""
    devices = [seed.device] if seed.is_cuda else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(int(seed))
        return function()


def _builtin(input: Tensor, seed: Tensor, mask: Tensor, p: float) -> Tensor:
    return _seeded(lambda: builtin.dropout(input, p), seed)


def _adapt(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Hand the builtin's mask to a dropout with refnet's signature."""
    return lambda input, seed, mask, p: function(input, p, mask=mask)


def _complete(tensors: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    mask = _seeded(lambda: next_mask(tensors["input"], options["p"]), tensors["seed"])
    return {**tensors, "mask": mask}


def _oracle(input: Any, seed: Any, mask: Any, p: float, cotangent: Any) -> Result:
    return oracle(input, p=p, mask=mask, cotangent=cotangent)


def _case(name: str, *shape: int, p: float, special: tuple[float, ...] = ()) -> Case:
    def draw(rng: np.random.Generator) -> Arrays:
        input = normal(rng, *shape)
        input.flat[: len(special)] = special
        seed = np.array(rng.integers(2**31))
        return {"input": input, "seed": seed, "cotangent": normal(rng, *shape)}

    return Case(name, draw, {"p": p})


TABLES = (
    OpTable(
        name="dropout",
        candidate=functional.dropout,
        builtin=_builtin,
        oracle=_oracle,
        differentiable=("input",),
        bitwise=True,
        adapt=_adapt,
        complete=_complete,
        cases=(
            _case("p=0.1", 40, 30, p=0.1),
            _case("p=0.5", 40, 30, p=0.5),
            _case("p=0.9", 40, 30, p=0.9),
            _case("p=0", 40, 30, p=0.0),
            _case("p=1", 40, 30, p=1.0),
            _case("images, p=0.3", 4, 3, 6, 5, p=0.3),
            _case("inf and NaN, p=0.5", 64, p=0.5, special=(np.inf, -np.inf, np.nan) * 4),
        ),
    ),
)
