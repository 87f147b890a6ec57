"""A Lightning callback that tells Optuna how a trial is doing, and ends one that does badly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from optuna import TrialPruned
from optuna.trial import BaseTrial
from pytorch_lightning import Callback, LightningModule, Trainer

Measure = Literal["dev_loss", "dev_error"]


@dataclass
class Watched:
    """A trial, what it is measured by, and what was measured, epoch by epoch."""

    trial: BaseTrial
    measure: Measure
    values: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The smallest value so far; NaN before the first."""
        return min(self.values, default=math.nan)


_watched: ContextVar[Watched | None] = ContextVar("watched", default=None)


@contextmanager
def watching(trial: BaseTrial, measure: Measure) -> Iterator[Watched]:
    """Make this the trial that every `ReportAndPrune` reports to; yields what it measures."""
    watched = Watched(trial, measure)
    token = _watched.set(watched)
    try:
        yield watched
    finally:
        _watched.reset(token)


class ReportAndPrune(Callback):
    """Report `dev_loss` or the dev error after each epoch; raise `TrialPruned` on Optuna's word.

    A value that is NaN or infinite ends the trial, whatever the pruner says. Outside of `watching`
    it does nothing. It has no arguments, so that a command line can name it.

    Raises:
        TrialPruned: from the training.

    Example:
        >>> import optuna
        >>> trial = optuna.create_study().ask()
        >>> with watching(trial, "dev_loss") as watched:
        ...     trainer = Trainer(callbacks=[ReportAndPrune()], logger=False)
        ...     # trainer.fit(model)
        >>> watched.best
        nan
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and ask."""
        watched = _watched.get()
        if watched is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = trainer.callback_metrics
        error = watched.measure == "dev_error"
        value = 1 - float(metrics["dev_acc"]) if error else float(metrics["dev_loss"])
        if not math.isfinite(value):
            raise TrialPruned(f"{watched.measure} is {value} after epoch {trainer.current_epoch}")
        watched.values.append(value)
        # The best so far: a fit keeps its best epoch, so a worse one after it does no harm.
        watched.trial.report(watched.best, step=len(watched.values))
        if watched.trial.should_prune():
            raise TrialPruned(f"{watched.measure} {value:.4g} after {len(watched.values)} epochs")
