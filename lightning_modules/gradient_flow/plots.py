"""Pictures of the gradient flow: layers against steps, and gradients against depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

LABELS = 40  # names that fit beside a heat map
_PANELS = (  # title, kind, quantity, colour bar
    ("Activations", "layers", "activation_rms", "root mean square"),
    ("Gradients of the outputs", "layers", "gradient_norm", "norm, beside the last layer's"),
    ("Outputs that are 0 or saturated", "layers", "idle", "share"),
    ("Gradients of the parameters", "parameters", "", "norm"),
)


def heat_maps(history: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw layers against steps: activations, gradients, idle outputs, gradients of parameters.

    Args:
        history: of each step `step`, `layers` (name → quantity → value) and `parameters`
            (name → norm). A value that is missing, and one of 0 on a scale of logarithms, is grey.
        path: the file to write; its folder is made.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> layers = {"linear": {"activation_rms": 1.0, "idle": 0.0, "gradient_norm": 0.1}}
        >>> history = [{"step": 0, "layers": layers, "parameters": {"linear.weight": 0.5}}]
        >>> heat_maps(history, Path(tempfile.mkdtemp()) / "flow.png").stat().st_size > 5000
        True
    """
    longest = max(len(_names(history, kind)) for kind in ("layers", "parameters"))
    figure = Figure(figsize=(15, 3 + 0.32 * min(longest, LABELS) * 2), layout="constrained")
    for axes, panel in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        _heat_map(figure, axes, history, *panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def _names(history: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """In the order in which they first come, which is that of the forward pass."""
    return list(dict.fromkeys(name for row in history for name in row[kind]))


def _heat_map(
    figure: Figure,
    axes: Axes,
    history: Sequence[Mapping[str, Any]],
    title: str,
    kind: str,
    quantity: str,
    label: str,
) -> None:
    names = _names(history, kind)
    values = np.full((len(names), len(history)), np.nan)
    for column, row in enumerate(history):
        for name, value in row[kind].items():
            number = value.get(quantity, np.nan) if quantity else value
            values[names.index(name), column] = number
    if quantity == "gradient_norm":
        there = np.isfinite(values).any(axis=1)
        if there.any():
            values = values / np.where(values > 0, values, np.nan)[there][-1]
    log = quantity != "idle"
    shown = values[np.isfinite(values) & ((values > 0) | (not log))]
    scale: Normalize = Normalize(0, 1)
    if log and shown.size:  # of one single value there is no scale
        low, high = shown.min(), shown.max()
        scale = LogNorm(low / 1.01, high * 1.01)
    shape = np.ma.masked_where(~np.isfinite(values) | (log & (values <= 0)), values)
    steps = [row["step"] for row in history]
    axes.set_facecolor("#bbbbbb")
    image = axes.pcolormesh(np.arange(len(steps) + 1), np.arange(len(names) + 1), shape, norm=scale)
    axes.invert_yaxis()  # the first layer is on top
    every = max(1, -(-len(names) // LABELS))
    axes.set_yticks(np.arange(len(names))[::every] + 0.5, names[::every], fontsize="small")
    every = max(1, -(-len(steps) // 10))
    axes.set_xticks(np.arange(len(steps))[::every] + 0.5, [str(s) for s in steps[::every]])
    axes.set(title=title, xlabel="step")
    figure.colorbar(image, ax=axes, label=label)


def depths(runs: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> Path:
    """Draw the gradient of each layer against its depth: activations beside each other.

    Args:
        runs: with `activation`, `init`, `batch_norm` and the `gradients` of the layers. One of 0
            has no logarithm and leaves a gap.
        path: the file to write; its folder is made.
        title: what was measured.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> run = {"activation": "sigmoid", "init": "lecun_normal", "batch_norm": False}
        >>> path = Path(tempfile.mkdtemp()) / "depths.png"
        >>> depths([{**run, "gradients": [1e-3, 1e-1]}], path).stat().st_size > 5000
        True
    """
    columns = list(dict.fromkeys(run["activation"] for run in runs))
    rows = sorted({run["batch_norm"] for run in runs})
    rules = list(dict.fromkeys(run["init"] for run in runs))
    # normal and uniform draws of one variance: one colour, and a dashed line
    families = list(dict.fromkeys(rule.partition("_")[0] for rule in rules))
    figure = Figure(figsize=(1.5 + 4.2 * len(columns), 1 + 3.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey="row")
    for run in runs:
        axes = panels[rows.index(run["batch_norm"]), columns.index(run["activation"])]
        values = np.array(run["gradients"])
        axes.plot(
            np.arange(1, len(values) + 1),
            np.where(values > 0, values, np.nan),
            color=f"C{families.index(run['init'].partition('_')[0])}",
            linestyle="--" if run["init"].endswith("_uniform") else "-",
            label=run["init"],
        )
    for (row, column), axes in np.ndenumerate(panels):
        name, depth = columns[column], max(len(run["gradients"]) for run in runs)
        if name == "sigmoid" and not rows[row]:
            layers = np.arange(1, depth + 1)
            quarter = 0.25 ** (depth - layers + 1.0)
            axes.plot(layers, quarter, ":", color="black", label="a quarter per layer")
        axes.set(title=name + (", batch norm" if rows[row] else ""), yscale="log")
        axes.grid(alpha=0.3)
        if row == len(rows) - 1:
            axes.set_xlabel("layer")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if column == 0:
            axes.set_ylabel("size of ∂C/∂b")
    handles, labels = [], []
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside right center", fontsize="small")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path
