"""Many workers on one study: what a kill costs, and what an interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from lightning_modules.tuning.objective import Settings
from lightning_modules.tuning.workers import Shared, finished, hopeless, work

SPACE = {"x": {"key": "x", "low": 0.0, "high": 1.0}}
SETTINGS = Settings({}, SPACE, 1, "dev_loss", 0, "random", "none", rounds=1, size=9, best=2)
COMPLETE, FAIL, RUNNING = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    made = Shared(f"sqlite:///{tmp_path}/study.db", "s", trials=5, heartbeat=1)
    made.open(SETTINGS)
    return made


def quick(trial: Trial) -> float:
    return trial.suggest_float("x", 0, 1)


WORKER = """
import sys, time
from pathlib import Path
from lightning_modules.tuning.workers import Shared, work

url, worker, gate = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
calls = []

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    trial.set_user_attr("worker", worker)
    calls.append(x)
    while len(calls) > 1 and not (worker == 1 and gate.exists()):
        time.sleep(0.05)  # worker 0 never comes out of its second trial
    return x

work(Shared(url, "s", trials=5, heartbeat=1), objective, worker)
"""


def test_a_killed_worker_loses_no_finished_trial_and_its_trial_is_tried_again(
    shared: Shared, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    started = [
        subprocess.Popen([sys.executable, "-c", WORKER, shared.url, str(worker), str(gate)])
        for worker in (0, 1)
    ]
    study = shared.open()
    try:
        _until(lambda: Counter(_where(t) for t in study.trials) == BEFORE)
        kept = [t for t in study.trials if t.state == COMPLETE]
        started[0].send_signal(signal.SIGKILL)
        gate.touch()
        assert started[1].wait(timeout=60) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
    after = study.trials
    assert all(t in after for t in kept)
    (lost,) = [t for t in after if t.state == FAIL]
    assert lost.user_attrs["worker"] == 0
    done = [t for t in after if t.state == COMPLETE]
    assert len(done) == len(after) - 1 == 5
    assert [t.user_attrs["worker"] for t in done if t.params == lost.params] == [1]
    assert len({t.params["x"] for t in done}) == 5  # nothing was drawn twice


PARENT = """
import multiprocessing, signal, sys, time
from pathlib import Path
from lightning_modules.tuning import workers

def work(shared, objective, worker):
    Path(sys.argv[1]).touch()
    try:
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        Path(sys.argv[1]).write_text("interrupted")
        raise

workers.work, workers.settings_of = work, lambda study: None

class Shared:
    def open(self):
        return None

if __name__ == "__main__":
    workers.run_workers(Shared(), Path("."), 1, lambda: None)
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script, note = tmp_path / "parent.py", tmp_path / "note"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, script, note], env=environment)
    try:
        _until(note.exists)
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: note.read_text() == "interrupted", seconds=20)


# Python drops an exception from the callback of a weak reference.
DROP_ONE = """
def drop_one():
    import weakref

    def wait(reference):
        time.sleep(60)

    class Anything:
        pass

    anything = Anything()
    reference = weakref.ref(anything, wait)
    del anything
"""
DROPPED = "    drop_one()\n    try:\n"
SWALLOWED = "        time.sleep(60)\n"


@pytest.mark.parametrize(
    ("line", "instead"), [("    try:\n", DROPPED), ("        raise\n", SWALLOWED)]
)
def test_a_worker_is_told_again_to_stop_and_killed_in_the_end(
    tmp_path: Path, line: str, instead: str
) -> None:
    script, note = tmp_path / "parent.py", tmp_path / "note"
    assert PARENT.count(line) == 1
    quickly = PARENT.replace("workers.work,", "workers.MERCY = 4\nworkers.work,")
    script.write_text(DROP_ONE + quickly.replace(line, instead))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, script, note], env=environment)
    try:
        _until(note.exists)
        parent.send_signal(signal.SIGTERM)
        assert parent.wait(timeout=20) == 0
        assert note.read_text() == "interrupted"
    finally:
        parent.kill()
        parent.wait()


BEFORE = Counter({(COMPLETE, 0): 1, (COMPLETE, 1): 1, (RUNNING, 0): 1, (RUNNING, 1): 1})


def _where(trial: FrozenTrial) -> tuple[TrialState, int | None]:
    return trial.state, trial.user_attrs.get("worker")


def _until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def test_an_interrupted_trial_is_tried_again(shared: Shared) -> None:
    def interrupted(trial: Trial) -> float:
        if trial.number == 2:
            quick(trial)
            raise KeyboardInterrupt
        return quick(trial)

    with pytest.raises(KeyboardInterrupt):
        work(shared, interrupted)
    study = shared.open()
    assert [t.state for t in study.trials] == [COMPLETE, COMPLETE, FAIL, TrialState.WAITING]
    work(shared, quick)
    assert [t.state for t in study.trials] == [COMPLETE, COMPLETE, FAIL] + [COMPLETE] * 3
    assert study.trials[3].params == study.trials[2].params
    work(replace(shared, trials=7), quick)
    assert len(finished(study)) == 7
    work(shared, quick)  # there is nothing left to do
    assert len({t.params["x"] for t in study.trials}) == 7


def test_a_trial_that_fails_counts(shared: Shared) -> None:
    def sometimes(trial: Trial) -> float:
        if trial.number == 1:
            raise ValueError("too large")
        return quick(trial)

    work(shared, sometimes)
    states = [t.state for t in shared.open().trials]
    assert states == [COMPLETE, FAIL, COMPLETE, COMPLETE, COMPLETE]
    assert shared.open().trials[1].user_attrs["error"] == "ValueError: too large"


def test_when_every_trial_fails_it_ends(shared: Shared) -> None:
    def always(trial: Trial) -> float:
        raise ValueError("no data")

    work(shared, always)
    study = shared.open()
    assert len(study.trials) == 3
    assert hopeless(study) == "ValueError: no data"


def test_tpe_workers_draw_apart(tmp_path: Path) -> None:
    shared = Shared(f"sqlite:///{tmp_path}/study.db", "s", trials=4)
    study = shared.open(replace(SETTINGS, sampler="tpe"))
    for worker, trials in ((0, 2), (1, 4), (0, 6)):  # the last one is worker 0, started again
        work(replace(shared, trials=trials), quick, worker)
    assert len({t.params["x"] for t in study.trials}) == 6


def test_other_settings_are_refused(shared: Shared) -> None:
    assert shared.open(replace(SETTINGS, size=3)).user_attrs["settings"]["size"] == 9
    with pytest.raises(ValueError, match="study s was made with another epochs, seed: give"):
        shared.open(replace(SETTINGS, seed=4, epochs=3))
    with pytest.raises(KeyError):
        replace(shared, name="other").open()


def test_threads_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_modules.tuning.workers import _one_thread

    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    with _one_thread():
        assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "1"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    assert "NUMBA_NUM_THREADS" not in os.environ
