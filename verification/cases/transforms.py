"""How each op is called under torch's transforms, and what it is in elementary operations.

The truths are plain: mean, exp, log, where, matmul, one after the other, which autograd
differentiates as often as one likes. They are written for small, easy numbers and for being read;
nothing is saved, fused or rearranged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as builtin

from refnet import functional
from refnet import nn as modules

P = 0.2  # of dropout
IGNORED = 1  # a label
MOMENTUM, EPS, SLOPE, SMOOTHING = 0.3, 1e-3, 0.2, 0.1


@dataclass(frozen=True)
class Party:
    """Where the functions and the modules of one party come from.

    Attributes:
        functional: has the functions under the names of `torch.nn.functional`.
        nn: has the modules under the names of `torch.nn`.
    """

    functional: Any
    nn: Any


REFNET = Party(functional, modules)
BUILTIN = Party(builtin, torch.nn)


@dataclass(frozen=True)
class Op:
    """One way of calling an op: a column of the support table.

    The arguments are, in this order, the inputs, the fixed tensors and the buffers.

    Attributes:
        name: of the column.
        function: the op's name in `torch.nn.functional`.
        call: calls such a function with the arguments.
        truth: the same value in elementary operations; where masks are drawn, of inputs and mask.
        shapes: of the inputs, which are the tensors with a gradient. The first dimension of the
            first one is the batch, of a size that no other dimension has.
        module: makes the op's module from a namespace like `torch.nn`.
        fixed: tensors without a gradient: labels, weights of classes.
        buffers: tensors that may be moved in place.
        moved: the buffers after a call, from the arguments; None: as they were.
        evaluated: the truth in evaluation, where it is another one.
        forwarded: how many of the inputs the module is called with; the others are its parameters.
        kinds: what else there is to know: "random", and then "channels" where a mask has one number
            for each of them; "labels".
    """

    name: str
    function: str
    call: Callable[..., Tensor]
    truth: Callable[..., Tensor]
    shapes: tuple[tuple[int, ...], ...]
    module: Callable[[Any], torch.nn.Module]
    fixed: tuple[Tensor, ...] = ()
    buffers: tuple[Tensor, ...] = ()
    moved: Callable[..., tuple[Tensor, ...]] | None = None
    evaluated: Callable[..., Tensor] | None = None
    forwarded: int = 1
    kinds: frozenset[str] = frozenset()


def _channels(values: Tensor, z: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (z.dim() - 2))


def _mean(z: Tensor) -> Tensor:
    return z.mean([d for d in range(z.dim()) if d != 1])


def _statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    mean = _mean(z)
    return mean, _mean((z - _channels(mean, z)) ** 2)


def _batch_norm_by(z: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    normalized = (z - _channels(mean, z)) / _channels((var + EPS) ** 0.5, z)
    return _channels(weight, z) * normalized + _channels(bias, z)


def _batch_norm(z: Tensor, weight: Tensor, bias: Tensor, *_buffers: Tensor) -> Tensor:
    return _batch_norm_by(z, weight, bias, *_statistics(z))


def _moved(
    z: Tensor, _weight: Tensor, _bias: Tensor, running_mean: Tensor, running_var: Tensor
) -> tuple[Tensor, Tensor]:
    mean, var = _statistics(z)
    m = z.numel() // z.shape[1]
    return (
        (1 - MOMENTUM) * running_mean + MOMENTUM * mean,
        (1 - MOMENTUM) * running_var + MOMENTUM * var * m / (m - 1),
    )


def _dropout(a: Tensor, mask: Tensor) -> Tensor:
    return a * mask / (1 - P)


def _softmax(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum(1, keepdim=True)


def _log_softmax(z: Tensor) -> Tensor:
    return z - z.exp().sum(1, keepdim=True).log()


def _losses(z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    smoothed = (1 - SMOOTHING) * y + SMOOTHING / z.shape[1]
    return -(weight * smoothed * _log_softmax(z)).sum(1)


def _cross_entropy(z: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    y = (labels.unsqueeze(1) == torch.arange(z.shape[1], device=z.device)).to(z.dtype)
    kept = (labels != IGNORED).to(z.dtype)
    return (kept * _losses(z, y, weight)).sum() / (kept * weight[labels]).sum()


def _cross_entropy_of_probabilities(z: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return _losses(z, y, weight).mean()


def _linear(a: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return a @ weight.T + bias


def _relu(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, 0)


def _leaky_relu(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, SLOPE * z)


def _tanh(z: Tensor) -> Tensor:
    return (z.exp() - (-z).exp()) / (z.exp() + (-z).exp())


def _sigmoid(z: Tensor) -> Tensor:
    return 1 / (1 + (-z).exp())


_IMAGES = ((7, 2, 3, 1), (2,), (2,))
_STATISTICS = (torch.tensor([0.3, -0.2]).double(), torch.tensor([0.8, 1.5]).double())
_LABELS = torch.tensor([0, 3, IGNORED, 2, 0, 2, 3])
_OF_CLASS = torch.tensor([0.5, 1.2, 0.3, 2.0]).double()
_SCORES = (7, 4)


def _dropout_op(name: str, module: str, *shape: int) -> Op:
    channels = {"channels"} if len(shape) > 2 else set()
    return Op(
        name, name, lambda f, a: f(a, P), _dropout, (shape,), evaluated=lambda a: a,
        module=lambda nn: getattr(nn, module)(P), kinds=frozenset({"random", *channels}),
    )  # fmt: skip


def _activation(name: str, module: str, truth: Callable[..., Tensor], *arguments: Any) -> Op:
    return Op(
        name, name, lambda f, z: f(z, *arguments), truth, (_SCORES,),
        module=lambda nn: getattr(nn, module)(*arguments),
    )  # fmt: skip


class OfACopy(torch.nn.Module):
    """A layer that may write over what it is given."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor) -> Any:
        """Call the layer with a copy."""
        return self.layer(input.clone())


