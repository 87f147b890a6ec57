"""What a check found, and which planted bugs it catches: rows of data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BETTER, AS_GOOD = "better", "as good"
WORSE, ANOTHER, INCONCLUSIVE = "worse", "another function", "inconclusive"
NULL = "null direction"  # listed, not judged
PASSING = (BETTER, AS_GOOD, NULL)


@dataclass(frozen=True)
class Row:
    """One quantity of one case, judged by one rule.

    Attributes:
        subject: the op, optimizer or net.
        case: what it was run on.
        quantity: "output", "grad input", "running_var", "exp_avg", "loss", …
        dtype: what the candidate and the builtin computed in.
        error: the candidate's, relative to the scale of the quantity.
        builtin_error: the builtin's, likewise; NaN where there is no builtin. Of a training run:
            that of the builtin run which was perturbed by 1 ulp.
        bound: the largest error that passes.
        rule: how the bound came about.
        verdict: "better", "as good", "worse", "another function" or "inconclusive"; "null
            direction" where a training run has none to give.
        note: what a reader has to know beside the numbers.
        floor: the noise floor, the oracle's own response to inputs changed by 1 ulp, relative; NaN
            where there is none.
        seed: that of the draw that decided; None where nothing is drawn.
        margin: error of the nearest planted bug over the bound, NaN where no bug shows or where the
            kill matrix is not known.
        nearest: that bug.
        repeat: a command that repeats just this row.
    """

    subject: str
    case: str
    quantity: str
    dtype: str
    error: float
    builtin_error: float
    bound: float
    rule: str
    verdict: str
    note: str = ""
    floor: float = math.nan
    seed: int | None = None
    margin: float = math.nan
    nearest: str = ""
    repeat: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong with the row."""
        return self.verdict in PASSING

    @property
    def used(self) -> float:
        """How much of its bound the error takes up, −1 where there is no number."""
        if math.isnan(self.error) or math.isnan(self.bound):
            return -1.0
        return self.error / self.bound if self.bound else math.inf if self.error else 0.0


@dataclass(frozen=True)
class Kill:
    """What the checks made of a planted bug or a trivial candidate.

    Attributes:
        subject: the op, optimizer, schedule or net that it is planted in.
        bug: what is wrong, in a few words.
        kind: "planted bug" or "trivial candidate".
        profile: "quick", or "full" where the quick checks let it through.
        caught: the failing rows; empty for a survivor.
        gradcheck: whether `torch.autograd.gradcheck` with default settings on a
            default-initialized layer catches it; None where that can't be asked.
        assert_close: likewise for `torch.testing.assert_close` with the builtin.
        note: why a survivor is no bug, if that has been shown.
    """

    subject: str
    bug: str
    kind: str
    profile: str
    caught: list[Row] = field(default_factory=list)
    gradcheck: bool | None = None
    assert_close: bool | None = None
    note: str = ""


@dataclass(frozen=True)
class KillMatrix:
    """Which planted bugs the checks catch under certain settings.

    Attributes:
        settings: hash of cases, seeds, tolerances, sources and versions.
        kills: one for each bug.
    """

    settings: str
    kills: list[Kill] = field(default_factory=list)

    @property
    def survivors(self) -> list[Kill]:
        """The bugs that nothing has caught and that no note explains."""
        return [kill for kill in self.kills if not kill.caught and not kill.note]
