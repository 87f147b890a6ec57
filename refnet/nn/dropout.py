"""Inverted dropout as modules: of units, and of whole channels."""

from __future__ import annotations

import torch
from torch import Tensor

from refnet.functional import dropout, dropout1d, dropout2d, dropout3d


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


class Dropout1d(torch.nn.Dropout1d):
    """Shuts off channels of (N, C, L) in training. See `refnet.functional.dropout1d` for the op.

    Example:
        >>> import torch
        >>> Dropout1d(1.0)(torch.ones(1, 2, 3))
        tensor([[[0., 0., 0.],
                 [0., 0., 0.]]])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply channel dropout while training; return the input otherwise."""
        return dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(torch.nn.Dropout2d):
    """Shuts off channels of (N, C, H, W) in training. See `refnet.functional.dropout2d` for the op.

    Example:
        >>> import torch
        >>> Dropout2d(1.0)(torch.ones(1, 2, 3, 3)).count_nonzero()
        tensor(0)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply channel dropout while training; return the input otherwise."""
        return dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(torch.nn.Dropout3d):
    """Shuts off channels of (N, C, D, H, W) in training. See `refnet.functional.dropout3d`.

    Example:
        >>> import torch
        >>> Dropout3d(1.0)(torch.ones(1, 2, 3, 3, 3)).count_nonzero()
        tensor(0)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply channel dropout while training; return the input otherwise."""
        return dropout3d(input, self.p, self.training, self.inplace)
