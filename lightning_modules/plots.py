"""Pictures of a training run, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

# Figure without pyplot: nothing is registered globally, and no display is needed.
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

TRAIN, DEV, MARK = "#4c72b0", "#dd8452", "#333333"


def learning_curves(history: Sequence[Mapping[str, float]], path: Path, title: str = "") -> Path:
    """Draw loss, error and learning rate over the epochs, with the minimum of the dev set marked.

    Args:
        history: per epoch the values logged: `epoch`, `train_loss`, `dev_loss`, `train_acc`,
            `dev_acc` (in [0, 1]) and, if known, `lr`. A missing value leaves a gap.
        path: the file to write; its folder is made.
        title: what was trained.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> history = [{"epoch": 0, "train_loss": 1.0, "dev_loss": 1.1}]
        >>> learning_curves(history, Path(tempfile.mkdtemp()) / "curves.png").stat().st_size > 5000
        True
    """

    def column(name: str) -> np.ndarray[Any, Any]:
        return np.array([row.get(name, np.nan) for row in history], dtype=float)

    epochs = column("epoch") + 1
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    loss, error, rate = figure.subplots(1, 3)
    _curves(loss, epochs, column("train_loss"), column("dev_loss"), "{:.3f}")
    loss.set(title="Loss", ylabel="cross-entropy (nats)", yscale="log")
    train_error, dev_error = 100 * (1 - column("train_acc")), 100 * (1 - column("dev_acc"))
    _curves(error, epochs, train_error, dev_error, "{:.2f} %")
    # Logarithmic down to 1 %, linear below: an error of exactly 0 can be shown.
    error.set(title="Error", ylabel="wrong labels (%)")
    error.set_yscale("symlog", linthresh=1)
    error.set_ylim(bottom=0)
    error.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100], labels=None)
    error.yaxis.set_major_formatter("{x:g}")
    error.set_ylim(top=min(100, 1.3 * np.nanmax([10, *train_error, *dev_error])))
    rate.plot(epochs, column("lr"), ".-", color=MARK)
    rate.set(title="Learning rate", ylabel="learning rate α", xlabel="epoch")
    if np.any(column("lr") > 0):
        rate.set_yscale("log")
    rate.xaxis.set_major_locator(MaxNLocator(integer=True))
    rate.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    return _save(figure, path)


def _curves(
    axes: Axes,
    epochs: np.ndarray[Any, Any],
    train: np.ndarray[Any, Any],
    dev: np.ndarray[Any, Any],
    number: str,
) -> None:
    axes.plot(epochs, train, ".-", color=TRAIN, label="train (running, dropout on)")
    axes.plot(epochs, dev, ".-", color=DEV, label="dev")
    if np.isfinite(dev).any():
        best = int(np.nanargmin(dev))
        label = f"dev minimum {number.format(dev[best])}, epoch {epochs[best]:.0f}"
        axes.axvline(epochs[best], color=MARK, linewidth=0.8, linestyle=":")
        axes.plot(epochs[best], dev[best], "o", color=MARK, fillstyle="none", label=label)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(0.5, epochs.max() + 0.5)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def confusion_matrix(counts: np.ndarray[Any, Any], path: Path, title: str = "") -> Path:
    """Draw how often each true class was given each label.

    Args:
        counts: row i, column j: examples of class i that were labelled j, (classes, classes).
        path: the file to write; its folder is made.
        title: what was measured.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "confusion.png"
        >>> confusion_matrix(np.eye(3), path).stat().st_size > 5000
        True
    """
    figure = Figure(figsize=(5.4, 5), layout="constrained")
    axes = figure.subplots()
    total = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(100 * counts / total, cmap="Blues", vmin=0, vmax=100)
    for (i, j), count in np.ndenumerate(counts):
        if count:
            color = "white" if i == j else "#c0392b"
            axes.text(j, i, f"{count:.0f}", ha="center", va="center", color=color)
    classes = np.arange(len(counts))
    axes.set(xlabel="predicted class", ylabel="true class", xticks=classes, yticks=classes)
    figure.colorbar(image, label="share of the true class (%)", shrink=0.8)
    correct = np.trace(counts) / max(counts.sum(), 1)
    axes.set_title(f"{title}\n{counts.sum() - np.trace(counts):.0f} of {counts.sum():.0f} wrong, "
                   f"accuracy {100 * correct:.2f} %".strip())  # fmt: skip
    return _save(figure, path)


def errors_by_size(
    errors: pd.DataFrame, path: Path, human: float | None = None, title: str = ""
) -> Path:
    """Draw train and dev error against the size of the training set, with their range over seeds.

    Args:
        errors: `m`, and `train_error` and `dev_error` in percent, both also with `_min` and `_max`.
        path: the file to write; its folder is made.
        human: error of people, in [0, 1], if it is known.
        title: what was trained.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> ends = {f"{part}_error{end}": [5.0, 2.0] for part in ("train", "dev")
        ...         for end in ("", "_min", "_max")}
        >>> errors = pd.DataFrame({"m": [100, 1000], **ends})
        >>> errors_by_size(errors, Path(tempfile.mkdtemp()) / "e.png").stat().st_size > 5000
        True
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for part, color in (("dev", DEV), ("train", TRAIN)):
        column = f"{part}_error"
        axes.plot(errors["m"], errors[column], ".-", color=color, label=f"{part} (mean)")
        low, high = errors[f"{column}_min"], errors[f"{column}_max"]
        axes.fill_between(errors["m"], low, high, color=color, alpha=0.2)
    if human is not None:
        label = f"human error (assumed) {human:.1%}"
        axes.axhline(100 * human, color=MARK, linestyle=":", label=label)
    axes.set(title=title, xlabel="training examples m", ylabel="wrong labels (%)", xscale="log")
    axes.set_xticks(errors["m"], [f"{m:,}" for m in errors["m"]])
    axes.minorticks_off()
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
