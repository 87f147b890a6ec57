r"""How it is searched: at random, never on a grid, and coarse to fine.

A first round draws from the whole space. Each further round draws from a box around the best trials
so far, in log units where the scale is log. Of k values that are uniform over a range of width w,
smallest and largest are $w (k-1)/(k+1)$ apart on average: widened by one mean gap on either side,
the box of a hyperparameter that does not matter keeps the width that it had, and only one that
matters shrinks.

Trial n is drawn by a generator of its own, seeded by (seed, n): however many workers share a study,
whichever is killed or resumed, no two trials are the same draw, and a study can be repeated.

Source: lecture, "Searching scheme": random (don't use grid), coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

Box = dict[str, list[Any]]  # [low, high] of a number, all choices that are left of a choice
BOX = "box of round {}"  # the attribute of a study that keeps it


def stream(*key: int) -> int:
    """Return a seed for this key, which shares no draws with that of another.

    Example:
        >>> stream(0, 1) == stream(0, 1) != stream(1, 0)
        True
    """
    return int(np.random.SeedSequence(key).generate_state(1)[0])


class CoarseToFine(BaseSampler):
    """Random search in rounds of ever smaller boxes.

    The box of a round is decided by the first trial of it and kept in the study, so that all
    workers, and whoever resumes, draw from the same.

    Args:
        seed: of all draws.
        rounds: how many; 1 is plain random search.
        size: trials in each of them; the last one goes on as long as trials are wanted.
        best: k, how many of the best trials a box is put around; at least 2.

    Example:
        >>> import optuna
        >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
        >>> study = optuna.create_study(sampler=CoarseToFine(seed=0, rounds=3, size=20, best=5))
        >>> def distance(trial):
        ...     return abs(math.log10(trial.suggest_float("α", 1e-4, 1, log=True) / 0.01))
        >>> study.optimize(distance, n_trials=60)
        >>> low, high = study.user_attrs["box of round 2"]["α"]
        >>> 1e-4 < low < 0.01 < high < 1
        True
    """

    def __init__(self, seed: int, rounds: int, size: int, best: int) -> None:
        for name, value, least in (("rounds", rounds, 1), ("size", size, 1), ("best", best, 2)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.seed, self.rounds, self.size, self.best = seed, rounds, size, best
        self._random = RandomSampler(seed=0)
        self._box: Box = {}

    def round_of(self, number: int) -> int:
        """Return the round that a trial belongs to, from 0."""
        return min(number // self.size, self.rounds - 1)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take the trial's own generator and the box of its round."""
        self._random = RandomSampler(seed=stream(self.seed, trial.number))
        self._box = self.box(study, self.round_of(trial.number))

    def box(self, study: Study, number: int) -> Box:
        """Return the box of a round; an empty one is the whole space."""
        if number == 0:
            return {}
        kept: Box | None = study.user_attrs.get(BOX.format(number))
        if kept is None:
            kept = self.box(study, number - 1)
            done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if len(done) >= 2:  # all others failed or were pruned: stay where we are
                kept = shrunk(sorted(done, key=_value)[: self.best], kept)
                study.set_user_attr(BOX.format(number), kept)
        return kept

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Draw every hyperparameter by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw every hyperparameter by itself."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one hyperparameter from its side of the box."""
        side = narrowed(param_distribution, self._box.get(param_name))
        return self._random.sample_independent(study, trial, param_name, side)


def shrunk(best: Sequence[FrozenTrial], before: Box) -> Box:
    """Return the box around the best trials, widened by their mean gap, inside the one before.

    Args:
        best: two trials or more.
        before: the box that they were drawn from; what it lacks is as wide as can be.

    Example:
        >>> from optuna.trial import create_trial
        >>> space = {"α": FloatDistribution(1e-4, 1.0, log=True)}
        >>> trials = [create_trial(params={"α": a}, distributions=space, value=0.0)
        ...           for a in (0.001, 0.01, 0.1)]
        >>> [f"{end:.4g}" for end in shrunk(trials, {})["α"]]  # log10: -3, -2, -1, and one gap
        ['0.0001', '1']
    """
    box: Box = {}
    for name, side in best[0].distributions.items():
        values = [trial.params[name] for trial in best if name in trial.params]
        if isinstance(side, CategoricalDistribution):
            left = before.get(name, list(side.choices))
            box[name] = [choice for choice in left if choice in values] or left
        elif isinstance(side, FloatDistribution | IntDistribution):
            box[name] = _around(values, side, before.get(name, [side.low, side.high]))
    return box


def _around(
    values: Sequence[float], side: FloatDistribution | IntDistribution, before: list[Any]
) -> list[Any]:
    to: Callable[[float], float] = math.log10 if side.log else float
    ends = to(min(values)), to(max(values))
    gap = (ends[1] - ends[0]) / max(len(values) - 1, 1)
    low, high = ((10**end if side.log else end) for end in (ends[0] - gap, ends[1] + gap))
    if isinstance(side, IntDistribution):
        low, high = math.floor(low), math.ceil(high)
    return [max(low, before[0]), min(high, before[1])]


def narrowed(side: BaseDistribution, to: list[Any] | None) -> BaseDistribution:
    """Return a distribution of the same kind over part of the range."""
    if to is None:
        return side
    if isinstance(side, CategoricalDistribution):
        return CategoricalDistribution(to)
    if isinstance(side, IntDistribution):
        return IntDistribution(to[0], to[1], log=side.log)
    if isinstance(side, FloatDistribution):
        return FloatDistribution(to[0], to[1], log=side.log)
    return side


def _value(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value
