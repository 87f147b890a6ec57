"""Batch norm as modules."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from refnet.functional import batch_norm


def _forward(module: _BatchNorm, input: Tensor) -> Tensor:
    """Choose the statistics that a batch-norm module normalizes by, and count the batch.

    In training they are the batch's; the running ones are moved if they are tracked. In evaluation
    they are the running ones, or the batch's where none are kept. `momentum=None` is a cumulative
    average: the n-th batch counts 1/n.
    """
    module._check_input_dim(input)  # type: ignore[no-untyped-call]
    momentum = 0.0 if module.momentum is None else module.momentum
    tracking = module.training and module.track_running_stats
    if tracking and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:
            momentum = 1.0 / float(module.num_batches_tracked)
    keep = tracking or not module.training
    running_mean = module.running_mean if keep else None
    running_var = module.running_var if keep else None
    by_batch = module.training or (module.running_mean is None and module.running_var is None)
    return batch_norm(
        input,
        running_mean,
        running_var,
        module.weight,
        module.bias,
        by_batch,
        momentum,
        module.eps,
    )


class BatchNorm1d(torch.nn.BatchNorm1d):
    """Batch norm over (N, C) or (N, C, L). See `refnet.functional.batch_norm` for the op.

    Example:
        >>> import torch
        >>> BatchNorm1d(1, affine=False)(torch.tensor([[1.0], [3.0]]))
        tensor([[-1.0000],
                [ 1.0000]])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a batch (N, C) or (N, C, L)."""
        return _forward(self, input)


class BatchNorm2d(torch.nn.BatchNorm2d):
    """Batch norm over (N, C, H, W). See `refnet.functional.batch_norm` for the op.

    Example:
        >>> import torch
        >>> BatchNorm2d(3)(torch.ones(2, 3, 4, 4)).abs().max()
        tensor(0., grad_fn=<MaxBackward1>)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a batch (N, C, H, W)."""
        return _forward(self, input)


class BatchNorm3d(torch.nn.BatchNorm3d):
    """Batch norm over (N, C, D, H, W). See `refnet.functional.batch_norm` for the op.

    Example:
        >>> import torch
        >>> BatchNorm3d(3)(torch.ones(2, 3, 4, 4, 4)).shape
        torch.Size([2, 3, 4, 4, 4])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize a batch (N, C, D, H, W)."""
        return _forward(self, input)