def _inplace(op: Op) -> Op:
    def module(nn: Any) -> torch.nn.Module:
        layer: Any = op.module(nn)
        layer.inplace = True
        return OfACopy(layer)

    return replace(
        op,
        name=f"{op.name} in-place",
        call=lambda f, z: op.call(partial(f, inplace=True), z.clone()),
        module=module,
    )


_DROPOUT = _dropout_op("dropout", "Dropout", 9, 6)
_RELU = _activation("relu", "ReLU", _relu)
_LEAKY_RELU = _activation("leaky_relu", "LeakyReLU", _leaky_relu, SLOPE)

OPS: tuple[Op, ...] = (
    Op(
        "batch_norm", "batch_norm",
        call=lambda f, z, w, b, mean, var: f(z, mean, var, w, b, True, MOMENTUM, EPS),
        truth=_batch_norm,
        shapes=_IMAGES,
        buffers=_STATISTICS,
        moved=_moved,
        evaluated=_batch_norm_by,
        module=lambda nn: nn.BatchNorm2d(2, EPS, MOMENTUM),
    ),
    Op(
        "batch_norm no stats", "batch_norm",
        call=lambda f, z, w, b: f(z, None, None, w, b, True, eps=EPS),
        truth=_batch_norm,
        shapes=_IMAGES,
        module=lambda nn: nn.BatchNorm2d(2, EPS, track_running_stats=False),
    ),
    Op(
        "batch_norm eval", "batch_norm",
        call=lambda f, z, w, b, mean, var: f(z, mean, var, w, b, False, eps=EPS),
        truth=_batch_norm_by,
        shapes=_IMAGES,
        buffers=_STATISTICS,
        module=lambda nn: nn.BatchNorm2d(2, EPS, MOMENTUM).eval(),
    ),
    _DROPOUT,
    _inplace(_DROPOUT),
    _dropout_op("dropout1d", "Dropout1d", 9, 6, 2),
    _dropout_op("dropout2d", "Dropout2d", 9, 6, 2, 1),
    _dropout_op("dropout3d", "Dropout3d", 9, 6, 1, 2, 1),
    _activation("softmax", "Softmax", _softmax, 1),
    _activation("log_softmax", "LogSoftmax", _log_softmax, 1),
    Op(
        "cross_entropy indices", "cross_entropy",
        call=partial(
            lambda f, z, y, w, **o: f(z, y, w, **o),
            ignore_index=IGNORED, label_smoothing=SMOOTHING,
        ),
        truth=_cross_entropy,
        shapes=(_SCORES,),
        fixed=(_LABELS, _OF_CLASS),
        module=lambda nn: nn.CrossEntropyLoss(
            _OF_CLASS.clone(), ignore_index=IGNORED, label_smoothing=SMOOTHING
        ),
        kinds=frozenset({"labels"}),
    ),
    Op(
        "cross_entropy probs", "cross_entropy",
        call=lambda f, z, y, w: f(z, y, w, label_smoothing=SMOOTHING),
        truth=_cross_entropy_of_probabilities,
        shapes=(_SCORES, _SCORES),
        fixed=(_OF_CLASS,),
        module=lambda nn: nn.CrossEntropyLoss(_OF_CLASS.clone(), label_smoothing=SMOOTHING),
        forwarded=2,
    ),
    Op(
        "linear", "linear",
        call=lambda f, a, w, b: f(a, w, b),
        truth=_linear,
        shapes=((7, 4), (3, 4), (3,)),
        module=lambda nn: nn.Linear(4, 3),
    ),
    _RELU,
    _inplace(_RELU),
    _LEAKY_RELU,
    _inplace(_LEAKY_RELU),
    _activation("tanh", "Tanh", _tanh),
    _activation("sigmoid", "Sigmoid", _sigmoid),
)  # fmt: skip
