"""What is timed: ops and optimizers on small, medium and large tensors, refnet's and torch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import refnet.functional
import refnet.optim

OURS = "refnet"
CHANNELS = 16  # in a smaller case of batch norm
Call = Callable[[], Any]


@dataclass(frozen=True)
class Party:
    """One implementation at work on tensors of its own.

    Attributes:
        forward: the call, with a graph as in training.
        both: the call and its backward; for an optimizer, a step.
        held: the tensors that the caller holds, of which the graph may keep any for nothing.
    """

    forward: Call | None
    both: Call
    held: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Case:
    """One op or optimizer at one size.

    Attributes:
        subject: "batch_norm", "Adam", …: what has to pass verification first.
        name: what is special about it.
        size: in words.
        elements: of the input, or of all parameters.
        floor: bytes that have to be read and written per element, in float32, both ways.
        make: makes the parties, refnet's first; the others are torch's.
        smaller: makes the same case of fewer rows, or of smaller parameters: of not much more
            elements than it is called with.
        compiled: makes torch's under `torch.compile`, or None.
    """

    subject: str
    name: str
    size: str
    elements: int
    floor: int
    make: Callable[[], dict[str, Party]]
    smaller: Callable[[int], Case]
    compiled: Callable[[], Party] | None = field(default=None, repr=False)

    @property
    def title(self) -> str:
        """Subject, name and size, by which `--only` chooses."""
        return " ".join(filter(None, (self.subject, self.name, self.size)))


def cases() -> list[Case]:
    """Return all cases, the ops' first.

    Example:
        >>> [case.title for case in cases()][0]
        'batch_norm 64×128'
    """
    return [*_batch_norm(), *_elementwise(), *_scores(), *_linear(), *_optimizers()]


def _op(
    subject: str,
    shape: tuple[int, ...],
    floor: int,
    arguments: Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]] = lambda x: ((x,), {}),
    *,
    name: str = "",
    channels_last: bool = False,
) -> Case:
    """A case of an op: `arguments` makes what it is called with out of the input."""

    def party(function: Callable[..., Tensor]) -> Party:
        torch.manual_seed(0)  # the same for all parties
        x = torch.randn(shape)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        args, options = arguments(x.requires_grad_())
        leaves = [a for a in (*args, *options.values()) if isinstance(a, Tensor)]
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        cotangent = torch.randn_like(function(*args, **options))

        def forward() -> Tensor:
            return function(*args, **options)

        def both() -> tuple[Tensor, ...]:
            return torch.autograd.grad(function(*args, **options), wanted, cotangent)

        return Party(forward, both, tuple(leaves))

    few = shape  # of those, rows: classes belong together, channels don't
    if subject == "batch_norm":
        few = (shape[0], min(shape[1], CHANNELS), *shape[2:])
    ours, theirs = getattr(refnet.functional, subject), getattr(F, subject, None)
    theirs = theirs or getattr(torch, subject)
    return Case(
        subject, name, "×".join(map(str, shape)), math.prod(shape), floor,
        lambda: {OURS: party(ours), "torch": party(theirs)},
        lambda limit: _op(subject, _fewer(few, limit), floor, arguments, name=name,
                          channels_last=channels_last),
        lambda: party(_compiled(theirs)),
    )  # fmt: skip


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch.compiler.reset()  # from the ninth shape of a function on, it would run uncompiled
    return torch.compile(function, dynamic=False)


def _fewer(shape: tuple[int, ...], limit: int) -> tuple[int, ...]:
    """Cut rows, down to two, then sides of images, until no more than `limit` elements are left."""
    n, channels, *sides = shape
    room = max(limit // channels, 2)
    sides = [min(side, max(math.isqrt(room // 2), 1)) for side in sides]
    return min(n, max(room // math.prod(sides), 2)), channels, *sides


def _batch_norm() -> Iterator[Case]:
    def arguments(training: bool) -> Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]:
        def make(x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
            c = x.shape[1]
            weight, bias = torch.ones(c), torch.zeros(c)
            args = (
                x,
                torch.zeros(c),
                torch.ones(c),
                weight.requires_grad_(),
                bias.requires_grad_(),
            )
            return args, {"training": training}

        return make

    training, evaluation = arguments(True), arguments(False)
    for shape in ((64, 128), (256, 1024), (4096, 1024)):
        yield _op("batch_norm", shape, 32, training)
    for image in ((16, 32, 8, 8), (32, 64, 28, 28), (32, 128, 56, 56)):
        yield _op("batch_norm", image, 32, training)
        yield _op("batch_norm", image, 32, training, name="channels-last", channels_last=True)
    yield _op("batch_norm", (32, 64, 28, 28), 20, evaluation, name="evaluation")


def _elementwise() -> Iterator[Case]:
    shapes = (64, 128), (512, 512), (4096, 4096)
    for shape in shapes:
        yield _op("dropout", shape, 16, lambda x: ((x, 0.5, True), {}))
    for subject in ("relu", "leaky_relu", "tanh", "sigmoid"):
        for shape in shapes:
            yield _op(subject, shape, 20)


def _scores() -> Iterator[Case]:
    for subject in ("softmax", "log_softmax"):
        for shape in ((64, 10), (1024, 256), (1024, 32000)):
            yield _op(subject, shape, 20, lambda x: ((x,), {"dim": 1}))
        yield _op(subject, (32, 64, 56, 56), 20, lambda x: ((x,), {"dim": 1}), name="channels")

    def labels(x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (x, torch.arange(x.numel() // x.shape[1]).remainder(x.shape[1]).reshape(
            x.shape[0], *x.shape[2:])), {}  # fmt: skip

    def options(x: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        weight = torch.linspace(0.5, 1.5, x.shape[1])
        return labels(x)[0], {"weight": weight, "label_smoothing": 0.1, "ignore_index": 3}

    for shape in ((64, 10), (256, 10), (128, 100), (1024, 1000), (1024, 32000)):
        yield _op("cross_entropy", shape, 12, labels)
    yield _op("cross_entropy", (1024, 1000), 12, options, name="all options")
    yield _op("cross_entropy", (8, 21, 128, 128), 12, labels, name="pixels")


def _linear() -> Iterator[Case]:
    for rows, units in ((64, 128), (256, 1024), (4096, 1024)):

        def arguments(x: Tensor, units: int = units) -> tuple[tuple[Any, ...], dict[str, Any]]:
            weight = torch.randn(units, units).div_(units**0.5).requires_grad_()
            return (x, weight, torch.zeros(units).requires_grad_()), {}

        yield _op("linear", (rows, units), 32, arguments)


SHAPES: Mapping[str, list[tuple[int, ...]]] = {
    "6 small tensors": [(256, 64), (256,), (128, 256), (128,), (10, 128), (10,)],
    "160 × 64²": [(64, 64)] * 160,
    "24 × 1024²": [(1024, 1024)] * 24,
}


def _optimizers() -> Iterator[Case]:
    rows: tuple[tuple[str, str, int, dict[str, Any]], ...] = (
        ("SGD", "", 12, {"lr": 1e-5}),
        ("SGD", "momentum", 20, {"lr": 1e-5, "momentum": 0.9}),
        ("RMSprop", "", 20, {"lr": 1e-5}),
        ("RMSprop", "all options", 36, {"lr": 1e-5, "momentum": 0.9, "centered": True}),
        ("Adam", "", 28, {"lr": 1e-5}),
        ("Adam", "amsgrad", 36, {"lr": 1e-5, "amsgrad": True}),
        ("AdamW", "", 28, {"lr": 1e-5}),
    )
    for subject, name, floor, options in rows:
        for size, shapes in SHAPES.items():
            yield _optimizer(subject, name, size, floor, shapes, options)


def _optimizer(
    subject: str, name: str, size: str, floor: int, shapes: Sequence[tuple[int, ...]],
    options: dict[str, Any],
) -> Case:  # fmt: skip
    def smaller(limit: int) -> Case:
        few = [(min(math.prod(shape), limit // len(shapes)),) for shape in shapes]
        return _optimizer(subject, name, size, floor, few, options)

    elements = sum(map(math.prod, shapes))
    return Case(
        subject, name, size, elements, floor, _stepping(subject, shapes, options), smaller
    )  # fmt: skip


def _stepping(
    subject: str, shapes: Sequence[tuple[int, ...]], options: dict[str, Any]
) -> Callable[[], dict[str, Party]]:
    def party(make: Callable[..., torch.optim.Optimizer], **chosen: bool) -> Party:
        torch.manual_seed(0)  # the same for all parties
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape)
        optimizer = make(parameters, **options, **chosen)
        return Party(None, optimizer.step)

    def make() -> dict[str, Party]:
        theirs = getattr(torch.optim, subject)
        ways = {"loop": {"foreach": False}, "foreach": {"foreach": True}}
        if subject != "RMSprop":  # torch has no fused one
            ways["fused"] = {"fused": True}
        return {
            OURS: party(getattr(refnet.optim, subject)),
            **{name: party(theirs, **chosen) for name, chosen in ways.items()},
        }

    return make
