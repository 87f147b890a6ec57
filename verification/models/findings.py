"""What was found, tensor by tensor and step by step, and the report that is made of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from verification.models.judging import Judged
from verification.report import NULL, Report, Row

FORWARD, BUFFER, LOSS = "forward", "buffer", "loss"
GRADIENT, OPTIMIZER, PARAMETER = "gradient", "optimizer state", "parameter"
ATTRIBUTE, OPTION = "attribute", "option"  # of a layer, of an optimizer: no numbers of a run
NULL_DIRECTION = "null direction"  # whatever else it is
NAN = math.nan

Key = tuple[str, str, str]  # kind, layer, tensor
Place = tuple[int, int]  # within a step: what comes first


@dataclass(frozen=True)
class Finding:
    """One tensor of one step.

    Attributes:
        step: counted from 0.
        place: where in the step.
        key: kind, layer and tensor.
        judged: the local error, or that of the run where no local one was measured.
        inherited: the error that came in from elsewhere; NaN where that was not measured.
    """

    step: int
    place: Place
    key: Key
    judged: Judged
    inherited: float = NAN


class Found(dict[Key, tuple[Place, Judged]]):
    """The worst verdict on each tensor of a step."""

    def put(self, key: Key, place: Place, judged: Judged) -> None:
        """Keep the verdict if it is the worst so far."""
        if judged.verdict == NULL:
            key = (NULL_DIRECTION, key[1], quantity(key))
        known = self.get(key)
        if known is None or judged.rank > known[1].rank:
            self[key] = known[0] if known else place, judged

    @property
    def failed(self) -> bool:
        """Whether any is not passed."""
        return any(not judged.passed for _, judged in self.values())


@dataclass(frozen=True)
class FirstDifference:
    """Where two models differ first.

    Attributes:
        step: counted from 0.
        layer: the candidate's name of it.
        tensor: "output", "weight", "running_mean", "exp_avg of weight", …
        kind: "forward", "buffer", "loss", "gradient", "optimizer state" or "parameter"; "attribute"
            for an option of a layer, and "option" for one of the optimizer, that differs where no
            number does.
        local: the relative error that arises there, from the same input; infinite if a tensor is
            missing or of another form.
        bound: the largest that would pass.
        inherited: the error that came in from elsewhere; NaN where that can't be told.
        note: what the numbers don't say.
    """

    step: int
    layer: str
    tensor: str
    kind: str
    local: float
    bound: float
    inherited: float
    note: str = ""

    def __str__(self) -> str:
        """Return a line."""
        where = f"step {self.step}, layer {self.layer}, {quantity((self.kind, '', self.tensor))}"
        if self.kind in (ATTRIBUTE, OPTION):
            return f"{where}: {self.note}"
        note = f"; {self.note}" if self.note else ""
        return (
            f"{where}, local {_number(self.local)} (bound {_number(self.bound)}), "
            f"inherited {_number(self.inherited)}{note}"
        )


@dataclass(frozen=True, repr=False)
class ModelsReport(Report):
    """The rows of a comparison of two models, and what they come to.

    Attributes:
        first_difference: None if there is none.
        unmatched: layers, parameters, buffers and optimizer states of one model that answer to none
            of the other, and layers that can't be run alone.
        null_directions: parameters, or elements of them, whose gradient is nothing but rounding.
    """

    first_difference: FirstDifference | None = None
    unmatched: list[str] = field(default_factory=list)
    null_directions: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Return everything as JSON; infinite and NaN become null."""
        data = json.loads(super().to_json())
        first = None if self.first_difference is None else asdict(self.first_difference)
        first = first and {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in first.items()
        }
        data |= {
            "first_difference": first,
            "unmatched": self.unmatched,
            "null_directions": self.null_directions,
        }
        return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)


def report(
    subject: str, dtype: str, findings: Iterable[Finding], unmatched: Iterable[str]
) -> ModelsReport:
    """Make a row of every tensor: its first failure, or the step that comes closest to the bound.

    Args:
        subject: what the models are.
        dtype: what they compute in.
        findings: of all steps.
        unmatched: what could not be compared.
    """
    ordered = sorted(findings, key=lambda f: (f.step, f.place))
    chosen: dict[Key, Finding] = {}
    for found in ordered:
        known = chosen.get(found.key)
        if known is None or (known.judged.passed and found.judged.rank > known.judged.rank):
            chosen[found.key] = found
    rows = [_row(subject, dtype, found) for found in chosen.values()]
    failed = next((found for found in ordered if not found.judged.passed), None)
    nulls = [f"{layer} {tensor}" for kind, layer, tensor in chosen if kind == NULL_DIRECTION]
    return ModelsReport(
        rows,
        title=subject,
        first_difference=None if failed is None else _first(failed),
        unmatched=list(unmatched),
        null_directions=nulls,
    )


def quantity(key: Key) -> str:
    """Return a tensor's name with its kind.

    Example:
        >>> quantity(("gradient", "0", "weight")), quantity(("forward", "0", "output"))
        ('gradient of weight', 'output')
    """
    kind, _, tensor = key
    if kind in (FORWARD, LOSS, OPTIMIZER, NULL_DIRECTION):
        return tensor
    return f"gradient of {tensor}" if kind == GRADIENT else f"{kind} {tensor}"


def _row(subject: str, dtype: str, found: Finding) -> Row:
    judged = found.judged
    which = "worst at" if judged.passed else "first at"
    inherited = "" if math.isnan(found.inherited) else f"inherited {_number(found.inherited)}"
    note = ", ".join(filter(None, (f"{which} step {found.step}", inherited, judged.note)))
    return Row(
        subject, found.key[1], quantity(found.key), dtype, judged.error, judged.response,
        judged.bound, judged.rule, judged.verdict, note, floor=judged.response,
    )  # fmt: skip


def _first(found: Finding) -> FirstDifference:
    kind, layer, tensor = found.key
    judged = found.judged
    return FirstDifference(
        found.step, layer, tensor, kind, judged.error, judged.bound, found.inherited, judged.note
    )  # fmt: skip


def _number(value: float) -> str:
    return "?" if math.isnan(value) else f"{value:.1e}" if value else "0"
