"""Activations and softmax as modules."""

from __future__ import annotations

import torch
from torch import Tensor

from refnet.functional import leaky_relu, log_softmax, relu, sigmoid, softmax, tanh

# How far above the op the user's call of the module is: for the warning about a missing dim.
_STACKLEVEL = 6


class ReLU(torch.nn.ReLU):
    """max(0, z). See `refnet.functional.relu` for the op.

    Example:
        >>> import torch
        >>> ReLU()(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation."""
        return relu(input, self.inplace)


class LeakyReLU(torch.nn.LeakyReLU):
    """z where z > 0, else slope·z. See `refnet.functional.leaky_relu` for the op.

    Example:
        >>> import torch
        >>> LeakyReLU(0.5)(torch.tensor([-1.0, 2.0]))
        tensor([-0.5000,  2.0000])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation."""
        return leaky_relu(input, self.negative_slope, self.inplace)


class Tanh(torch.nn.Tanh):
    """Tanh z. See `refnet.functional.tanh` for the op.

    Example:
        >>> import torch
        >>> Tanh()(torch.zeros(1))
        tensor([0.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation."""
        return tanh(input)


class Sigmoid(torch.nn.Sigmoid):
    """1 / (1 + e^−z). See `refnet.functional.sigmoid` for the op.

    Example:
        >>> import torch
        >>> Sigmoid()(torch.zeros(1))
        tensor([0.5000])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the activation."""
        return sigmoid(input)


class Softmax(torch.nn.Softmax):
    """e^{z_i} / Σ e^{z_j} along `dim`. See `refnet.functional.softmax` for the op.

    Example:
        >>> import torch
        >>> Softmax(dim=0)(torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply softmax along `dim`."""
        return softmax(input, self.dim, _STACKLEVEL)


class LogSoftmax(torch.nn.LogSoftmax):
    """The logarithm of softmax along `dim`. See `refnet.functional.log_softmax` for the op.

    Example:
        >>> import torch
        >>> LogSoftmax(dim=0)(torch.zeros(2))
        tensor([-0.6931, -0.6931])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply log-softmax along `dim`."""
        return log_softmax(input, self.dim, _STACKLEVEL)
