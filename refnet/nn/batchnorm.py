"""Batch norm as modules."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils.parametrize import is_parametrized

from refnet.functional import batch_norm
from refnet.ops import wide
from refnet.ops.batch_norm.sync import sync_batch_norm

_Root = TypeVar("_Root", bound=torch.nn.Module)


def _forward(module: _BatchNorm, input: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Choose the statistics that a batch-norm module normalizes by, and count the batch.

    In training they are the batch's; the running ones are moved if they are tracked. In evaluation
    they are the running ones, or the batch's where none are kept. `momentum=None` is a cumulative
    average: the n-th batch counts 1/n. The batch may be spread over the processes of a group.
    """
    module._check_input_dim(input)  # type: ignore[no-untyped-call]
    momentum: float | Tensor = 0.0 if module.momentum is None else module.momentum
    tracking = module.training and module.track_running_stats
    if tracking and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:  # a tensor, that neither compilation nor vmap has to read
            momentum = 1 / wide(module.num_batches_tracked)
    keep = tracking or not module.training
    running_mean = module.running_mean if keep else None
    running_var = module.running_var if keep else None
    weight, bias, eps = module.weight, module.bias, module.eps
    if group is not None:
        return sync_batch_norm(input, running_mean, running_var, weight, bias, momentum, eps, group)
    by_batch = module.training or (module.running_mean is None and module.running_var is None)
    return batch_norm(input, running_mean, running_var, weight, bias, by_batch, momentum, eps)


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


class LazyBatchNorm1d(torch.nn.LazyBatchNorm1d, BatchNorm1d):
    """`BatchNorm1d` that takes `num_features` from its first input, and becomes that class then.

    Example:
        >>> import torch
        >>> layer = LazyBatchNorm1d()
        >>> _ = layer(torch.ones(2, 3))
        >>> layer
        BatchNorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)
    """

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(torch.nn.LazyBatchNorm2d, BatchNorm2d):
    """`BatchNorm2d` that takes `num_features` from its first input, and becomes that class then.

    Example:
        >>> import torch
        >>> layer = LazyBatchNorm2d()
        >>> layer(torch.ones(2, 3, 4, 4)).shape, layer.num_features
        (torch.Size([2, 3, 4, 4]), 3)
    """

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(torch.nn.LazyBatchNorm3d, BatchNorm3d):
    """`BatchNorm3d` that takes `num_features` from its first input, and becomes that class then.

    Example:
        >>> import torch
        >>> layer = LazyBatchNorm3d()
        >>> layer(torch.ones(2, 3, 4, 4, 4)).shape, layer.num_features
        (torch.Size([2, 3, 4, 4, 4]), 3)
    """

    cls_to_become = BatchNorm3d


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the batches of all processes of a group, as if they were one batch.

    In training every process of the group has to go through the layer, forward and backward, the
    same number of times in the same order; with an empty batch too. Batches may differ in size. In
    evaluation, in a single process and where `torch.distributed` is not initialized, it is
    `batch_norm`. See `refnet.ops.batch_norm.sync` for the op.

    Args:
        num_features: C of an input (N, C, *).
        eps: ε, added to the variance.
        momentum: of the running statistics; None: their plain average over all batches.
        affine: learn γ and β.
        track_running_stats: keep running statistics.
        process_group: the processes that share statistics; None: all.
        device: of the parameters and buffers.
        dtype: of the parameters and buffers.
        bias: learn β, if `affine`.

    Example:
        >>> import torch
        >>> SyncBatchNorm(1, affine=False)(torch.tensor([[1.0], [3.0]]))
        tensor([[-1.0000],
                [ 1.0000]])

    Differs from torch: works on a CPU too, over gloo. It is no subclass of `torch.nn.SyncBatchNorm`
    for that very reason, because `DistributedDataParallel` refuses those on a CPU. Sums are taken
    over the processes in float64, also of half-precision inputs.
    """

    process_group: dist.ProcessGroup | None
    _converted_from: type[_BatchNorm] | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any | None = None,
        device: Any | None = None,
        dtype: Any | None = None,
        *,
        bias: bool = True,
    ) -> None:
        options: dict[str, Any] = {"device": device, "dtype": dtype}
        if not bias:  # not an argument of every version of torch
            options["bias"] = False
        super().__init__(num_features, eps, momentum, affine, track_running_stats, **options)
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        """Normalize this process' part (N, C, *) of a batch."""
        return _forward(self, input, self._group())

    def _group(self) -> dist.ProcessGroup | None:
        """Return the group to share statistics with, if there is anybody to share with."""
        if not (self.training and dist.is_available() and dist.is_initialized()):
            return None
        group = self.process_group or dist.group.WORLD
        return group if dist.get_world_size(group) > 1 else None

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    @classmethod
    def convert_sync_batchnorm(
        cls, module: _Root, process_group: dist.ProcessGroup | None = None
    ) -> _Root:
        """Make every batch norm of a model a `SyncBatchNorm`, refnet's, torch's and subclasses.

        Args:
            module: the root of the model; it may be a batch norm itself.
            process_group: the processes that share statistics; None: all, or for a layer that is
                synchronized before, its own group.

        Returns:
            `module` itself.

        Raises:
            ValueError: a batch norm is lazy and has not seen an input yet, or is parametrized.

        Example:
            >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), BatchNorm1d(4))
            >>> type(SyncBatchNorm.convert_sync_batchnorm(model)[1]).__name__
            'SyncBatchNorm'
            >>> type(SyncBatchNorm.revert_sync_batchnorm(model)[1]).__name__
            'BatchNorm1d'

        Differs from torch: in place, also where `module` is a batch norm itself, since only the
        class of a layer changes. So hooks, tied layers, device, attributes and an optimizer made
        before stay, which torch's new layers lose; and there is a way back.
        """
        layers = {n: m for n, m in module.named_modules() if isinstance(m, _BatchNorm)}
        for name, layer in layers.items():  # nothing is changed where an error is raised
            if isinstance(layer, LazyModuleMixin):
                raise ValueError(f"convert_sync_batchnorm: {name!r} has to see an input first")
            if is_parametrized(layer):
                raise ValueError(f"convert_sync_batchnorm: {name!r} is parametrized")
        for layer in layers.values():
            attributes = vars(layer)
            if not isinstance(layer, SyncBatchNorm):
                attributes["_converted_from"] = type(layer)
                layer.__class__ = cls
            attributes["process_group"] = process_group or attributes.get("process_group")
        return module

    @classmethod
    def revert_sync_batchnorm(cls, module: _Root) -> _Root:
        """Give every layer that `convert_sync_batchnorm` converted its class back, in place.

        Args:
            module: the root of the model.

        Returns:
            `module` itself.
        """
        for layer in module.modules():
            if isinstance(layer, SyncBatchNorm) and layer._converted_from is not None:
                layer.__class__ = layer.__dict__.pop("_converted_from")
                if not isinstance(layer, torch.nn.SyncBatchNorm):
                    del layer.process_group
        return module
