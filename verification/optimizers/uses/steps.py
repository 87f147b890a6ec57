"""What the uses of an optimizer are made of: parameters, and steps with drawn gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

Make = Callable[..., Any]
Options = Mapping[str, Any]
Use = Callable[[Make, Options], tuple[Any, list[Tensor]]]  # an optimizer and its parameters
F64 = torch.float64
DEVICE: ContextVar[str] = ContextVar("device", default="cpu")  # where parameters are made
_SHAPES: Sequence[tuple[int, ...]] = ((3, 2), (4,), (), (0,))


class Wrong(Exception):
    """An optimizer does what none may do."""


class NoCount(Exception):
    """No number in an optimizer's state tells how many steps it has taken."""


def parameters(
    shapes: Sequence[tuple[int, ...]] = _SHAPES, dtype: torch.dtype = F64
) -> list[Tensor]:
    """Return normal random parameters of some shapes, the same ones each time."""
    generator, place = torch.Generator().manual_seed(0), DEVICE.get()
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=dtype).to(place))
        for s in shapes
    ]  # fmt: skip


def take_steps(optimizer: Any, params: Sequence[Tensor], count: int = 3, seed: int = 1) -> None:
    """Take so many steps, each with normal random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
        optimizer.step()
