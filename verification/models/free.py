"""Free-running: both models train on their own, beside the reference perturbed by 1 ulp."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from verification.models.findings import BUFFER, LOSS, NULL_DIRECTION, PARAMETER, Finding, quantity
from verification.models.judging import BITWISE, Judged, gap
from verification.models.matching import ROOT
from verification.models.parties import Lockstep
from verification.models.recording import Party, Step
from verification.models.trees import largest
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, NULL
from verification.training.lockstep import NOISE, ROUNDING, TIMES, perturb

Tensors = dict[str, Tensor]


class Free(Lockstep):
    """Three runs, and for each element how far the reference's has travelled.

    distance = ‖a − b‖ / ‖Σₜ |bₜ − bₜ₋₁|‖ over the elements that are no null directions; it may be
    ten times the largest that the perturbed run has had so far.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        perturb(self.other.model, self.seed)
        self.parties = [self.candidate, self.reference, self.other]
        self.before = _tensors(self.reference)
        self.travelled = {name: torch.zeros_like(t) for name, t in self.before.items()}
        self.sizes: list[Tensors] = [{} for _ in self.parties]
        self.terms: dict[str, float] = {}  # what buffers are computed from
        self.response: dict[str, float] = {}

    def step(self, number: int, batch: Any) -> Iterator[Finding]:
        """Run a step of all parties and compare where they have come to.

        Raises:
            Crash: one of the models raises an error.
        """
        steps: list[Step] = []
        for party, sizes in zip(self.parties, self.sizes, strict=True):
            steps.append(self.run(party, batch, number))
            self.optimize(party, steps[-1].gradients)
            for name, gradient in steps[-1].gradients.items():
                if gradient is not None:
                    size = gradient.abs()
                    sizes[name] = torch.maximum(sizes.get(name, size), size)
        for name in self.matching.buffers:
            self.terms[name] = max(self.terms.get(name, 0.0), steps[1].terms(name))
        losses = [step.loss for step in steps]
        scale = float(losses[1].abs()) or 1.0
        error, response = (gap(loss, losses[1]) / scale for loss in (losses[0], losses[2]))
        yield Finding(
            number, (0, 0), (LOSS, ROOT, LOSS), self._judge(LOSS, error, response, losses[1])
        )
        mine, right, moved = (_tensors(party) for party in self.parties)
        for i, (name, value) in enumerate(right.items()):
            if name in mine:
                kind = PARAMETER if name in self.matching.parameters else BUFFER
                layer, tensor = self.matching.owner(name)
                for judged in self._tensor(name, mine[name], value, moved[name]):
                    key = (kind, layer, tensor)
                    if judged.verdict == NULL:
                        key = (NULL_DIRECTION, layer, quantity(key))
                    yield Finding(number, (1, i), key, judged)
        self.before = right

    def _tensor(self, name: str, mine: Tensor, right: Tensor, moved: Tensor) -> Iterator[Judged]:
        if not right.is_floating_point() or mine.shape != right.shape:
            error = gap(mine, right)
            yield Judged(error, 0.0, 0.0, BITWISE, ANOTHER if error else AS_GOOD)
            return
        self.travelled[name] += (right - self.before[name]).abs()
        null = self._null(name, right, [mine, right, moved])
        for where in (~null, null):
            if not where.any():
                continue
            way, size = (float(t[where].norm()) for t in (self.travelled[name], right))
            scale = way or size or 1.0
            error, response = (_norm(t[where], right[where]) / scale for t in (mine, moved))
            if where is null:
                note = f"{int(null.sum())} of {null.numel()} elements"
                yield Judged(error, response, math.inf, "not judged", NULL, note)
            else:
                yield self._judge(name, error, response, right, size / scale)

    def _null(self, name: str, like: Tensor, values: list[Tensor]) -> Tensor:
        """Which elements are rounding alone in all runs, and not exact zeros in all.

        Of a parameter that goes by its gradients, of a buffer by itself.
        """
        if name in self.matching.buffers:
            terms, found = self.terms[name], torch.stack(values).abs()
        elif all(name in sizes for sizes in self.sizes):
            terms = largest(self.sizes[1])
            found = torch.stack([sizes[name] for sizes in self.sizes])
        else:
            return torch.zeros_like(like, dtype=torch.bool)
        rounding = max(ROUNDING, 10 * torch.finfo(like.dtype).eps) * terms
        return (found <= rounding).all(0) & (found > 0).any(0)

    def _judge(
        self, name: str, error: float, response: float, like: Tensor, size: float = 1.0
    ) -> Judged:
        """error ≤ 10 · max(the perturbed run's so far, eps of the tensor's size)."""
        response = max(response, self.response.get(name, 0.0))
        self.response[name] = response
        rounding = torch.finfo(like.dtype).eps * size
        bound = TIMES * max(response, rounding)
        rule = f"{TIMES}·{'(1 ulp run)' if response > rounding else 'eps'}"
        failed = ANOTHER if bound < NOISE else INCONCLUSIVE
        verdict = AS_GOOD if error <= bound < NOISE else failed
        return Judged(error, response, bound, rule, verdict)


def _tensors(party: Party) -> Tensors:
    state = party.state()
    return state.parameters | state.buffers


def _norm(value: Tensor, right: Tensor) -> float:
    if math.isinf(gap(value, right)):
        return math.inf
    return float(torch.where(torch.isfinite(right), value - right, 0).norm())
