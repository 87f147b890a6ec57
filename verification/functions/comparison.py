"""Compare two parties on samples of arguments, with a third as the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from verification.functions.kinks import only_at_kinks
from verification.functions.own_gradients import second_by_quotients
from verification.functions.parties import Outcome, Party, differences, run
from verification.limits import time_limit as limited
from verification.ops.arguments import Arguments, Setting, as_real, is_float
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, PASSING, Row
from verification.tensors import short, to_numpy
from verification.tolerance import (
    DRAWS,
    Judgement,
    Sample,
    distance,
    same_algorithm,
    same_bits,
    same_precision,
    size_of,
)

NO_DERIVATIVE = "no derivative here"


@dataclass(frozen=True)
class Draw:
    """What the parties left of one sample under one seed."""

    arguments: Arguments
    setting: Setting
    candidate: Outcome
    reference: Outcome
    oracle: Outcome
    responses: list[Outcome]


@dataclass(frozen=True)
class Comparison:
    """Three parties, and what they are asked.

    Attributes:
        subject: what to call the candidate.
        candidate: in question.
        reference: what it is compared with.
        oracle: what is right, when run in float64; the reference if None.
        dtypes: tested.
        seeds: of the draws.
        device: where.
        bitwise: whether the reference's bits are due.
        second: whether second derivatives are compared.
        time_limit: seconds for a call of the candidate.
    """

    subject: str
    candidate: Party
    reference: Party
    oracle: Party | None
    dtypes: Sequence[torch.dtype]
    seeds: Sequence[int]
    device: torch.device
    bitwise: bool
    second: bool
    time_limit: float | None

    def rows(
        self, case: str, draw: Callable[[int], Arguments], gradients: bool = True
    ) -> list[Row]:
        """Return the rows of a case: in each dtype, then second derivatives, then layouts.

        Args:
            case: its name.
            draw: gives the arguments for a seed.
            gradients: whether there are any to compare.
        """
        settings = [replace(s, gradients=gradients) for s in self.settings()]
        first = settings[0]
        rows = [row for setting in settings for row in self._compare(case, draw, setting)]
        if gradients and self.second and torch.float64 in self.dtypes:
            rows += self._compare_second(case, draw, replace(first, dtype=torch.float64))
        if gradients and any(row.rule != "runs" for row in rows):
            rows += self._compare(f"{case}, not contiguous", draw, replace(first, sliced=True))
        return rows

    def settings(self) -> list[Setting]:
        """Return a setting for each dtype, with the first of the seeds."""
        return [Setting(dtype, self.device, self.seeds[0]) for dtype in self.dtypes]

    def _compare(
        self, case: str, draw: Callable[[int], Arguments], setting: Setting, second: bool = False
    ) -> list[Row]:
        """Run the parties under every seed and judge each quantity."""
        draws: list[Draw] = []
        for seed in self.seeds[:1] if setting.sliced else self.seeds:
            here, arguments = replace(setting, seed=seed), draw(seed)
            try:
                arguments = self._with_written(arguments, here)
                reference = run(self.reference, arguments, here, second=second)
                oracle = self._oracle(arguments, here, reference, second)
                responses = [
                    self._oracle(arguments, here, reference, second, i) for i in range(DRAWS)
                ]
            except Exception as error:
                if setting.sliced:  # the reference takes no such arguments
                    return []
                who = "the reference" if self.oracle is None else "the reference or the oracle"
                note = f"{who} raises {said(error)}"
                return [self.row(case, "-", here, INCONCLUSIVE, note)]
            try:
                with limited(self.time_limit):
                    candidate = run(self.candidate, arguments, here, second=second)
            except (Exception, SystemExit) as error:
                return [self.row(case, "-", here, ANOTHER, said(error))]
            wrong = [
                self.row(case, quantity, here, ANOTHER, note)
                for quantity, note in differences(candidate, reference, arguments.written)
            ]
            if wrong:
                return wrong
            draws.append(Draw(arguments, here, candidate, reference, oracle, responses))
        rows = list(self._judged(case, draws))
        if not second:
            rows += [
                self.row(case, name, setting, AS_GOOD, rule="equal", error=0.0)
                for name in (*draws[0].reference.others, "random state")
            ]
        if len(rows) == 1 and not second:
            rows.append(self.row(case, "-", setting, INCONCLUSIVE, "nothing to compare"))
        return rows

    def _with_written(self, arguments: Arguments, setting: Setting) -> Arguments:
        """Find out which arguments the reference writes over: those are not differentiated."""
        found = run(self.reference, arguments, replace(setting, gradients=False))
        return replace(arguments, written=found.changed)

    def _oracle(
        self,
        arguments: Arguments,
        setting: Setting,
        reference: Outcome,
        second: bool,
        response: int | None = None,
    ) -> Outcome:
        """Run the oracle in float64; what it lacks, as gradients, is the reference's."""

        def exact(party: Party) -> Outcome:
            rng = None if response is None else np.random.default_rng([setting.seed, response])
            return run(party, arguments, setting, exact=True, second=second, rng=rng)

        if self.oracle is None:
            return exact(self.reference)
        found = exact(self.oracle)
        left = {f"{name} afterwards" for name in arguments.written - found.changed}
        values = {n: v for n, v in found.values.items() if n not in left}
        for name, value in reference.values.items():
            if name in values and values[name].shape != value.shape:
                shapes = f"{(*values[name].shape,)}, the reference's {(*value.shape,)}"
                raise ValueError(f"{name} of the oracle has the shape {shapes}")
        if not set(reference.values) <= set(values):
            values = exact(self.reference).values | values
        return replace(found, values=values)

    def row(
        self,
        case: str,
        quantity: str,
        setting: Setting,
        verdict: str,
        note: str = "",
        rule: str = "runs",
        error: float = math.nan,
    ) -> Row:
        """Return a row about something else than numbers."""
        return Row(self.subject, case, quantity, short(setting.dtype), error, math.nan, math.nan,
                   rule, verdict, note, seed=setting.seed)  # fmt: skip

    def _judged(self, case: str, draws: list[Draw]) -> Iterator[Row]:
        dtype = draws[0].setting.dtype
        for quantity, like in draws[0].reference.values.items():
            here = [d for d in draws if quantity in d.reference.values]
            samples = [_sample(d, quantity) for d in here]
            for judged in self._judge(samples, like, dtype):
                judged = self._softened(judged, quantity, here, samples)
                if self.oracle is None and is_float(like):
                    judged = replace(judged, rule=f"{judged.rule}, reference in float64")
                seed = None if judged.seed is None else here[judged.seed].setting.seed
                judged = replace(judged, seed=seed)
                yield Row(self.subject, case, quantity, short(dtype), **vars(judged))

    def _judge(
        self, samples: list[Sample], like: torch.Tensor, dtype: torch.dtype
    ) -> Iterator[Judgement]:
        if self.bitwise or not is_float(like):
            yield same_bits(samples)
        if not is_float(like):
            return
        eps = max(torch.finfo(like.dtype).eps, torch.finfo(dtype).eps)
        if eps == torch.finfo(torch.float64).eps:
            yield same_algorithm(samples)
        else:
            yield same_precision(samples, eps)

    def _softened(
        self, judged: Judgement, quantity: str, draws: list[Draw], samples: list[Sample]
    ) -> Judgement:
        """Take a verdict back where there is none to give."""
        if judged.verdict in PASSING:
            return judged
        if judged.verdict == INCONCLUSIVE and same_bits(samples).verdict == AS_GOOD:
            return replace(judged, verdict=AS_GOOD, note="the reference's very bits")
        if not is_float(draws[0].reference.values[quantity]):  # such as an argmax
            off = [s for s in samples if distance(s.candidate, s.oracle)]
            if all(any(distance(r, s.oracle) for r in s.responses) for s in off):
                return replace(judged, verdict=INCONCLUSIVE, note="a last bit of an input decides")
            return judged
        kinks, party = [], self.oracle or self.reference
        for draw, s in zip(draws, samples, strict=True):
            least = 16 * torch.finfo(draw.setting.dtype).eps  # where the bound is no bound
            limit = min(judged.bound, least if judged.verdict == INCONCLUSIVE else math.inf)
            limit *= size_of(s.oracle) or 1.0
            if s.candidate.shape == s.oracle.shape and distance(s.candidate, s.oracle) > limit:
                gap = np.abs(s.candidate - s.oracle)
                kinks.append(
                    only_at_kinks(party, draw.arguments, draw.setting, quantity, gap, limit)
                )
        if kinks and all(kinks):
            return replace(judged, verdict=INCONCLUSIVE, note=NO_DERIVATIVE)
        return judged

    def _compare_second(
        self, case: str, draw: Callable[[int], Arguments], setting: Setting
    ) -> list[Row]:
        """Compare second derivatives, with difference quotients if the reference has none."""
        arguments = draw(setting.seed)
        try:
            arguments = self._with_written(arguments, setting)
            run(self.reference, arguments, setting)
        except Exception:  # it has a row already
            return []
        if not any(map(arguments.differentiated, arguments.values)):
            return []
        try:
            run(self.reference, arguments, setting, second=True)
        except Exception:
            return self._own_quotients(self.candidate, case, arguments, setting)
        rows = self._compare(case, draw, setting, second=True)
        if all(row.passed for row in rows):
            return rows
        # torch's once_differentiable leaves zeros without a word
        own = self._own_quotients(self.reference, case, arguments, setting)
        if all(row.verdict != ANOTHER for row in own):
            return rows
        return self._own_quotients(self.candidate, case, arguments, setting)

    def _own_quotients(
        self, party: Party, case: str, arguments: Arguments, setting: Setting
    ) -> list[Row]:
        """Compare a party's second derivatives with quotients of its own gradients."""
        rows = []
        try:
            with limited(self.time_limit):
                found = second_by_quotients(party, arguments, setting)
        except (Exception, SystemExit) as error:
            return [self.row(case, "-", setting, ANOTHER, said(error))]
        for quantity, gap, bound in found:
            verdict, note = AS_GOOD if gap <= bound else ANOTHER, ""
            if bound > 1e-3:
                verdict, note = INCONCLUSIVE, NO_DERIVATIVE
            rows.append(
                Row(self.subject, case, quantity, "float64", gap, math.nan, bound,
                    "own difference quotient", verdict, note, seed=setting.seed)
            )  # fmt: skip
        return rows


def _sample(draw: Draw, quantity: str) -> Sample:
    return Sample(
        candidate=_array(draw.candidate.values[quantity]),
        builtin=_array(draw.reference.values[quantity]),
        oracle=_array(draw.oracle.values[quantity]).astype(np.longdouble),
        responses=[_array(r.values[quantity]).astype(np.longdouble) for r in draw.responses],
        scale=_terms(draw) if quantity.startswith("second ") else None,
    )


def _terms(draw: Draw) -> float:
    """Return the size of g from ⟨v, g⟩: second derivatives may be small by cancellation."""
    arguments = draw.arguments
    chosen = filter(arguments.differentiated, arguments.values)
    count = sum(arguments.values[name].numel() for name in chosen)
    return abs(draw.oracle.projection) / math.sqrt(max(count, 1))


def _array(tensor: torch.Tensor) -> Any:
    return to_numpy(as_real(tensor))


def said(error: BaseException) -> str:
    """Return an exception in a line."""
    lines = f"{type(error).__name__}: {error}".splitlines()
    return lines[0][:300]
