"""What a study came to: a table, `trials.csv`, pictures, and `best.yaml` for `fit --config`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lightning_modules.tuning.plots import draw
from lightning_modules.tuning.workers import finished, ranked, settings_of

SHOWN = 5


class Watcher:
    """A bar on a terminal, and a line for every trial that is finished.

    Args:
        study: that is being worked on.
        trials: how many are wanted.
    """

    def __init__(self, study: Study, trials: int) -> None:
        self.study = study
        self.measure = settings_of(study).measure
        self.seen = {trial.number for trial in finished(study)}
        best = TextColumn("{task.fields[best]}")
        columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), best
        self.bar = Progress(*columns, disable=not sys.stdout.isatty(), transient=True)
        self.task = self.bar.add_task("", total=trials, completed=len(self.seen), best="")

    def __enter__(self) -> Watcher:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self) -> None:
        """Say what is new."""
        done = finished(self.study)
        for trial in done:
            if trial.number not in self.seen:
                self.seen.add(trial.number)
                self.bar.console.print(_line(trial, self.measure), highlight=False, soft_wrap=True)
        best = [f"best {self.measure} {t.value:.4g}" for t in ranked(self.study)[:1]]
        self.bar.update(self.task, completed=len(done), best="".join(best))


def _line(trial: FrozenTrial, measure: str) -> str:
    head = f"trial {trial.number:>3}  {trial.state.name.lower():<8}"
    if trial.state == TrialState.FAIL:
        return f"{head}  {trial.user_attrs.get('error', '')}"
    value = trial.value if trial.value is not None else float("nan")
    return f"{head}  {measure} {value:.4f}  " + "  ".join(
        f"{name} {_number(value)}" for name, value in trial.params.items()
    )


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write(study: Study, folder: Path) -> list[Path]:
    """Write everything that can be written by now, and return the paths.

    Args:
        study: finished or not.
        folder: of the study.
    """
    settings = settings_of(study)
    table = study.trials_dataframe(
        attrs=("number", "state", "value", "datetime_start", "duration", "params", "user_attrs")
    )
    path = folder / "trials.csv"
    table.to_csv(path, index=False)
    written = [path]
    if best := ranked(study)[:1]:
        path = folder / "best.yaml"
        note = f"# Trial {best[0].number} of the study {study.study_name}: {settings.measure} "
        note += f"{best[0].value:.6g}, the best of {len(finished(study))} trials.\n"
        text = yaml.safe_dump(settings.configuration(best[0].params), sort_keys=False)
        path.write_text(note + text)
        written.append(path)
    return written + draw(study, folder, settings.measure)


def show(study: Study) -> None:
    """Print the best trials, and how many there were of each kind."""
    settings = settings_of(study)
    states = Counter(trial.state.name.lower() for trial in finished(study))
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    best = ranked(study)[:SHOWN]
    if not best:
        Console().print(f"{study.study_name}: {counts or 'no finished'} trials", highlight=False)
        return
    table = Table(title=f"{study.study_name}: the best of {counts} trials")
    table.add_column("hyperparameter")
    for trial in best:
        table.add_column(f"trial {trial.number}", justify="right")
    rows: dict[str, list[Any]] = {settings.measure: [trial.value for trial in best]}
    rows["dev error (%)"] = [trial.user_attrs.get("dev_error") for trial in best]
    rows["round"] = [trial.user_attrs.get("round") for trial in best]
    for i, (name, values) in enumerate(rows.items()):
        table.add_row(name, *map(_number, values), end_section=i == len(rows) - 1)
    for row in settings.rows():
        table.add_row(row.name, *(_number(trial.params.get(row.name)) for trial in best))
    Console().print(table)
