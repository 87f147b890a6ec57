"""The ops as functions, with the names and signatures of `torch.nn.functional`.

Each one lives in a room of its own, `refnet/ops/<op>/`: the lecture's equations in
`reference.py`, the `autograd.Function` around them in `__init__.py`.
"""

from __future__ import annotations

from refnet.ops.activations import leaky_relu, relu, sigmoid, tanh
from refnet.ops.batch_norm import batch_norm
from refnet.ops.cross_entropy import cross_entropy
from refnet.ops.dropout import dropout, dropout1d, dropout2d, dropout3d
from refnet.ops.linear import linear
from refnet.ops.softmax import log_softmax, softmax

__all__ = [
    "batch_norm",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "leaky_relu",
    "linear",
    "log_softmax",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]
