"""Synchronized batch norm under Lightning.

Read by every Trainer of an environment in which refnet is installed, through an entry point: it
imports nothing that Lightning hasn't.
"""

from __future__ import annotations

import sys

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.plugins import TorchSyncBatchNorm
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities import rank_zero_warn
from torch.nn import Module


class RefnetSyncBatchNorm(TorchSyncBatchNorm):
    """Plugin by which `Trainer(sync_batchnorm=True)` uses refnet's batch norm, on a CPU as well.

    For the time of a fit, every batch norm of the model, refnet's or torch's, becomes a
    `refnet.nn.SyncBatchNorm`. It stays the same object with the same parameters, buffers and hooks,
    and is of its own class again afterwards.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True,
        ...                   plugins=[RefnetSyncBatchNorm()], logger=False)

    Differs from Lightning's `TorchSyncBatchNorm`: that one replaces the layers by new ones, raises
    an error on a CPU, and leaves layers behind that are of no public class and in training mode.
    """

    def apply(self, model: Module) -> Module:
        """Synchronize the layers, in place."""
        from refnet.nn import SyncBatchNorm

        return SyncBatchNorm.convert_sync_batchnorm(model)

    def revert(self, model: Module) -> Module:
        """Give the layers their classes back, in place."""
        from refnet.nn import SyncBatchNorm

        return SyncBatchNorm.revert_sync_batchnorm(model)


class CheckSyncBatchNorm(Callback):
    """Tells who sets `sync_batchnorm=True` on a model with refnet's batch norm of the plugin.

    Lightning would replace the layers by torch's, which raise an error on a CPU. The model is
    looked at when it would be, since it may be made as late as in `configure_model`.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the check before Lightning's own plugin; a plugin of somebody's is left alone."""
        strategy = trainer.strategy
        if not isinstance(strategy, ParallelStrategy):
            return  # a single process
        if type(strategy._layer_sync) is TorchSyncBatchNorm:
            strategy._layer_sync = _Checked(strategy.root_device.type)


class _Checked(TorchSyncBatchNorm):
    def __init__(self, device: str) -> None:
        self.device = device

    def apply(self, model: Module) -> Module:
        from refnet.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm

        ours = (BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm)
        name = next((n for n, layer in model.named_modules() if isinstance(layer, ours)), None)
        if name is not None:
            remedy = (
                "from lightning_modules import RefnetSyncBatchNorm; "
                "Trainer(sync_batchnorm=True, plugins=[RefnetSyncBatchNorm()])"
            )
            problem = f"sync_batchnorm=True puts torch's SyncBatchNorm in the place of {name!r}"
            if self.device == "cpu":
                raise MisconfigurationException(
                    f"{problem}, which does not work on a CPU. refnet's does: {remedy}"
                )
            rank_zero_warn(f"{problem}. For refnet's: {remedy}")
        return super().apply(model)


def callbacks() -> list[Callback]:
    """What Lightning adds to every Trainer: nothing, where refnet isn't used."""
    return [CheckSyncBatchNorm()] if "refnet.nn" in sys.modules else []
