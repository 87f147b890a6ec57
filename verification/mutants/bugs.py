"""All bugs there are, planted or trivial, and the checks that have to notice them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.lecture.averages import average_rows
from verification.lecture.chain import chain_rows
from verification.lecture.checked_gradients import gradient_check_rows
from verification.lecture.gradient_flow import gradient_flow_rows
from verification.lecture.init import init_rows
from verification.lecture.numerical_gradients import numerical_gradient_rows
from verification.lecture.regularization import regularization_rows
from verification.mutants import Mutant, changed, mutants, planted
from verification.mutants.trivial import trivial_op, trivial_optimizer, trivial_schedule
from verification.optimizers.schedules import schedule_rows, schedule_tables
from verification.parts import Part
from verification.plans import make_plan, op_parts, optimizer_parts
from verification.report import Row
from verification.training.loop import SUBJECT as TRAINING
from verification.training.loop import train, training_rows

PLANTED, TRIVIAL, RIGHT = "planted bug", "trivial candidate", "nothing planted"
Candidate = Callable[..., Any]

# Checked as they are, without candidates of anybody else's.
LECTURE: dict[str, Candidate] = {
    "chain": chain_rows,
    "init": init_rows,
    "regularization": regularization_rows,
    "gradient_flow": gradient_flow_rows,
    "numerical_gradients": numerical_gradient_rows,
    "averages": average_rows,
    "gradient_check": gradient_check_rows,
}

# Survivors that have been shown to be no bugs, and why.
EXPLAINED: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Bug:
    """Something that the checks of a subject have to notice.

    Attributes:
        subject: an op, optimizer or schedule, or the training run.
        bug: what is wrong, in a few words.
        kind: "planted bug", "trivial candidate", or "nothing planted": what must pass.
        plant: a context in which the candidate that it gives has the bug.
        whole: whether it goes through all quick checks, so that it is known how far it is from each
            row's bound; else the first that catches it ends them.
    """

    subject: str
    bug: str
    kind: str
    plant: Callable[[], AbstractContextManager[Candidate]]
    whole: bool = True


def subjects() -> list[str]:
    """Return all that bugs are planted in.

    Example:
        >>> subjects()[0], subjects()[-1]
        ('batch_norm', 'training run')
    """
    return [*op_tables(), *optimizer_tables(), *schedule_tables(), *LECTURE, TRAINING]


@cache
def bugs() -> tuple[Bug, ...]:
    """Return all bugs, by subject; the first of each is none."""
    found = []
    text = mutants()
    for subject in subjects():
        found.append(Bug(subject, "", RIGHT, partial(_right, subject)))
        found += [
            Bug(subject, mutant.bug, PLANTED, partial(_planted, mutant), not mutant.compiled)
            for mutant in text
            if mutant.subject == subject
        ]
        found += [
            Bug(subject, bug, TRIVIAL, partial(_trivial, subject, bug), whole=False)
            for bug in _trivials(subject)
        ]
    return tuple(found)


def right(subject: str) -> Candidate:
    """Return refnet's own; of a training run the loop.

    Raises:
        ValueError: there is no such subject.
    """
    if subject == TRAINING:
        return train
    if subject in LECTURE:
        return LECTURE[subject]
    tables: dict[str, Any] = {**op_tables(), **optimizer_tables(), **schedule_tables()}
    if subject not in tables:
        raise ValueError(f"subject must be one of {', '.join(subjects())}, got {subject!r}")
    return tables[subject].candidate  # type: ignore[no-any-return]


def parts_of(subject: str, candidate: Candidate, profile: str) -> list[Part]:
    """Return the checks that anybody's candidate goes through under a profile."""
    plan = make_plan(profile)
    if subject in op_tables():
        return op_parts(candidate, subject, plan)
    if subject in optimizer_tables():
        return optimizer_parts(candidate, subject, plan)
    rows: Callable[[], Iterator[list[Row]]] = partial(training_rows, candidate)
    if subject in LECTURE:
        rows = partial(candidate, quick=profile == "quick")
    if subject in schedule_tables():
        rows = partial(schedule_rows, subject, candidate)
    return [Part(subject, 0, rows)]


def _right(subject: str) -> AbstractContextManager[Candidate]:
    return nullcontext(right(subject))


@contextmanager
def _planted(mutant: Mutant) -> Iterator[Candidate]:
    if mutant.subject == TRAINING:  # the right loop is needed beside it
        yield changed(mutant).train
        return
    with planted(mutant):
        yield right(mutant.subject)


def _trivial(subject: str, bug: str) -> AbstractContextManager[Candidate]:
    return nullcontext(_trivials(subject)[bug])


def _trivials(subject: str) -> dict[str, Candidate]:
    """Make them anew each time: some remember what they were called with."""
    for tables, make in (
        (op_tables(), trivial_op),
        (optimizer_tables(), trivial_optimizer),
        (schedule_tables(), trivial_schedule),
    ):
        if subject in tables:
            return make(right(subject))  # type: ignore[arg-type]
    return {}
