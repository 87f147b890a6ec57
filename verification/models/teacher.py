"""Teacher-forced: each step begins at the reference's state, and what differs came about in it.

First the whole step of both is compared. At the first step, and wherever something differs, each
layer is also run alone on the reference's input; the optimizer always, on the reference's
gradients. That tells a layer's own, local error from one that it inherits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from verification.models.alone import compare_alone
from verification.models.findings import BUFFER, FORWARD, GRADIENT, LOSS, Finding, Found, Key
from verification.models.judging import (
    BITWISE,
    Judged,
    excess,
    judge,
    judge_beside,
    judge_gradients,
)
from verification.models.matching import ROOT
from verification.models.optimizers import compare_optimizers
from verification.models.parties import Lockstep, judge_outputs, label
from verification.models.recording import Step
from verification.models.trees import nudged
from verification.report import ANOTHER
from verification.tolerance import DRAWS


class Teacher(Lockstep):
    """Two models in lockstep, the candidate led by the reference."""

    def step(self, number: int, batch: Any) -> Iterator[Finding]:
        """Run a step of all parties, which leaves the reference after it.

        Raises:
            Crash: one of the models raises an error.
        """
        start = self.reference.state()
        expected = self.run(self.reference, batch, number)
        after = self.optimize(self.reference, expected.gradients)
        moved, responses = [], []
        for _ in range(DRAWS):
            moved.append(self.nudge(start))
            self.other.load(moved[-1])
            responses.append(self.run(self.other, nudged(batch, self.random), number))
        self.candidate.load(start)
        found = self.run(self.candidate, batch, number)
        whole = self._compare(found, expected, responses)
        alone, inherited = compare_optimizers(self, start, after, moved, found, expected)
        if number == 0 or whole.failed or alone.failed:
            layers, came = compare_alone(self, start, moved, found, expected)
            alone |= layers
            inherited |= came
        self.reference.load(after)
        return _merge(number, whole, alone, inherited)

    def _compare(self, found: Step, expected: Step, responses: list[Step]) -> Found:
        """Compare the whole steps."""
        whole = Found()
        for ours, theirs in self.matching.layers:
            counts = len(found.calls[ours[-1]]), len(expected.calls[theirs[-1]])
            if counts[0] != counts[1]:
                note = f"called {counts[0]} times, the reference's {counts[1]}"
                judged = Judged(math.inf, math.nan, 0.0, BITWISE, ANOTHER, note)
                whole.put((FORWARD, label(ours), "calls"), (1, 0), judged)
        for ours, theirs, i, (_, last, mine) in self.calls(found, expected):
            calls = [step.calls[theirs[-1]][i : i + 1] for step in responses]
            outputs = [call.output for made in calls for call in made]
            for name, judged in judge_outputs(mine.output, last.output, outputs, i):
                whole.put((FORWARD, label(ours), name), (1, last.left), judged)
        for name, right in expected.buffers.items():
            others = [step.buffers[name] for step in responses]
            judged = judge_beside(found.buffers.get(name), right, others, expected.terms(name))
            whole.put((BUFFER, *self.matching.owner(name)), (2, 0), judged)
        judged = judge(found.loss, expected.loss, [step.loss for step in responses])
        whole.put((LOSS, ROOT, LOSS), (3, 0), judged)
        gradients = judge_gradients(
            found.gradients, expected.gradients, [step.gradients for step in responses]
        )
        for name, judged in gradients:
            whole.put((GRADIENT, *self.matching.owner(name)), (4, 0), judged)
        return whole


def _merge(step: int, whole: Found, alone: Found, inherited: dict[Key, float]) -> Iterator[Finding]:
    """Prefer what a layer does alone; the whole step decides where no layer alone is to blame."""
    explained = alone.failed
    for key in dict.fromkeys([*whole, *alone]):
        place, judged = alone.get(key) or whole[key]
        came = inherited.get(key, math.nan)
        if key in whole and key in alone:
            ran = whole[key][1]
            came = inherited.get(key, excess(ran, judged))
            if not ran.passed and not explained:
                judged = ran
        yield Finding(step, place, key, judged, came)
