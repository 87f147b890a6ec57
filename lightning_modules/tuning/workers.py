"""Caviar: many models in parallel, by processes on one shared study, on one machine or several.

The study lives in a database: an SQLite file, or any that SQLAlchemy knows by its URL. While a
trial runs, its worker leaves a sign of life in it; if that stays out, another worker marks the
trial as failed and the same hyperparameters are tried again. Finished trials are in the database as
soon as they are finished.

Source: lecture, "Training many models in parallel".
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from lightning_modules.tuning.objective import Settings, Training
from lightning_modules.tuning.search import CoarseToFine, stream

RETRIES = 3  # a trial that kills its worker each time is given up at last
ALL_FAILED = 3  # so many failures and nothing else: it is not the trials that are wrong
MERCY = 10  # seconds that a worker has to end by itself when its parent was stopped or killed
# It is told so often: Python drops an exception from the callback of a weak reference, and an
# import of torch runs thousands of those.
TELLINGS = 2
GRACE = 6  # signs of life that may be missing before a trial is given to somebody else


@dataclass(frozen=True)
class Shared:
    """Where a study is, and how it is worked on.

    Args:
        url: of the database.
        name: of the study.
        trials: how many finished trials are wanted, pruned ones and failed ones included.
        heartbeat: seconds between two signs of life.
    """

    url: str
    name: str
    trials: int
    heartbeat: int = 5

    def open(self, settings: Settings | None = None) -> Study:
        """Return the study; with settings, make it if it isn't there.

        Raises:
            KeyError: there is no such study, and no settings are given.
            ValueError: there is one, and it has other settings.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        if settings is None:
            return optuna.load_study(study_name=self.name, storage=self._storage())
        study = optuna.create_study(
            study_name=self.name, storage=self._storage(), load_if_exists=True
        )
        if not (kept := study.user_attrs.get("settings")):
            study.set_user_attr("settings", asdict(settings))
        elif differing := sorted(
            name
            for name, value in asdict(settings).items()
            # A study that is given more trials keeps the size of its rounds.
            if name != "size" and kept[name] != value
        ):
            raise ValueError(
                f"the study {self.name} was made with another {', '.join(differing)}: give another "
                "--study, or --resume, which keeps to what it was made with"
            )
        return study

    def _storage(self) -> RDBStorage:
        sqlite = self.url.startswith("sqlite")
        with _experimental():
            return RDBStorage(
                self.url,
                # Many writers take turns at one file: on a busy machine that takes seconds.
                engine_kwargs={"connect_args": {"timeout": 60}} if sqlite else {},
                heartbeat_interval=self.heartbeat,
                grace_period=GRACE * self.heartbeat,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES),
            )


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    # Heartbeats are what keeps killed trials from being lost; Optuna calls them experimental.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def settings_of(study: Study) -> Settings:
    """Return the settings that a study was made with."""
    return Settings(**study.user_attrs["settings"])


def is_finished(trial: FrozenTrial) -> bool:
    """Tell whether a trial counts: complete, pruned, or failed by itself, not with its worker."""
    failed = trial.state == TrialState.FAIL and "error" in trial.user_attrs
    return failed or trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def finished(study: Study) -> list[FrozenTrial]:
    """Return the trials that count."""
    return [trial for trial in study.get_trials(deepcopy=False) if is_finished(trial)]


def hopeless(study: Study) -> str:
    """Return the error if the first trials failed, all of them; else an empty string."""
    done = finished(study)
    if len(done) < ALL_FAILED or any(trial.state != TrialState.FAIL for trial in done):
        return ""
    return str(done[-1].user_attrs["error"])


def sampler(settings: Settings, worker: int, trials: int) -> BaseSampler:
    """Return a worker's sampler.

    The random one draws by the number of a trial. TPE has one stream of random numbers, which is
    another for each worker, and for each time that it starts anew.
    """
    if settings.sampler == "tpe":
        with _experimental():
            return TPESampler(seed=stream(settings.seed, worker, trials), constant_liar=True)
    return CoarseToFine(settings.seed, settings.rounds, settings.size, settings.best)


def pruner(settings: Settings) -> BasePruner:
    """Return Optuna's pruner: worse than the median of earlier trials at the same epoch."""
    if settings.pruner == "none":
        return NopPruner()
    return MedianPruner(n_startup_trials=5, n_warmup_steps=2)


