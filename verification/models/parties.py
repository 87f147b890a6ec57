"""The models that run in lockstep, and what all comparisons of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from verification.models.findings import BUFFER, PARAMETER, Finding
from verification.models.judging import BITWISE, Judged, crash, gap, judge, size
from verification.models.matching import ROOT, Matching, Names
from verification.models.recording import Call, Gradients, Party, State, Step, WrongLoss
from verification.models.trees import nudged
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE


@dataclass
class Lockstep:
    """Two models, and the reference once more for its response to ±1 ulp.

    Attributes:
        matching: what answers to what.
        candidate: the model in question.
        reference: the one that it should equal.
        other: a second copy of that.
        seed: of all that is drawn.
        left_out: what turned out not to be comparable; an ordered set.
    """

    matching: Matching
    candidate: Party
    reference: Party
    other: Party
    seed: int = 0
    left_out: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def initial(self) -> Iterator[Finding]:
        """Compare the parameters and buffers, bit by bit."""
        mine, right = self.candidate.state(), self.reference.state()
        for kind, ours, theirs in (
            (PARAMETER, mine.parameters, right.parameters),
            (BUFFER, mine.buffers, right.buffers),
        ):
            for i, (name, expected) in enumerate(theirs.items()):
                if name in ours:
                    error = gap(ours[name], expected) / size(expected)
                    judged = Judged(error, 0.0, 0.0, BITWISE, ANOTHER if error else AS_GOOD)
                    layer, tensor = self.matching.owner(name)
                    yield Finding(0, (0, i), (kind, layer, f"{tensor} at the start"), judged, 0.0)

    def nudge(self, state: State) -> State:
        """Change everything by ±1 ulp, but for the count of steps, which does not round."""
        parts = (state.parameters, state.buffers, state.optimizer)
        new = State(*(nudged(part, self.random) for part in parts))
        for name, kept in state.optimizer.items():
            counts = {key: value for key, value in kept.items() if getattr(value, "ndim", 0) == 0}
            new.optimizer[name] = {**new.optimizer[name], **counts}
        return new

    def calls(self, found: Step, expected: Step) -> Iterator[tuple[Names, Names, int, list[Call]]]:
        """Yield the layers, which of their calls, and the calls themselves.

        Those are that of the first of the reference's layers, that of its last, and that of the
        candidate's last.
        """
        for ours, theirs in self.matching.layers:
            calls = expected.calls[theirs[0]], expected.calls[theirs[-1]], found.calls[ours[-1]]
            for i, call in enumerate(zip(*calls, strict=False)):
                yield ours, theirs, i, list(call)

    def run(self, party: Party, batch: Any, step: int) -> Step:
        """Run a party's forward and backward.

        Raises:
            Crash: the model raises an error.
        """
        with self._named(party):
            return party.run(batch, self.seed + step)

    def optimize(self, party: Party, gradients: Gradients) -> State:
        """Make a step of a party's optimizer.

        Raises:
            Crash: the optimizer raises an error.
        """
        with self._named(party):
            return party.step(gradients)

    @contextmanager
    def _named(self, party: Party) -> Iterator[None]:
        try:
            yield
        except WrongLoss:
            raise
        except Exception as error:  # anybody's model
            judged = crash(error)
            if party is not self.candidate:
                note = f"the reference: {judged.note}"
                judged = replace(judged, verdict=INCONCLUSIVE, note=note)
            raise Crash(judged) from error


class Crash(Exception):
    """A model or an optimizer raised an error; the argument is a verdict."""

    def __init__(self, judged: Judged) -> None:
        super().__init__(judged.note)
        self.judged = judged


def label(names: Names) -> str:
    """Return the name of a layer for people."""
    return "+".join(names) or ROOT


def output_name(path: str, call: int) -> str:
    """Return the name of an output for people.

    Example:
        >>> output_name("", 0), output_name("logits", 1)
        ('output', 'output logits of call 2')
    """
    return f"output {path}".strip() + (f" of call {call + 1}" if call else "")


def judge_outputs(
    mine: dict[str, Any], right: dict[str, Any], responses: list[dict[str, Any]], call: int
) -> Iterator[tuple[str, Judged]]:
    """Judge all that a layer returns."""
    for path in dict.fromkeys([*right, *mine]):
        others = [response.get(path) for response in responses]
        yield output_name(path, call), judge(mine.get(path), right.get(path), others)
