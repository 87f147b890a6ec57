"""A model whose weights are averaged over the steps of its training: evaluated, kept, resumed.

Lightning's `WeightAveraging` swaps the average in and out and puts it in the checkpoints; the
average is `refnet.averages`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from refnet.averages import corrected_beta, exponential_average, require_beta

__all__ = ["ExponentialWeightAveraging"]


class ExponentialWeightAveraging(WeightAveraging):
    r"""Keep the exponentially weighted average of a model's weights, and judge the model by it.

    V₀ = 0,  Vₜ = βVₜ₋₁ + (1 − β) θₜ,  average Vₜ / (1 − βᵗ),  θₜ the weights after step t

    The average is taken after each optimizer step. Validation sees the averaged weights, training
    goes on with its own; after `fit` the model has the averaged ones, for test and predict too. A
    checkpoint, of during `fit` or written next after it, has them as its `state_dict`, and the
    model's own as `current_model_state`, from which `fit(ckpt_path=...)` goes on bit for bit.

    Args:
        beta: β in [0, 1); the average is over about 1 / (1 − β) steps.
        bias_correction: if False, the average starts from the first weights instead of 0, as in
            torch's `AveragedModel`: E₁ = θ₁, so that Eₜ = Vₜ + βᵗ θ₁. These stay for longer:
            θ₁ has βᵗ⁻¹ of the weight, and (1 − β) βᵗ⁻¹ / (1 − βᵗ) with bias correction.
        use_buffers: average the running statistics of batch norm, too. If False, they are the
            model's own, and `torch.optim.swa_utils.update_bn(loader, model)` takes those that
            belong to the averaged weights, after `fit`.
        device: where the average is kept; None is where the model is trained.

    Raises:
        ValueError: β outside [0, 1).

    Example:
        >>> callback = ExponentialWeightAveraging(beta=0.99)
        >>> trainer = Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)

    Source: lecture, "Exponentially weighted averages", "Bias correction".

    Differs from torch: integer buffers (the counter of batch norm) are those of the last step;
    `AveragedModel` averages and truncates them. Overridden: `should_update(step_idx, epoch_idx)`
    of Lightning's class says which steps count.
    """

    def __init__(
        self,
        beta: float = 0.999,
        bias_correction: bool = True,
        use_buffers: bool = True,
        device: torch.device | str | int | None = None,
    ) -> None:
        take_in = partial(_take_in, beta=require_beta(beta), bias_correction=bias_correction)
        super().__init__(device=device, use_buffers=use_buffers, multi_avg_fn=take_in)
        self.beta = beta
        self.bias_correction = bias_correction
        self._swapped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a new average; without a fit there is none."""
        self._average_model, self._swapped = None, False
        self._latest_update_step = trainer.global_step  # of this trainer, not of the last one
        super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow the model, which was not on its device yet at setup."""
        if self._device is None and self._average_model is not None:
            self._average_model.to(pl_module.device)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._swapped = self._average_model is not None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap it out."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._swapped = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the model alone: other callbacks may still look at what was trained."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap the average in for good; the model's own weights stay for `save_checkpoint`."""
        self._swap_models(pl_module)
        self._swapped = True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put both kinds of weights in, whichever of them the model has at the moment."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._swapped:
            own, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, own

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with both kinds of weights; outside of fit, `state_dict` has the right ones."""
        if self._average_model is not None:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _take_in(
    averages: list[Tensor],
    values: list[Tensor],
    count: Tensor | int,
    *,
    beta: float,
    bias_correction: bool,
) -> None:
    """Take one more value into each average of `count` ≥ 1 values, as `AveragedModel` calls it."""
    if bias_correction:
        beta = corrected_beta(beta, int(count) + 1)
    for average, value in zip(averages, values, strict=True):
        averaged = average.is_floating_point() or average.is_complex()
        average.copy_(exponential_average(average, value, beta) if averaged else value)
