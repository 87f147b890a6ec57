"""A trial: one training by the shipped command line, in a process of its own, on one thread."""

from __future__ import annotations

import contextlib
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lightning_modules.tuning.space import Config, Space, configured, space_from, suggest

if TYPE_CHECKING:
    from optuna.trial import Trial


@dataclass(frozen=True)
class Settings:
    """What a study is about; kept in it, and the same for every worker and every resumption.

    Attributes:
        config: the configuration that every trial starts from.
        space: rows of the search space, as `space_from` takes them.
        epochs: of each trial.
        measure: what is minimized: "dev_loss", or "dev_error", the share of wrong labels.
        seed: of the draws; the trainings have that of the configuration.
        sampler: "random" or "tpe".
        pruner: "median" or "none".
        rounds, size, best: see `CoarseToFine`.
    """

    config: Config
    space: dict[str, Any]
    epochs: int
    measure: str
    seed: int
    sampler: str
    pruner: str
    rounds: int
    size: int
    best: int

    def rows(self) -> Space:
        """Return the search space."""
        return space_from(self.space)

    def configuration(self, params: dict[str, Any]) -> Config:
        """Return the configuration of a trial, for `fit --config`.

        What the best one is chosen by is also what a run's best epoch is chosen by.
        """
        config = configured(self.config, self.rows(), params)
        config.setdefault("trainer", {})["max_epochs"] = self.epochs
        if self.measure == "dev_error":
            config["checkpoint"] = {"monitor": "dev_acc", "mode": "max"}
        return config


@dataclass(frozen=True)
class Training:
    """The objective: draws a configuration, trains it, returns its best epoch's measure.

    Args:
        settings: of the study.
        folder: of the study; trial n leaves its configuration, output and run in `trials/`.
    """

    settings: Settings
    folder: Path

    def __call__(self, trial: Trial) -> float:
        """Train; the test set is not read.

        Raises:
            TrialPruned: on the pruner's word.
            KeyboardInterrupt: the training was interrupted.
            RuntimeError: the command line refused the configuration.
        """
        from lightning_modules.tuning.prune import watching

        params = suggest(self.settings.rows(), trial)
        path = self.folder / "trials" / f"{trial.number:04}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(self.settings.configuration(params), sort_keys=False))
        measure: Any = self.settings.measure
        with watching(trial, measure) as watched:
            try:
                error = run(path)
            finally:
                shutil.rmtree(path.with_suffix("") / "version_0/checkpoints", ignore_errors=True)
        trial.set_user_attr("dev_error", error)
        return watched.best


def run(path: Path) -> float | None:
    """Fit a configuration and return its dev error in percent; what it prints goes beside it."""
    from optuna import TrialPruned

    from lightning_modules.cli import main

    args = ["fit", "--config", str(path), "--name", path.stem, "--read_test", "false"]
    args += ["--threads", "1", "--trainer.default_root_dir", str(path.parent)]
    args += ["--trainer.enable_progress_bar", "false", "--checkpoint.save_last", "false"]
    args += ["--trainer.callbacks+=lightning_modules.tuning.prune.ReportAndPrune"]
    output = path.with_suffix(".txt")
    with (
        output.open("w") as out,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        try:
            summary = main(args).summary
        except TrialPruned:
            raise
        except SystemExit as error:
            if error.code == 2:
                raise RuntimeError(f"the configuration was refused: see {output}") from error
            raise KeyboardInterrupt from error  # what Lightning made of it, or of SIGTERM
        except Exception:
            traceback.print_exc(file=out)
            raise
    return None if summary is None else summary.dev_error
