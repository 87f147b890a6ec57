"""Softmax cross-entropy as a module."""

from __future__ import annotations

import torch
from torch import Tensor

from refnet.functional import cross_entropy


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """The loss of the softmax of scores. See `refnet.functional.cross_entropy` for the op.

    Example:
        >>> import torch
        >>> CrossEntropyLoss()(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of scores (N, C, *) and classes (N, *), or probabilities (N, C, *)."""
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
