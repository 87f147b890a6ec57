"""Inverted dropout as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from refnet.functional import dropout


class Dropout(torch.nn.Dropout):
    """Shuts off units with probability p in training. See `refnet.functional.dropout` for the op.

    Example:
        >>> import torch
        >>> Dropout(0.5).eval()(torch.ones(3))
        tensor([1., 1., 1.])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply dropout while training; return the input otherwise."""
        return dropout(input, self.p, self.training, self.inplace)
