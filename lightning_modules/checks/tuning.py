"""Tuning's and early stopping's parts of the suite: `python -m verification tuning early_stopping`.

`verification` may not import what is checked here; it finds both by their entry points.
"""

from __future__ import annotations

import contextlib
import io
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import create_trial

from lightning_modules.checks.rows import judged
from lightning_modules.tuning.objective import Settings
from lightning_modules.tuning.search import CoarseToFine, shrunk
from lightning_modules.tuning.space import find_space, load_space, suggest
from lightning_modules.tuning.workers import Shared, finished
from refnet.averages import ExponentialAverage
from verification.report import ANOTHER, Row

NAN = math.nan
DRAWS = 400
FAR = 2 / math.sqrt(DRAWS)  # Kolmogorov–Smirnov: right draws are farther off once in 1,500 times

# The lecture draws uniformly: logarithms of learning rates and of 1 − β, shares themselves.
LOG = {"learning rate": (1e-4, 1e-1), "1 - beta1": (1e-3, 1e-1), "1 - beta2": (1e-3, 1e-1)}
LINEAR = {"keep_prob": (0.5, 1.0), "units": (32, 512)}


def tuning(*, quick: bool = False, device: str = "cpu") -> Iterator[list[Row]]:
    """Yield the rows of the draws, of the boxes, and of a study that processes share.

    Args:
        quick: has no effect: all of it takes a few seconds.
        device: has no effect.

    Example:
        >>> rows = next(tuning())
        >>> rows[0].case, all(row.passed for row in rows)
        ('learning rate, log scale', True)
    """
    yield from _run("tuning", _draws, _windows, _boxes, _shared, _caviar)


def early_stopping(*, quick: bool = False, device: str = "cpu") -> Iterator[list[Row]]:
    """Yield the rows of a training that stops: when, and which epoch's model is kept.

    Args:
        quick: has no effect: it takes a few seconds.
        device: has no effect.
    """
    yield from _run("early_stopping", _stopped)


def _run(subject: str, *checks: Callable[[], Iterator[tuple[Any, ...]]]) -> Iterator[list[Row]]:
    for check in checks:
        try:
            yield [judged(subject, *values) for values in check()]
        except (Exception, SystemExit) as error:  # code that crashes gets a row
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            yield [Row(subject, "-", "-", "-", NAN, NAN, NAN, "runs", ANOTHER, note)]


