"""The LightningModule: a net, a loss, an optimizer and a schedule, as configured."""

from __future__ import annotations

from typing import Any, Literal, cast

from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable

# The one private name of Lightning here: tells whether the command line builds this module.
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

import refnet.optim
from lightning_modules.implementation import Implementation, layers, torch_counterpart

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    r"""Train a net to tell classes apart.

    Minimizes the softmax cross-entropy $J = -\frac1N \sum_i \log \hat y^{(i)}_{y_i}$ over
    mini-batches. Logs `train_loss`, `train_acc` (running averages over the epoch, dropout active),
    `dev_loss`, `dev_acc`, and `test_loss`, `test_acc`; accuracies are in [0, 1].

    Args:
        net: maps images (N, ...) to logits (N, num_classes).
        optimizer: called with the parameters: a class, or any function that returns an optimizer.
        lr_scheduler: called with the optimizer; None keeps the learning rate constant.
        implementation: "refnet" or "torch": whose loss is used. With "torch", an optimizer of
            refnet is replaced by torch's of the same name and options. The net has a switch of its
            own, which the command line sets along with this one.
        num_classes: number of classes.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1].
        interval: the schedule moves after each "epoch" or each "step".

    Raises:
        ValueError: for label_smoothing outside [0, 1], an unknown implementation or interval.

    Example:
        >>> import torch
        >>> from lightning_modules import MLP
        >>> model = Classifier(MLP(), optimizer=lambda p: refnet.optim.SGD(p, lr=0.1))
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerCallable = refnet.optim.Adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        implementation: Implementation = "refnet",
        num_classes: int = 10,
        label_smoothing: float = 0.0,
        interval: Literal["epoch", "step"] = "epoch",
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        if interval not in ("epoch", "step"):
            raise ValueError(f"interval must be 'epoch' or 'step', got {interval!r}")
        # A checkpoint holds plain types only, so that it loads with weights_only=True. The command
        # line hands over its configuration, which is plain; live objects are left out.
        live = () if _given_hyperparameters.get() else ("net", "optimizer", "lr_scheduler")
        self.save_hyperparameters(ignore=live)
        self.net = net
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.implementation = implementation
        self.interval = interval
        self.loss = layers(implementation).CrossEntropyLoss(label_smoothing=label_smoothing)
        self.accuracy = nn.ModuleDict(
            {
                # "train" is the name of a method, so the keys have a suffix.
                f"{part}_acc": MulticlassAccuracy(num_classes, average="micro")
                for part in ("train", "dev", "test")
            }
        )
        self.confusion = MulticlassConfusionMatrix(num_classes)  # of the last evaluation

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        return cast("Tensor", self.net(x))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one mini-batch, a number."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Measure one mini-batch of the dev set."""
        return self._step(batch, "dev")

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Measure one mini-batch of the test set."""
        return self._step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the logits of one mini-batch, (N, num_classes)."""
        return cast("Tensor", self(batch[0]))

    def on_validation_epoch_start(self) -> None:
        """Start a new confusion matrix."""
        self.confusion.reset()

    def on_test_epoch_start(self) -> None:
        """Start a new confusion matrix."""
        self.confusion.reset()

    def _step(self, batch: Batch, part: Literal["train", "dev", "test"]) -> Tensor:
        x, y = batch
        logits = self(x)
        loss: Tensor = self.loss(logits, y)
        accuracy = cast("MulticlassAccuracy", self.accuracy[f"{part}_acc"])
        accuracy.update(logits.detach(), y)
        if part != "train":
            self.confusion.update(logits, y)
        log: dict[str, Any] = {f"{part}_loss": loss.detach(), f"{part}_acc": accuracy}
        self.log_dict(log, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(y))
        return loss

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the schedule in the form that Lightning takes."""
        optimizer = self.optimizer(self.parameters())
        if self.implementation == "torch":
            optimizer = torch_counterpart(optimizer)
        if self.lr_scheduler is None:
            return optimizer
        schedule: dict[str, Any] = {
            "scheduler": self.lr_scheduler(optimizer),
            "interval": self.interval,
        }
        if isinstance(schedule["scheduler"], ReduceLROnPlateau):
            schedule["monitor"] = getattr(schedule["scheduler"], "monitor", "dev_loss")
        return {"optimizer": optimizer, "lr_scheduler": schedule}
