"""What the comparison came to: a table in Markdown and CSV, and the lecture's pictures."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console
from rich.table import Table

from lightning_modules.comparison.choices import EPOCHS, HIDDEN, Setting
from lightning_modules.experiments import Result
from lightning_modules.files import write_whole

Results = Mapping[str, Mapping[str, Sequence[Result]]]  # group, choice, seed
TITLES = {
    "optimizer": "Optimizer",
    "batch_size": "Mini-batch size",
    "batch_norm": "Batch norm",
    "initialization": "Variance of the initial weights",
    "regularization": "Regularization",
    "decay": "Learning rate decay",
}
EARLY = 5  # epochs after which the loss is looked at, beside the last one


def table(groups: Mapping[str, Mapping[str, Setting]], results: Results) -> pd.DataFrame:
    """Return a row for each choice: means and standard deviations over the seeds.

    Args:
        groups: what was trained.
        results: of `training.train`.

    Returns:
        Losses of the training set after so many epochs, errors in percent, `seconds` of the
        processor.
    """
    rows = []
    for group, choices in groups.items():
        for name, setting in choices.items():
            runs = results[group][name]
            last = len(runs[0]["history"]["train_loss"]) - 1
            row: dict[str, Any] = {"group": group, "choice": name, "lr": setting.lr}
            for epoch in sorted({min(EARLY, last), last}):
                row |= _spread(f"train_loss_{epoch}", [_loss(run, epoch) for run in runs])
            for part in ("dev", "test"):
                row |= _spread(f"{part}_error", [100 * run[f"{part}_error"] for run in runs])
            row |= _spread("best_epoch", [run["epoch"] for run in runs])
            row["steps"] = int(runs[0]["history"]["steps"][-1])
            rows.append(row | _spread("seconds", [run["seconds"] for run in runs]))
    return pd.DataFrame(rows)


def _loss(run: Result, epoch: int) -> float:
    return float(run["history"]["train_loss"][epoch])


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return {name: statistics.fmean(values), f"{name}_sd": deviation}


def markdown(found: pd.DataFrame, about: str) -> str:
    """Return the page: what was done, the picture, and a table for each group."""
    lines = ["# What each part buys, on digits", "", about, "", f"![{ALT}]({PICTURE})", ""]
    losses = _losses(found)
    after = [f"train loss after {c.rpartition('_')[2]}" for c in losses]
    head = ["", "α", *after, "dev error (%)", "test error (%)", "best epoch", "steps", "seconds"]
    for group, rows in found.groupby("group", sort=False):
        lines += [
            f"## {TITLES[str(group)]}",
            "",
            _row(head),
            _row(["---", *["---:"] * (len(head) - 1)]),
        ]
        for _, row in rows.iterrows():
            cells = [row["choice"], f"{row['lr']:g}"]
            cells += [_number(row, c, "{:.2g}") for c in losses]
            cells += [_number(row, c, "{:.2f}") for c in ("dev_error", "test_error")]
            cells += [_number(row, "best_epoch", "{:.0f}"), str(row["steps"])]
            lines.append(_row([*cells, _number(row, "seconds", "{:.1f}")]))
        lines.append("")
    return "\n".join(lines)


def show(found: pd.DataFrame) -> None:
    """Print the losses and errors of every choice."""
    last = _losses(found)[-1]
    shown = Table(title="One change at a time: mean ± standard deviation over the seeds")
    for title in ("", "α", "train loss", "dev error (%)", "test error (%)", "seconds"):
        shown.add_column(title, justify="right" if title else "left")
    for group, rows in found.groupby("group", sort=False):
        shown.add_row(TITLES[str(group)], style="bold")
        for i, (_, row) in enumerate(rows.iterrows(), start=1):
            numbers = [_number(row, c, "{:.2g}") for c in (last, "dev_error", "test_error")]
            cells = [f"  {row['choice']}", f"{row['lr']:g}", *numbers]
            shown.add_row(*cells, _number(row, "seconds", "{:.1f}"), end_section=i == len(rows))
    Console().print(shown)


def _losses(found: pd.DataFrame) -> list[str]:
    names = map(str, found.columns)
    return [name for name in names if name.startswith("train_loss") and not name.endswith("_sd")]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _number(row: Any, name: str, form: str) -> str:
    mean, deviation = row[name], row[f"{name}_sd"]
    if math.isnan(mean):
        return "diverged"
    return form.format(mean) + ("" if math.isnan(deviation) else f" ± {form.format(deviation)}")


PICTURE = "images/comparison.png"
ALT = "Loss against epochs for each choice, and the test errors"
# group, quantity, what it is drawn against
PANELS = (
    ("optimizer", "train_loss", "epoch"),
    ("batch_size", "train_loss", "epoch"),
    ("batch_size", "train_loss", "seconds"),
    ("batch_norm", "train_loss", "epoch"),
    ("initialization", "train_loss", "epoch"),
    ("decay", "train_loss", "epoch"),
    ("regularization", "train_loss", "epoch"),
    ("regularization", "dev_loss", "epoch"),
)
LABELS = {
    "train_loss": "loss of the training set (nats)",
    "dev_loss": "loss of the dev set (nats)",
    "epoch": "epoch (passes through the training set)",
    "seconds": "seconds of the processor",
}


def draw(results: Results, path: Path) -> Path:
    """Draw the loss of every choice against epochs, mean and range over the seeds, and the errors.

    Args:
        results: by group, choice and seed.
        path: the file to write.

    Returns:
        The path.
    """
    panels = [panel for panel in PANELS if panel[0] in results]
    rows = math.ceil((len(panels) + 1) / 3)
    figure = Figure(figsize=(15, 4 * rows), layout="constrained")
    places = figure.subplots(rows, 3, squeeze=False).ravel()
    for axes, (group, quantity, against) in zip(places, panels, strict=False):
        for name, runs in results[group].items():
            _curve(axes, name, runs, quantity, against)
        axes.set(title=TITLES[group], xlabel=LABELS[against], ylabel=LABELS[quantity])
        axes.set_yscale("log")
        if against == "seconds":
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    _errors(places[len(panels)], results)
    for axes in places[len(panels) + 1 :]:
        axes.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _curve(axes: Axes, name: str, runs: Sequence[Result], quantity: str, against: str) -> None:
    values = np.array([run["history"][quantity] for run in runs], dtype=float)
    if against == "seconds":  # the first point is at 0, which has no logarithm
        values = values[:, 1:]
        x = np.mean([run["history"]["seconds"][1:] for run in runs], axis=0)
    else:
        x = np.arange(values.shape[1])
    (line,) = axes.plot(x, values.mean(axis=0), ".-", label=name)
    axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)


def _errors(axes: Axes, results: Results) -> None:
    names: list[str] = []
    for group, choices in results.items():
        for name, runs in choices.items():
            y = len(names)
            names.append(f"{group.replace('_', ' ')}: {name}")
            errors = [100 * run["test_error"] for run in runs]
            axes.plot(errors, [y] * len(runs), ".", color="#4c72b0", alpha=0.6)
            axes.plot(statistics.fmean(errors), y, "|", color="#c0392b", markersize=12)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set(title="Test error: every seed, and the mean", xlabel="wrong labels (%)")
    axes.grid(alpha=0.3)


def write(
    folder: Path,
    groups: Mapping[str, Mapping[str, Setting]],
    results: Results,
    epochs: int,
    subset: float,
) -> list[Path]:
    """Write the page, its picture, and the table as CSV; return the paths."""
    found = table(groups, results)
    page, numbers = folder / "comparison.md", folder / "comparison.csv"
    write_whole(page, markdown(found, _about(results, epochs, subset)))
    found.to_csv(numbers, index=False)
    return [page, numbers, draw(results, folder / PICTURE)]


def _about(results: Results, epochs: int, subset: float) -> str:
    """Say what was run; the rates are the best ones for what they were tried with alone."""
    seeds = len(next(iter(next(iter(results.values())).values())))
    given = {"--epochs": (epochs, EPOCHS), "--subset": (subset, 1)}
    options = "".join(f" {name} {v:g}" for name, (v, usual) in given.items() if v != usual)
    command = f"python -m lightning_modules.comparison{options}"
    share = (
        "the whole training set" if subset == 1 else f"a share of {subset:g} of the training set"
    )
    beats = f"""each beats the two rates beside it by the dev loss of the best epoch, from a seed
        that is not used here (`{command} --tune` does it again)."""
    if options:
        beats = f"""each beats the two rates beside it with {EPOCHS} epochs of the whole training
        set. With {epochs} epochs of {share} others may do better (`{command} --tune` tries)."""
    paragraphs = (
        f"""Every choice is one change of a base: a net of {", ".join(map(str, HIDDEN))} ReLU units
        without batch norm, weights of variance 2/n_in, mini-batches of 64, gradient descent,
        nothing else. Trainings of each: {seeds}, of {epochs} epochs on {share}, which differ in
        initial weights, dropout masks and {"" if subset == 1 else "the choice and "}the order of
        the examples; a number is their mean ± standard deviation. Losses are those of {share},
        without dropout and penalties; errors those of the epoch at which the dev loss is smallest;
        seconds those of one processor core, measuring left out. With 270 examples in the dev and
        the test set each, one image is 0.37 %: smaller differences of errors mean nothing.""",
        f"""Learning rates α are taken from a ladder (1, 3, 10, 30, ...), for each choice by itself:
        {beats} This page was written by `{command}`.""",
    )
    return "\n\n".join(textwrap.fill(" ".join(text.split()), 100) for text in paragraphs)


def rates(results: Mapping[str, Mapping[float, Sequence[Result]]]) -> list[str]:
    """Return a line for each choice: the dev loss with each learning rate, the best one marked.

    Args:
        results: by choice, learning rate (lower, that of the table, higher) and seed.
    """
    lines = []
    for name, by_rate in results.items():
        losses = {
            lr: statistics.fmean(_finite(run["dev_loss"]) for run in runs)
            for lr, runs in by_rate.items()
        }
        best = min(losses, key=lambda lr: losses[lr])
        shown = "  ".join(f"{lr:g}: {loss:.4f}" for lr, loss in losses.items())
        better = "" if best == list(losses)[1] else f"  better than the table's: {best:g}"
        lines.append(f"{name:<45} {shown}{better}")
    return lines


def _finite(loss: float) -> float:
    return math.inf if math.isnan(loss) else loss
