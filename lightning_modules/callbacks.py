"""What happens beside the training: pictures, and lines of progress where a bar makes no sense."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from pytorch_lightning.utilities.exceptions import SIGTERMException

from lightning_modules import plots
from lightning_modules.classifier import Classifier
from lightning_modules.files import command, relative

NUMBERS = ("train_loss", "dev_loss", "train_acc", "dev_acc")


def run_folder(trainer: Trainer) -> Path:
    """Return the folder of this run: that of its first logger, else the trainer's root."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def is_trial(trainer: Trainer) -> bool:
    """Tell whether `fast_dev_run` is on, which writes nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))


class Pictures(Callback):
    """Draw `learning_curves.png` after fit, `confusion_{dev,test}.png` after validate and test.

    The files go to the folder of the run. The history of the epochs is part of a checkpoint, so
    that a resumed run draws all of it.

    Example:
        >>> Trainer(callbacks=[Pictures()], logger=False).callbacks[0].history
        []
    """

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self._rate = float("nan")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the learning rate that the epoch begins with."""
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember this epoch's numbers."""
        metrics = trainer.callback_metrics
        row = {name: float(metrics[name]) for name in NUMBERS if name in metrics}
        self.history.append({"epoch": float(trainer.current_epoch), "lr": self._rate, **row})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the learning curves."""
        folder = run_folder(trainer)  # on every process: it is broadcast
        if trainer.is_global_zero and self.history and not is_trial(trainer):
            net = type(getattr(pl_module, "net", pl_module)).__name__
            layers = getattr(pl_module, "implementation", "")
            path = folder / "learning_curves.png"
            plots.learning_curves(self.history, path, title=f"{net} on {layers} layers".strip())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the confusion matrix of the dev set, unless this belongs to a fit."""
        if trainer.state.fn == "validate":
            self._confusion(trainer, pl_module, "dev")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the confusion matrix of the test set."""
        self._confusion(trainer, pl_module, "test")

    def _confusion(self, trainer: Trainer, pl_module: LightningModule, part: str) -> None:
        if is_trial(trainer) or not isinstance(pl_module, Classifier):
            return
        # on every process: the folder is broadcast, the counts are gathered
        path = run_folder(trainer) / f"confusion_{part}.png"
        counts = pl_module.confusion.compute().cpu().numpy()
        if trainer.is_global_zero:
            plots.confusion_matrix(counts, path, title=f"Confusion on the {part} set")

    def state_dict(self) -> dict[str, Any]:
        """Return the history and the rate of the epoch that is going on, as plain numbers."""
        return {"history": [dict(row) for row in self.history], "rate": self._rate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue a history."""
        self.history = [dict(row) for row in state_dict["history"]]
        self._rate = state_dict.get("rate", self._rate)


class HowToGoOn(Callback):
    """Say how to resume a training that was interrupted: Ctrl-C, or SIGTERM."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Name the last checkpoint, if there is one."""
        checkpoint = str(getattr(trainer.checkpoint_callback, "last_model_path", ""))
        interrupted = isinstance(exception, KeyboardInterrupt | SIGTERMException)
        if not interrupted or not trainer.is_global_zero:
            return
        print(f"\ninterrupted in epoch {trainer.current_epoch + 1}")
        if checkpoint:
            path = shlex.quote(relative(checkpoint))
            print(f"to go on: {command()} fit --ckpt_path {path}")


class ProgressLines(Callback):
    """Print one line every few epochs: for log files and pipes.

    Args:
        every: epochs between two lines, at least 1. The first and last epoch always have theirs.

    Raises:
        ValueError: if every is below 1.
    """

    def __init__(self, every: int = 5) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print this epoch's numbers, if it is its turn."""
        epoch, last = trainer.current_epoch + 1, trainer.max_epochs or 0
        if not trainer.is_global_zero:
            return
        if epoch == 1 or epoch % self.every == 0 or epoch == last or trainer.should_stop:
            metrics = trainer.callback_metrics
            numbers = "  ".join(f"{n} {float(metrics[n]):.4f}" for n in NUMBERS if n in metrics)
            print(f"epoch {epoch:>3}/{last}  {numbers}", flush=True)


def progress(every: int = 5) -> Callback:
    """Return Rich's bar on a terminal, lines elsewhere."""
    return RichProgressBar(leave=False) if sys.stdout.isatty() else ProgressLines(every)
