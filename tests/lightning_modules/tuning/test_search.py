"""Coarse to fine: boxes around the best, in the units of the scale, the same for all workers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, create_trial

from lightning_modules.tuning.search import CoarseToFine, shrunk

optuna.logging.set_verbosity(optuna.logging.WARNING)


def objective(trial: Trial) -> float:
    r = math.log10(trial.suggest_float("α", 1e-5, 1, log=True))
    trial.suggest_float("nothing", 0, 1)
    layers = trial.suggest_int("layers", 1, 9)
    return (r + 3) ** 2 + (layers - 4) ** 2 / 100


def trial(params: dict[str, Any], distributions: dict[str, Any], value: float = 0) -> Any:
    return create_trial(params=params, distributions=distributions, value=value)


def test_boxes_are_in_the_units_of_the_scale() -> None:
    space = {
        "log": FloatDistribution(1e-6, 1, log=True),
        "linear": FloatDistribution(0, 10),
        "whole": IntDistribution(1, 100),
        "choice": CategoricalDistribution([8, 16, 32]),
    }
    rows = [(1e-4, 2.0, 10, 8), (1e-3, 4.0, 20, 32), (1e-2, 3.0, 30, 8)]
    box = shrunk([trial(dict(zip(space, row, strict=True)), space) for row in rows], {})
    assert box["log"] == pytest.approx([1e-5, 1e-1])  # a decade wider on either side
    assert box["linear"] == [1, 5]
    assert box["whole"] == [1, 40]  # 0 is outside
    assert box["choice"] == [8, 32]
    before = {"log": [5e-5, 5e-2], "linear": [2.5, 9.0], "whole": [15, 18], "choice": [8]}
    inside = shrunk([trial(dict(zip(space, row, strict=True)), space) for row in rows], before)
    assert inside == {"log": [5e-5, 5e-2], "linear": [2.5, 5.0], "whole": [15, 18], "choice": [8]}


def test_rounds_close_in_on_what_matters() -> None:
    study = optuna.create_study(sampler=CoarseToFine(seed=3, rounds=3, size=30, best=6))
    study.optimize(objective, n_trials=90)
    decades = [5.0]
    for number in (1, 2):
        box = study.user_attrs[f"box of round {number}"]
        low, high = (math.log10(end) for end in box["α"])
        assert low < -3 < high
        decades.append(high - low)
        drawn = [t.params["α"] for t in study.trials if t.number // 30 == number]
        assert min(drawn) >= box["α"][0]
        assert max(drawn) <= box["α"][1]
        assert len(set(drawn)) == 30
    assert decades[0] > 2 * decades[1] > 2 * decades[2]
    first = min(t.value for t in study.trials if t.number < 30)
    assert study.best_value < first / 2


def test_what_does_not_matter_keeps_its_range_on_average() -> None:
    space = {"x": FloatDistribution(-50, 51)}
    widths = []
    for seed in range(300):
        study = optuna.create_study(sampler=CoarseToFine(seed, rounds=1, size=9, best=2))
        drawn = [trial({"x": study.ask(FIXED).params["x"]}, space) for _ in range(5)]
        low, high = shrunk(drawn, {"x": [-1e9, 1e9]})["x"]
        widths.append(high - low)
    assert sum(widths) / len(widths) == pytest.approx(1, abs=0.05)


FIXED = {"x": FloatDistribution(0, 1)}


def test_a_trial_is_drawn_by_its_number_alone(tmp_path: Path) -> None:
    """Two workers, taking turns or not, draw what one alone draws, and nothing twice."""

    def drawn(workers: int) -> list[dict[str, Any]]:
        url = f"sqlite:///{tmp_path}/{workers}.db"
        optuna.create_study(storage=url, study_name="s")
        for i in range(6):
            mine = CoarseToFine(seed=0, rounds=1, size=6, best=2)  # each anew, as after a kill
            study = optuna.load_study(storage=url, study_name="s", sampler=mine)
            study.optimize(objective, n_trials=1 if i % 2 or workers == 1 else 2)
        return [t.params for t in study.trials]

    alone, together = drawn(1), drawn(2)
    assert together[: len(alone)] == alone
    assert len({t["α"] for t in together}) == len(together)


def test_a_box_is_decided_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=url, sampler=CoarseToFine(0, rounds=2, size=5, best=2))
    study.optimize(objective, n_trials=6)
    box = study.user_attrs["box of round 1"]
    again = optuna.load_study(
        storage=url, study_name=study.study_name, sampler=CoarseToFine(0, 2, 5, 2)
    )
    again.optimize(lambda t: objective(t) - 100, n_trials=4)
    assert again.user_attrs["box of round 1"] == box


def test_without_two_complete_trials_the_space_stays_whole() -> None:
    study = optuna.create_study(sampler=CoarseToFine(0, rounds=2, size=3, best=2))
    assert study.sampler.box(study, 1) == {}  # type: ignore[attr-defined]
    assert "box of round 1" not in study.user_attrs


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"size": 0}, {"best": 1}])
def test_mistakes_are_named(wrong: dict[str, int]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be at least ., got {value}"):
        CoarseToFine(**{"seed": 0, "rounds": 1, "size": 1, "best": 2, **wrong})
