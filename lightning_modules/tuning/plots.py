"""Pictures of a study, by Optuna's matplotlib plots."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial

from lightning_modules.tuning.workers import ranked


def draw(study: Study, folder: Path, measure: str) -> list[Path]:
    """Draw history, slices, parallel coordinates and learning curves of the trials.

    Args:
        study: with complete trials; two of them at least, else nothing is drawn.
        folder: gets `history.png`, `slices.png`, `parallel.png` and `epochs.png`.
        measure: what was minimized.

    Returns:
        The files.
    """
    done = ranked(study)
    if len(done) < 2:
        return []
    from matplotlib import pyplot, rc_context
    from optuna.visualization import matplotlib as plots

    # One diverged trial would press all others together; a dev error can be 0, which has no log.
    log = all(_value(trial) > 0 for trial in done)
    width = len(done[0].params)
    named: dict[str, Any] = {"target_name": measure}
    shade = {"target": _log10, "target_name": f"log10 {measure}"} if log else named
    pictures: dict[str, tuple[Callable[..., Any], dict[str, Any], tuple[float, float]]] = {
        "history": (plots.plot_optimization_history, named, (8, 5)),
        "slices": (plots.plot_slice, named, (2.5 * width, 4)),
        "parallel": (plots.plot_parallel_coordinate, shade, (2 + 1.6 * width, 6)),
        "epochs": (plots.plot_intermediate_values, {}, (8, 5)),
    }
    written = []
    for name, (plot, options, size) in pictures.items():
        with warnings.catch_warnings(), rc_context({"backend": "agg"}):  # Optuna changes the style
            warnings.simplefilter("ignore", ExperimentalWarning)
            figure = np.ravel(plot(study, **options))[0].figure
            for axes in figure.axes:
                axes.minorticks_off()  # two labels fit on an axis of a log scale, not ten
                if log and name != "parallel" and axes.get_label() != "<colorbar>":
                    axes.set_yscale("log")
            if name == "epochs":
                axes.set(ylabel=f"best {measure} so far", xlabel="epoch")
                axes.get_legend().remove()  # one line for every trial
            figure.set_size_inches(size)
            written.append(folder / f"{name}.png")
            figure.savefig(written[-1], dpi=100, bbox_inches="tight")
            pyplot.close(figure)
    return written


def _value(trial: FrozenTrial) -> float:
    return math.nan if trial.value is None else trial.value


def _log10(trial: FrozenTrial) -> float:
    return math.log10(_value(trial))
