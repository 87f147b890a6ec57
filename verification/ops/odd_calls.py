"""The calls that are wrong, and those that are only odd, by op."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


@dataclass(frozen=True)
class Odd:
    """A call that is wrong, or odd.

    Attributes:
        name: what is odd about it.
        call: makes it; takes the function and a maker of tensors on the tested device.
        anywhere: whether it may be made on an accelerator, which a bad index would bring down.
        meant: the call that a candidate may take it for where the builtin refuses it.
    """

    name: str
    call: Callable[[Function, Maker], Any]
    anywhere: bool = True
    meant: Callable[[Function, Maker], Any] | None = None


class Maker:
    """Makes the tensors of a call on a device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def x(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers from 0.1 on, of a shape, (4, 3) unless told."""
        shape = shape or (4, 3)
        numbers = torch.arange(math.prod(shape), device=self.device).view(shape) / 10 + 0.1
        return numbers.to(dtype)

    def whole(self) -> Tensor:
        """Return integers from -5 to 6 in four rows of three."""
        return torch.arange(-5, 7, device=self.device).view(4, 3)

    def none(self, *shape: int) -> Tensor:
        """Return an empty tensor of a shape that holds a zero."""
        return torch.empty(shape, device=self.device)

    def of(self, *numbers: Any, dtype: torch.dtype = torch.int64) -> Tensor:
        """Return a vector."""
        return torch.tensor(numbers, dtype=dtype, device=self.device)


# The calls: f is the function, t makes tensors

_BATCH_NORM = (
    Odd("one dimension, training", lambda f, t: f(t.x(4), None, None, training=True)),
    Odd("one dimension", lambda f, t: f(t.x(4), t.x(4), t.x(4))),
    Odd("one value per channel", lambda f, t: f(t.x(1, 3), t.x(3), t.x(3), training=True)),
    Odd("one value per channel, images", lambda f, t: f(
        t.x(1, 3, 1, 1), None, None, training=True)),
    Odd("one value per channel, eval", lambda f, t: f(t.x(1, 3), t.x(3), t.x(3))),
    Odd("no statistics in evaluation", lambda f, t: f(t.x(), None, None)),
    Odd("half of the statistics", lambda f, t: f(t.x(), t.x(3), None)),
    Odd("weight of 4 for 3 channels", lambda f, t: f(t.x(), None, None, t.x(4), None, True)),
    Odd("bias of 4 for 3 channels", lambda f, t: f(t.x(), None, None, None, t.x(4), True)),
    Odd("running mean of 4", lambda f, t: f(t.x(), t.x(4), t.x(3), training=True)),
    Odd("running variance of 4", lambda f, t: f(t.x(), t.x(3), t.x(4))),
    Odd("integers", lambda f, t: f(t.whole(), None, None, training=True),
        meant=lambda f, t: f(t.whole().float(), None, None, training=True)),
    Odd("float64 statistics", lambda f, t: f(
        t.x(), t.x(3, dtype=torch.float64), t.x(3, dtype=torch.float64), training=True), False,
        lambda f, t: f(t.x(), t.x(3), t.x(3), training=True)),
    Odd("no examples", lambda f, t: f(t.none(0, 3), t.x(3), t.x(3), training=True)),
    Odd("no examples, eval", lambda f, t: f(t.none(0, 3), t.x(3), t.x(3))),
    Odd("two examples", lambda f, t: f(t.x(2, 3), None, None, training=True)),
)  # fmt: skip

# Left out: p = NaN, which torch takes and refnet refuses.
_DROPOUT = (
    Odd("p = 1.5", lambda f, t: f(t.x(), 1.5)),
    Odd("p = -0.1", lambda f, t: f(t.x(), -0.1)),
    Odd("p = 1.5 in evaluation", lambda f, t: f(t.x(), 1.5, training=False)),
    Odd("integers", lambda f, t: f(t.whole(), 0.5), meant=lambda f, t: f(t.whole().float(), 0.5)),
    Odd("a leaf in place", lambda f, t: f(t.x().requires_grad_(), 0.5, inplace=True)),
    Odd("p = 0", lambda f, t: f(t.x(), 0)),
    Odd("p = 1", lambda f, t: f(t.x(), 1)),
    Odd("nothing", lambda f, t: f(t.none(0, 3), 0.5)),
    Odd("the defaults", lambda f, t: f(t.x())),
)
_CHANNELS = {
    "dropout1d": (
        Odd("one dimension", lambda f, t: f(t.x(4), 0.5)),
        Odd("four dimensions", lambda f, t: f(t.x(2, 3, 4, 5), 0.5)),
        Odd("no batch", lambda f, t: f(t.x(4, 3), 0.5)),
    ),
    "dropout2d": (
        Odd("one dimension", lambda f, t: f(t.x(4), 0.5)),
        Odd("three dimensions", lambda f, t: f(t.x(2, 3, 4), 0.5)),
    ),
    "dropout3d": (Odd("no batch", lambda f, t: f(t.x(2, 3, 4, 5), 0.5)),),
}

_SOFTMAX = (
    Odd("dimension 2 of 2", lambda f, t: f(t.x(), 2)),
    Odd("dimension -3 of 2", lambda f, t: f(t.x(), -3)),
    Odd("integers", lambda f, t: f(t.whole(), 1), meant=lambda f, t: f(t.whole().float(), 1)),
    Odd("a dimension in words", lambda f, t: f(t.x(), "a")),
    Odd("integers as result", lambda f, t: f(t.x(), 1, dtype=torch.int64)),
    Odd("integers with a dtype", lambda f, t: f(t.whole(), 1, dtype=torch.float32)),
    Odd("a number", lambda f, t: f(t.x(1)[0], 0)),
    Odd("a number, dimension 1", lambda f, t: f(t.x(1)[0], 1)),
    Odd("no rows", lambda f, t: f(t.none(0, 3), 1)),
    Odd("no classes", lambda f, t: f(t.none(3, 0), 1)),
)

# Left out: a label smoothing that is negative or NaN, which torch takes and refnet refuses.
_CROSS_ENTROPY = (
    Odd("target beyond the classes", lambda f, t: f(t.x(), t.of(0, 1, 2, 3)), False),
    Odd("target of -1", lambda f, t: f(t.x(), t.of(0, 1, 2, -1)), False),
    Odd("target beyond, others ignored", lambda f, t: f(t.x(), t.of(0, -100, 5, 1)), False),
    Odd("target beyond the classes, smoothed", lambda f, t: f(
        t.x(), t.of(0, 1, 2, 3), label_smoothing=0.1), False),
    Odd("unknown reduction", lambda f, t: f(t.x(), t.of(0, 1, 2, 1), reduction="average")),
    Odd("three targets for four rows", lambda f, t: f(t.x(), t.of(0, 1, 2))),
    Odd("targets as a column", lambda f, t: f(t.x(), t.of(0, 1, 2, 1)[:, None])),
    Odd("float targets of the wrong shape", lambda f, t: f(t.x(), t.x(4))),
    Odd("int32 targets", lambda f, t: f(t.x(), t.of(0, 1, 2, 1, dtype=torch.int32)),
        meant=lambda f, t: f(t.x(), t.of(0, 1, 2, 1))),
    Odd("boolean targets", lambda f, t: f(t.x(), t.of(0, 1, 0, 1) > 0),
        meant=lambda f, t: f(t.x(), t.of(0, 1, 0, 1))),
    Odd("positions of another number", lambda f, t: f(t.x(4, 3, 5), t.x(4, 6).long())),
    Odd("4 class weights for 3", lambda f, t: f(t.x(), t.of(0, 1, 2, 1), t.x(4))),
    Odd("weights as a column", lambda f, t: f(t.x(), t.of(0, 1, 2, 1), t.x(3, 1))),
    Odd("4 weights for 3, probabilities", lambda f, t: f(t.x(), t.x(), t.x(4))),
    Odd("smoothing of 1.5", lambda f, t: f(t.x(), t.of(0, 1, 2, 1), label_smoothing=1.5)),
    Odd("ignored index and probabilities", lambda f, t: f(t.x(), t.x(), ignore_index=1)),
    Odd("integer scores", lambda f, t: f(t.whole(), t.of(0, 1, 2, 1)),
        meant=lambda f, t: f(t.whole().float(), t.of(0, 1, 2, 1))),
    Odd("uint8 targets", lambda f, t: f(t.x(), t.of(0, 1, 2, 1, dtype=torch.uint8))),
    Odd("no rows", lambda f, t: f(t.none(0, 3), t.of())),
    Odd("no rows, none", lambda f, t: f(t.none(0, 3), t.of(), reduction="none")),
    Odd("no rows, sum", lambda f, t: f(t.none(0, 3), t.of(), reduction="sum")),
    Odd("all rows ignored", lambda f, t: f(t.x(), t.of(-100, -100, -100, -100))),
    Odd("one class", lambda f, t: f(t.x(4, 1), t.of(0, 0, 0, 0))),
    Odd("no batch", lambda f, t: f(t.x(3), t.of(1)[0])),
)  # fmt: skip

_LINEAR = (
    Odd("4 inputs for 3", lambda f, t: f(t.x(), t.x(2, 4))),
    Odd("bias of 3 for 2 outputs", lambda f, t: f(t.x(), t.x(2, 3), t.x(3))),
    Odd(
        "float64 weight",
        lambda f, t: f(t.x(), t.x(2, 3, dtype=torch.float64)),
        meant=lambda f, t: f(t.x(), t.x(2, 3)),
    ),
    Odd("a number", lambda f, t: f(t.x(1)[0], t.x(2, 3))),
    Odd("weight of three dimensions", lambda f, t: f(t.x(), t.x(2, 2, 3))),
    Odd("no examples", lambda f, t: f(t.none(0, 3), t.x(2, 3), t.x(2))),
    Odd("no inputs", lambda f, t: f(t.none(4, 0), t.none(2, 0), t.x(2))),
    Odd("no outputs", lambda f, t: f(t.x(), t.none(0, 3))),
    Odd("no batch", lambda f, t: f(t.x(3), t.x(2, 3))),
    Odd("a vector as weight", lambda f, t: f(t.x(), t.x(3))),
)  # fmt: skip

_EMPTY = (
    Odd("nothing", lambda f, t: f(t.none(0, 3))),
    Odd("a number", lambda f, t: f(t.x(1)[0])),
)
_IN_PLACE = (
    Odd("a leaf in place", lambda f, t: f(t.x().requires_grad_(), inplace=True)),
    Odd("integers", lambda f, t: f(t.whole()), meant=lambda f, t: f(t.whole().float())),
    Odd(
        "truth values", lambda f, t: f(t.whole() > 0), meant=lambda f, t: f((t.whole() > 0).float())
    ),
)  # fmt: skip

CALLS: dict[str, tuple[Odd, ...]] = {
    "batch_norm": _BATCH_NORM,
    "dropout": _DROPOUT,
    **{name: (*_DROPOUT, *calls) for name, calls in _CHANNELS.items()},
    "softmax": _SOFTMAX,
    "log_softmax": _SOFTMAX,
    "cross_entropy": _CROSS_ENTROPY,
    "linear": _LINEAR,
    "relu": (*_EMPTY, *_IN_PLACE),
    "leaky_relu": (
        *_EMPTY,
        *_IN_PLACE,
        Odd("a slope in words", lambda f, t: f(t.x(), "a")),
    ),
    "tanh": _EMPTY,
    "sigmoid": _EMPTY,
}