def _study(storage: str | None = None, **options: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    given = {"seed": 1, "rounds": 1, "size": DRAWS, "best": 2, **options}
    sampler = CoarseToFine(**given)
    return optuna.create_study(
        sampler=sampler, storage=storage, study_name="s", load_if_exists=True
    )


def _draws() -> Iterator[tuple[Any, ...]]:
    space, study = load_space(find_space(None, "mlp")), _study()
    rows = [suggest(space, study.ask()) for _ in range(DRAWS)]
    for name, (low, high) in {**LOG, **LINEAR}.items():
        values = np.array([row[name] for row in rows], dtype=float)
        log = name in LOG
        if log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        case = f"{name}, {'log' if log else 'linear'} scale"
        yield case, "distribution", _kolmogorov_smirnov(values, low, high), "uniform, KS", FAR
        if name != "units":
            alike = DRAWS - len(np.unique(values))
            yield case, "values drawn twice", alike, "never a grid"


def _kolmogorov_smirnov(values: Any, low: float, high: float) -> float:
    """The largest gap between the shares drawn and the uniform distribution's."""
    share = (np.sort(values) - low) / (high - low)
    steps = np.arange(len(values) + 1) / len(values)
    return float(max(np.abs(share - steps[1:]).max(), np.abs(share - steps[:-1]).max()))


def _windows() -> Iterator[tuple[Any, ...]]:
    """Why 1 − β is drawn on a log scale."""
    for one, other, change in ((0.9000, 0.9005, 0.05), (0.9990, 0.9995, 1000.0)):
        found = ExponentialAverage(other).window - ExponentialAverage(one).window
        off = abs(found / change - 1)
        yield f"β {one:.4f} to {other:.4f}", "window", off, "the lecture's", 0.01, f"{found:.3g}"


def _boxes() -> Iterator[tuple[Any, ...]]:
    """Around the best, one mean gap wider on either side, in the units of the scale."""
    space: dict[str, Any] = {
        "log": FloatDistribution(1e-6, 1, log=True),
        "linear": FloatDistribution(0, 10),
        "whole": IntDistribution(1, 100),
    }
    drawn = [(1e-4, 2.0, 10), (1e-3, 4.0, 20), (1e-2, 3.0, 30)]
    trials = [
        create_trial(params=dict(zip(space, row, strict=True)), distributions=space, value=0.0)
        for row in drawn
    ]
    box = shrunk(trials, {})
    for name, right in {"log": (1e-5, 1e-1), "linear": (1, 5), "whole": (1, 40)}.items():
        off = max(abs(a / b - 1) for a, b in zip(box[name], right, strict=True))
        yield f"box, {name}", "ends", off, "by hand", 1e-12
    study = _study(rounds=2, size=1)
    study.set_user_attr("box of round 1", {"α": [1e-4, 1e-2]})
    values = [study.ask().suggest_float("α", 1e-5, 1, log=True) for _ in range(DRAWS + 1)][1:]
    far = _kolmogorov_smirnov(np.log10(values), -4, -2)
    yield "box, log", "distribution", far, "uniform, KS", FAR
    study = _study(seed=3, rounds=3, size=20, best=5)
    study.optimize(lambda t: (math.log10(t.suggest_float("α", 1e-5, 1, log=True)) + 3) ** 2, 60)
    for number in (1, 2):
        low, high = study.user_attrs[f"box of round {number}"]["α"]
        values = [t.params["α"] for t in study.trials if t.number // 20 == number]
        outside = sum(not low <= value <= high for value in values)
        yield f"round {number}", "draws outside the box", outside, "none"
        lost = float(not low < 1e-3 < high)
        width = math.log10(high / low)
        yield f"round {number}", "best value outside", lost, "coarse to fine"
        yield f"round {number}", "decades", width, "of 5", 5 / 2**number, f"{low:.1e} to {high:.1e}"


def _shared() -> Iterator[tuple[Any, ...]]:
    """Two connections to one store, taking turns, draw what one alone does, and nothing twice."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = []
        for workers in (1, 2):
            url = f"sqlite:///{Path(folder) / f'{workers}.db'}"
            studies = [_study(url) for _ in range(workers)]
            for i in range(8):
                trial = studies[i % workers].ask()
                value = trial.suggest_float("α", 1e-4, 1, log=True)
                studies[i % workers].tell(trial, value)
            found = _study(url).trials
            drawn.append([trial.params["α"] for trial in found])
    alone, together = drawn
    off = sum(a != b for a, b in zip(alone, together, strict=True))
    yield "two workers on one study", "trials", off, "those of one, bitwise"
    yield "two workers on one study", "drawn twice", len(together) - len(set(together)), "none"


TRIALS = 12
# Both have drawn before either has finished; what is finished is said.
WORKER = """
import sys, time
from pathlib import Path
from lightning_modules.tuning.workers import Shared, work

folder, worker, trials = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    (folder / f"{worker} has drawn").touch()
    end = time.monotonic() + 60
    while len(list(folder.glob("* has drawn"))) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    print(trial.number, x, flush=True)
    return x

work(Shared(f"sqlite:///{folder / 'study.db'}", "s", trials), objective, worker)
"""


def _caviar() -> Iterator[tuple[Any, ...]]:
    """Two processes on one study: all that they finish is kept, and nothing is drawn twice."""
    space = {"x": {"key": "x", "low": 0.0, "high": 1.0}}
    made = Settings({}, space, 1, "dev_loss", 0, "random", "none", rounds=1, size=TRIALS, best=2)
    with tempfile.TemporaryDirectory() as folder:
        shared = Shared(f"sqlite:///{Path(folder) / 'study.db'}", "s", TRIALS)
        shared.open(made)
        command = [sys.executable, "-c", WORKER, folder]
        workers = [
            subprocess.Popen([*command, str(i), str(TRIALS)], stdout=subprocess.PIPE, text=True)
            for i in (0, 1)
        ]
        try:
            said = [worker.communicate(timeout=90)[0].splitlines() for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        trials = finished(shared.open())
    case = "two processes on one study"
    kept = {f"{trial.number} {trial.value}" for trial in trials}
    lost = sum(line not in kept for lines in said for line in lines)
    yield case, "finished trials lost", lost, "none"
    yield case, "trials missing", max(0, TRIALS - len(trials)), "as many as are wanted"
    values = [trial.params["x"] for trial in trials]
    yield case, "drawn twice", len(values) - len(set(values)), "none"
    note = " and ".join(str(len(lines)) for lines in said)
    yield case, "workers without a trial", sum(not lines for lines in said), "none", 0.0, note
    yield case, "workers that failed", sum(worker.returncode != 0 for worker in workers), "none"


PATIENCE = 2


def _stopped() -> Iterator[tuple[Any, ...]]:
    from lightning_modules.cli import main

    with tempfile.TemporaryDirectory() as folder:
        args = ["fit", "--config", "mlp", "--model.net.hidden", "[16]", "--model.net.dropout", "0"]
        args += ["--model.optimizer.lr", "0.05", "--trainer.default_root_dir", folder]
        args += ["--early_stopping.patience", str(PATIENCE), "--read_test", "false"]
        with contextlib.redirect_stdout(io.StringIO()):
            summary = main([*args, "--trainer.enable_progress_bar", "false"]).summary
        assert summary is not None
        metrics = pd.read_csv(Path(summary.files[0]).parent / "metrics.csv")
        kept = torch.load(summary.checkpoint, map_location="cpu", weights_only=True)
    epochs = metrics.dropna(subset=["dev_loss"]).groupby("epoch").last()
    losses = epochs["dev_loss"].to_numpy()
    best = int(losses.argmin())
    case = f"mlp, patience {PATIENCE}"
    off = abs(len(losses) - (best + 1 + PATIENCE))
    note = f"the best of {len(losses)} is epoch {best + 1}"
    yield case, "epochs", off, "the best, and patience", 0.0, note
    yield case, "epoch kept", abs(kept["epoch"] - best), "least dev loss"
    off = abs(summary.dev_accuracy - epochs["dev_acc"].iloc[best])
    yield case, "dev accuracy", off, "that epoch's", 1e-6
    # without a training that stops there is nothing to see
    yield case, "stopped early", float(len(losses) >= 40), "before the last epoch"
