"""A loss as a function of its parameters and of nothing else: frozen random state and buffers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verification.tensors import nudge, short
from verification.tolerance import DRAWS

UNIT = 2.0**-53
NOISE = 8  # a loss is trusted to this many times its response to ±1 ulp


class FrozenLoss:
    """A loss whose evaluations all start from the same random state and buffers.

    Attributes:
        value: J(θ).
        noise: what a difference of two losses may be by rounding alone.
    """

    def __init__(
        self, loss: Callable[[], Any], tensors: list[Tensor], module: torch.nn.Module | None
    ) -> None:
        self.loss, self.tensors = loss, tensors
        self.buffers = [] if module is None else list(module.buffers())
        self.kept = [t.detach().clone() for t in tensors + self.buffers]
        self.random = _random_state()
        self.value = self.again = self.noise = math.nan

    def __enter__(self) -> FrozenLoss:
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore(self.tensors + self.buffers, self.kept)
        _set_random_state(self.random)

    def _restore(self, tensors: list[Tensor], values: list[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)

    def tensor(self) -> Tensor:
        """Evaluate the loss, once, with its graph."""
        _set_random_state(self.random)
        self._restore(self.buffers, self.kept[len(self.tensors) :])
        with torch.enable_grad():  # a loss may take gradients itself
            value = self.loss()
        if not isinstance(value, Tensor):
            value = torch.tensor(value, dtype=torch.float64)
        if value.numel() != 1 or value.dtype != torch.float64:
            found = f"{short(value.dtype)} of shape {(*value.shape,)}"
            raise ValueError(f"loss returns {found}, must be a scalar of float64")
        return value

    def __call__(self) -> float:
        """Return the loss at the parameters as they are."""
        return self.tensor().item()

    def gradients(self) -> Sequence[Tensor | None]:
        """Return autograd's gradients, None where there is none."""
        value = self.tensor()
        if not value.requires_grad:
            return [None] * len(self.tensors)
        return torch.autograd.grad(value.sum(), self.tensors, allow_unused=True)

    def moved(self, values: list[Tensor]) -> float:
        """Evaluate the loss at other parameters."""
        self._restore(self.tensors, values)
        value = self()
        self._restore(self.tensors, self.kept[: len(self.tensors)])
        return value

    def unusable(self) -> str:
        """Return why the loss can't be differenced, if so; note its value and its noise."""
        self.value, again = self(), self()
        if not math.isfinite(self.value):
            return f"the loss is {self.value}"
        if abs(self.value - again) > 2 * NOISE * UNIT * abs(self.value):
            gap = abs(self.value - again)
            return f"the loss changes by {gap:.1e} between two equal calls, no frozen randomness"
        rng = np.random.default_rng(0)
        values = self.kept[: len(self.tensors)]
        responses = [
            self.moved(
                [torch.as_tensor(nudge(v.cpu().numpy(), v.dtype, rng)).to(v) for v in values]
            )
            for _ in range(DRAWS)
        ]
        gaps = [abs(r - self.value) for r in [*responses, again] if math.isfinite(r)]
        self.noise = NOISE * max(UNIT * abs(self.value), *gaps)
        return ""


def _random_state() -> list[Tensor]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *cuda]


def _set_random_state(state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if state[1:]:
        torch.cuda.set_rng_state_all(state[1:])
