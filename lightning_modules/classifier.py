"""The LightningModule: a net, a loss, an optimizer and a schedule, as configured."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable

# The one private name of Lightning here: tells whether the command line builds this module.
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

import refnet.optim
from lightning_modules.implementation import Implementation, layers, torch_counterpart
from refnet.optim import decay_groups
from refnet.regularization import l1_penalty, l2_penalty, proximal_l1

Batch = tuple[Tensor, Tensor]


class Classifier(LightningModule):
    r"""Train a net to tell classes apart.

    Minimizes the softmax cross-entropy $J = -\frac1N \sum_i \log \hat y^{(i)}_{y_i}$ over
    mini-batches. Logs `train_loss`, `train_acc` (running averages over the epoch, dropout active),
    `dev_loss`, `dev_acc`, and `test_loss`, `test_acc`; accuracies are in [0, 1].

    With `l2` or `l1` it minimizes $J + \frac{\lambda_2}{2m} \sum_l \|W^{[l]}\|_F^2 +
    \frac{\lambda_1}{2m} \sum_l \|W^{[l]}\|_1$ over weights, never biases or batch norm's
    parameters, with m the size of the training set. The losses logged stay J alone; what is added
    is logged as `penalty`, and with `l1` the share of weights that are exactly zero, at each
    validation, as `zero_weights`. Both strengths are attributes that may be changed in training.

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
        l2: the lecture's λ₂ ≥ 0 of L2 regularization; about 1 is where it begins to show.
        l2_as: "loss" adds the term to the loss, so that its gradient λ₂/m W goes through the
            optimizer like any other; "decay" gives λ₂/m to the optimizer as the weight decay of
            weights, in place of a weight_decay of its own. For SGD the two are the same.
        l1: λ₁ ≥ 0 of L1 regularization, by a proximal step after each one of the optimizer
            (`refnet.regularization.proximal_l1`), which makes weights exactly zero.

    Raises:
        ValueError: for label_smoothing outside [0, 1], negative or infinite l2 or l1, an unknown
            implementation, interval or l2_as; in training, for data whose size nobody knows.

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
        l2: float = 0.0,
        l2_as: Literal["loss", "decay"] = "loss",
        l1: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
        if interval not in ("epoch", "step"):
            raise ValueError(f"interval must be 'epoch' or 'step', got {interval!r}")
        if l2_as not in ("loss", "decay"):
            raise ValueError(f"l2_as must be 'loss' or 'decay', got {l2_as!r}")
        for name, value in (("l2", l2), ("l1", l1)):
            if not 0 <= value < math.inf:  # NaN, too
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if l2_as not in ("loss", "decay"):
            raise ValueError(f"l2_as must be 'loss' or 'decay', got {l2_as!r}")
        # A checkpoint holds plain types only, so that it loads with weights_only=True. The command
        # line hands over its configuration, which is plain; live objects are left out.
        live = () if _given_hyperparameters.get() else ("net", "optimizer", "lr_scheduler")
        self.save_hyperparameters(ignore=live)
        self.net = net
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.implementation = implementation
        self.interval = interval
        self.l2, self.l2_as, self.l1 = l2, l2_as, l1  # may be changed while it trains
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
        """Return the loss of one mini-batch, a number, with the L2 term if that is part of it."""
        loss = self._step(batch, "train")
        if not (self.l2 or self.l1):
            return loss
        weights, m = self._weights(), self._examples()
        l2 = l2_penalty if self.implementation == "refnet" else _torch_l2_penalty
        term = l2(weights, self.l2, m)
        penalty = term.detach() + l1_penalty([w.detach() for w in weights], self.l1, m)
        size = len(batch[1])
        self.log("penalty", penalty, on_step=False, on_epoch=True, batch_size=size)
        return loss + term if self.l2_as == "loss" else loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Hand the strengths over that the optimizer applies, to weights alone."""
        groups = optimizer.param_groups
        if self.l1 and "l1" not in groups[0]:
            raise ValueError(f"l1={self.l1}, in a training that began without: begin with l1 > 0")
        if self.l2_as == "decay":
            groups[0]["weight_decay"] = self.l2 / self._examples()
        if "l1" in groups[0]:
            groups[0]["l1"] = self.l1 / (2 * self._examples())

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

    def on_validation_epoch_end(self) -> None:
        """Measure the share of weights that are exactly zero."""
        if self.l1:
            weights = self._weights()
            zero = sum((w == 0).sum() for w in weights)
            self.log("zero_weights", zero / sum(w.numel() for w in weights))

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
        optimizer = self._build_optimizer()
        if self.implementation == "torch":
            optimizer = torch_counterpart(optimizer)
        if self.l1:
            proximal_l1(optimizer)  # its strength follows before each step
        if self.lr_scheduler is None:
            return optimizer
        schedule: dict[str, Any] = {
            "scheduler": self.lr_scheduler(optimizer),
            "interval": self.interval,
        }
        if isinstance(schedule["scheduler"], ReduceLROnPlateau):
            schedule["monitor"] = getattr(schedule["scheduler"], "monitor", "dev_loss")
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _build_optimizer(self) -> Optimizer:
        if not self.l1 and self.l2_as == "loss":
            return self.optimizer(self.parameters())
        # weights and the rest; what the optimizer does to weights alone has its strength in a group
        groups = [{"params": group["params"]} for group in decay_groups(self, 0.0)]
        optimizer = self.optimizer(groups)
        if self.l2_as == "decay":
            if "weight_decay" not in optimizer.defaults:
                name = type(optimizer).__name__
                raise ValueError(f"l2_as='decay': the optimizer {name} has no weight_decay")
            for group in optimizer.param_groups:
                group["weight_decay"] = 0.0
        return optimizer

    def _weights(self) -> list[Tensor]:
        """W of every layer: neither biases nor the parameters of batch norm."""
        return cast("list[Tensor]", decay_groups(self, 0.0)[0]["params"])

    def _examples(self) -> int:
        """m, the size of the training set (not of a mini-batch)."""
        loader = self.trainer.train_dataloader
        try:
            return len(loader.dataset)  # type: ignore[union-attr]
        except (AttributeError, TypeError) as error:
            raise ValueError(
                f"l2={self.l2}, l1={self.l1}: λ is divided by the number of training examples, "
                f"and a {type(loader).__name__} doesn't tell it: use a DataLoader of a dataset "
                "with a length"
            ) from error


def _torch_l2_penalty(weights: list[Tensor], strength: float, m: int) -> Tensor:
    """λ/(2m) Σ ‖W‖²_F, differentiated by autograd."""
    return strength / (2 * m) * torch.stack([w.square().sum() for w in weights]).sum()
