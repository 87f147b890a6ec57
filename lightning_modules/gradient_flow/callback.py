"""The callback that watches activations and gradients while a model trains."""

from __future__ import annotations

import csv
import io
import logging
import math
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.callbacks import is_trial, run_folder
from lightning_modules.files import write_whole
from lightning_modules.gradient_flow.layers import Watch
from lightning_modules.gradient_flow.plots import heat_maps

log = logging.getLogger(__name__)
COLUMNS = ("epoch", "step", "kind", "name", "quantity", "value")


class GradientFlow(Callback):
    r"""Record activations and gradients layer by layer; draw them; warn if they vanish or explode.

    Every few steps, of each layer: the size (root mean square) and the standard deviation of its
    outputs, the share of them that is 0 or saturated, and the size and norm of
    $\partial J / \partial a^{[l]}$; and the norm of each parameter's gradient, as the optimizer
    gets it. `gradient_flow.csv` in the folder of the run has the numbers, after every epoch,
    `gradient_flow.png` at the end the picture: layers against steps. They are part of a checkpoint,
    so that a resumed run has all of them.

    A layer's gradients vanish, or explode, where their norm is too small, or too large, beside that
    of the last layer in the same step. That norm depends neither on how well the net does by now
    nor on the size of the mini-batch, and goes through a layer of any width unchanged if the layer
    neither stretches nor shrinks. There is one warning of each kind for a layer. Where the last
    layer's own norm is 0 there is nothing to compare with: that is said, once.

    Numbers are those of the first mini-batch of a step (of several that are accumulated) and of the
    first process; in mixed precision, without the factor of the loss.

    Args:
        every_n_steps: optimizer steps between two records.
        vanishing: share of the last layer's norm below which gradients count as vanishing.
        exploding: multiple of the last layer's norm above which they count as exploding.

    Raises:
        ValueError: every_n_steps is below 1, or not 0 ≤ vanishing < exploding.

    Example:
        >>> trainer = Trainer(callbacks=[GradientFlow(every_n_steps=50)], logger=False)

    Source: lecture, "Vanishing/exploding gradient".
    """

    def __init__(
        self, every_n_steps: int = 10, vanishing: float = 1e-3, exploding: float = 1e3
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if not 0 <= vanishing < exploding:
            raise ValueError(
                f"vanishing must be 0 or more, and below exploding, got {vanishing} and {exploding}"
            )
        self.every_n_steps, self.vanishing, self.exploding = every_n_steps, vanishing, exploding
        self.history: list[dict[str, Any]] = []  # of each step: layers, parameters
        self.warned: list[str] = []  # "vanishing <layer>", "exploding <layer>", "zero <layer>"
        self._watch: Watch | None = None
        self._row: dict[str, Any] = {}
        self._scale = 1.0  # of the loss, in mixed precision
        self._skips = False  # steps whose gradients overflow
        self._folder = Path()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what another fit has left behind."""
        self._folder = run_folder(trainer)  # on every process: it is broadcast
        self.history = [row for row in self.history if row["step"] < trainer.global_step]
        self.warned = self.warned if self.history else []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Watch the layers, if it is this step's turn."""
        step = trainer.global_step
        seen = bool(self.history) and self.history[-1]["step"] == step
        if step % self.every_n_steps or seen or is_trial(trainer) or not trainer.is_global_zero:
            return
        self._row = {"epoch": trainer.current_epoch, "step": step, "layers": {}, "parameters": {}}
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._scale, self._skips = float(scaler.get_scale()) if scaler else 1.0, bool(scaler)
        self._watch = Watch(pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Take the norms of the parameters' gradients, before they are clipped."""
        if not self._watch and self._row.get("step") != trainer.global_step:
            return
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._row["parameters"] |= {
            name: _norm(p.grad)
            for name, p in pl_module.named_parameters()
            if p.grad is not None and id(p) in stepped
        }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the record, and look at it."""
        if self._watch:
            self._row["layers"] = self._watch.statistics(
                self._scale / trainer.accumulate_grad_batches
            )
            self._stop()
            self.history.append(self._row)
            self._judge()

    def _judge(self) -> None:
        norms = {
            name: values["gradient_norm"]
            for name, values in self._row["layers"].items()
            if "gradient_norm" in values
        }
        if not norms:
            return
        last, unit = list(norms.items())[-1]
        if unit == 0 and f"zero {last}" not in self.warned:  # nothing can be compared with it
            self.warned.append(f"zero {last}")
            log.warning(
                f"gradients are 0 in the last layer, {last}: those of the others can't be judged "
                f"beside it, step {self._row['step']}"
            )
        for name, norm in norms.items():
            ratio = norm / unit if unit else math.nan  # neither vanishing nor exploding
            if not math.isfinite(norm):
                kind = "" if self._skips else "exploding"
                said = f"their norm is {norm}"
            else:
                low, high = ratio < self.vanishing, ratio > self.exploding
                kind = "vanishing" if low else "exploding" if high else ""
                bound = f"{kind}={getattr(self, kind):g}" if kind else ""
                said = f"their norm is {ratio:.2g} of that in the last layer, {last} ({bound})"
            if kind and f"{kind} {name}" not in self.warned:
                self.warned.append(f"{kind} {name}")
                verb = {"vanishing": "vanish", "exploding": "explode"}[kind]
                log.warning(f"gradients {verb} in layer {name}: {said}, step {self._row['step']}")

    def _stop(self) -> None:
        if self._watch:
            self._watch.remove()
        self._watch = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the numbers."""
        if self.history and trainer.is_global_zero:
            write_whole(self._folder / "gradient_flow.csv", _csv(self.history))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the picture."""
        if self.history and trainer.is_global_zero and not is_trial(trainer):
            heat_maps(self.history, self._folder / "gradient_flow.png")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave no hooks behind, and what there is of numbers and picture."""
        self._stop()
        if trainer.training:
            self.on_train_epoch_end(trainer, pl_module)
            self.on_fit_end(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave no hooks behind."""
        self._stop()

    def state_dict(self) -> dict[str, Any]:
        """Return the records and the warnings there were, as plain numbers and names."""
        return {"history": list(self.history), "warned": list(self.warned)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a history."""
        self.history, self.warned = list(state_dict["history"]), list(state_dict["warned"])


def _norm(gradient: Tensor) -> float:
    gradient = gradient.detach()
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    return float(values.float().norm() if values.device.type == "mps" else values.double().norm())


def _csv(history: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in history:
        when = row["epoch"], row["step"]
        for name, values in row["layers"].items():
            writer.writerows((*when, "layer", name, *item) for item in values.items())
        for name, norm in row["parameters"].items():
            writer.writerow((*when, "parameter", name, "gradient_norm", norm))
    return text.getvalue().rstrip("\n")