def work(shared: Shared, objective: Callable[[Trial], float], worker: int = 0) -> None:
    """Run trials until there are as many as are wanted.

    At the end it waits for the trials of other workers, to take over from one that dies.

    Args:
        shared: the study, which exists.
        objective: from a trial to what is minimized.
        worker: number of this worker, from 0; seeds TPE.

    Raises:
        KeyboardInterrupt: the trial that was running will be tried again.
    """
    study = shared.open()
    settings = settings_of(study)
    study.sampler = sampler(settings, worker, len(study.get_trials(deepcopy=False)))
    study.pruner = pruner(settings)
    running: list[int] = []

    def attempt(trial: Trial) -> float:
        running[:] = [trial.number]
        if isinstance(study.sampler, CoarseToFine):
            trial.set_user_attr("round", study.sampler.round_of(trial.number))
        try:
            return objective(trial)
        except TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            raise

    try:
        while not hopeless(study):
            states = Counter(trial.state for trial in study.get_trials(deepcopy=False))
            done = len(finished(study))
            if done >= shared.trials:
                return
            if done + states[TrialState.RUNNING] < shared.trials or states[TrialState.WAITING]:
                study.optimize(attempt, n_trials=1, catch=(Exception,))
            else:
                time.sleep(min(1, shared.heartbeat / 4))
                with _experimental():
                    optuna.storages.fail_stale_trials(study)
    except KeyboardInterrupt:
        for number in running:
            trial = study.get_trials(deepcopy=False)[number]
            if trial.state == TrialState.FAIL and not is_finished(trial):
                _again(study, trial)
        raise


def _again(study: Study, trial: FrozenTrial) -> None:
    # Not a retry that counts: the trial is not to blame.
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.WAITING, params=trial.params, distributions=trial.distributions
        )
    )


def _end_with_parent() -> None:
    """Take the parent's end, killed ones' too, for the SIGTERM that it can't send any more.

    If nothing helps there is no mercy, and the trial, which has no heartbeat any more, is retried
    by whoever goes on.
    """
    if parent := multiprocessing.parent_process():

        def wait() -> None:
            parent.join()
            for _ in range(TELLINGS):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(MERCY / TELLINGS)
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait, daemon=True).start()


def _process(shared: Shared, folder: Path, worker: int) -> None:
    """Be a worker process: SIGINT is for the parent, which sends SIGTERM to its workers."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _end_with_parent()
    settings = settings_of(shared.open())
    with contextlib.suppress(KeyboardInterrupt):
        work(shared, Training(settings, folder), worker)


def run_workers(
    shared: Shared, folder: Path, workers: int, watch: Callable[[], None], every: float = 0.5
) -> bool:
    """Start worker processes and wait for them; a worker that is killed is replaced.

    Args:
        shared: the study, which exists.
        folder: of the study.
        workers: how many processes.
        watch: called every so often.
        every: seconds between two calls.

    Returns:
        False if it was interrupted, by SIGINT or SIGTERM.
    """
    context = multiprocessing.get_context("spawn")

    def start(worker: int) -> BaseProcess:
        # What is ignored here is ignored there, from the first moment on.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process = context.Process(target=_process, args=(shared, folder, worker))
            process.start()
        finally:
            signal.signal(signal.SIGINT, before)
        return process

    with _one_thread():
        processes = [start(worker) for worker in range(workers)]
        replaced = 0
        terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while True:
                for i, process in enumerate(processes):
                    killed = not process.is_alive() and (process.exitcode or 0) < 0
                    if killed and replaced < workers * (RETRIES + 1):
                        replaced += 1
                        processes[i] = start(workers + replaced)
                if not any(process.is_alive() for process in processes):
                    break
                watch()
                time.sleep(every)
        except KeyboardInterrupt:
            for _ in range(TELLINGS):
                for process in processes:
                    process.terminate()
                end = time.monotonic() + MERCY / TELLINGS
                for process in processes:
                    process.join(max(0, end - time.monotonic()))
            for process in processes:
                process.kill()  # it would go on to the end
                process.join()
            return False
        finally:
            signal.signal(signal.SIGTERM, terminated)
    watch()
    return True


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # Read by the libraries of a worker when they are loaded: as many threads as there are workers.
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def ranked(study: Study) -> list[FrozenTrial]:
    """Return the complete trials, the best one first."""
    done: list[Any] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda t: (math.inf if t.value is None else t.value, t.number))
