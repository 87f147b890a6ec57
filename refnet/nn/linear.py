"""The linear layer as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from refnet.functional import linear


class Linear(torch.nn.Linear):
    """Z = A Wᵀ + b. See `torch.nn.Linear` for the arguments, `refnet.functional.linear` for the op.

    Example:
        >>> import torch
        >>> Linear(3, 2)(torch.ones(5, 3)).shape
        torch.Size([5, 2])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer to (*, in_features)."""
        return linear(input, self.weight, self.bias)


class LazyLinear(torch.nn.LazyLinear, Linear):
    """`Linear` that takes `in_features` from its first input, and becomes that class then.

    Example:
        >>> import torch
        >>> layer = LazyLinear(2)
        >>> _ = layer(torch.ones(5, 3))
        >>> layer
        Linear(in_features=3, out_features=2, bias=True)
    """

    cls_to_become = Linear
