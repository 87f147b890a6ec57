"""The layers as modules: torch's classes, parameters, buffers and state-dict keys.

Each one is a subclass of its namesake in `torch.nn` and overrides `forward` alone, so that
constructors, `state_dict`, `repr` and `isinstance` are torch's.

Example:
    >>> import torch
    >>> layer = Linear(3, 2)
    >>> isinstance(layer, torch.nn.Linear), list(layer.state_dict())
    (True, ['weight', 'bias'])
"""

from __future__ import annotations

from refnet.nn.activation import LeakyReLU, LogSoftmax, ReLU, Sigmoid, Softmax, Tanh
from refnet.nn.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    LazyBatchNorm1d,
    LazyBatchNorm2d,
    LazyBatchNorm3d,
    SyncBatchNorm,
)
from refnet.nn.dropout import Dropout, Dropout1d, Dropout2d, Dropout3d
from refnet.nn.linear import LazyLinear, Linear
from refnet.nn.loss import CrossEntropyLoss

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "LazyLinear",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "SyncBatchNorm",
    "Tanh",
]
