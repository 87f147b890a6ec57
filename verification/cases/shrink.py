"""The smallest input that still fails in the same way, by hypothesis' shrinking."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase

from verification import limits
from verification.cases.optimizers import OptimizerTable
from verification.cases.pairs import Options, Values
from verification.cases.random_cases import (  # fmt: skip
    Table,
    among,
    as_text,
    case_from_values,
    case_of,
    rows_of,
    space_of,
)
from verification.report import Row

SEEDS = 3  # in float32 one draw alone may fail by chance
EXAMPLES = 500


@dataclass(frozen=True)
class Shrunk:
    """The smallest input that was found.

    Attributes:
        values: the case, as a line that `verification.cases.random_cases.case_from_values` reads.
        row: what fails there.
        command: repeats it.
    """

    values: str
    row: Row
    command: str


def smallest(
    table: Table,
    candidate: Callable[..., Any],
    row: Row,
    *,
    time_limit: float = 20.0,
    name: str = "",
    device: str = "cpu",
) -> Shrunk | None:
    """Search for the simplest values with which a candidate still fails as in a row.

    The same way is the same quantity, dtype and verdict; of a crash, the same exception.

    Args:
        table: the op or optimizer that the candidate is like.
        candidate: what failed.
        row: a failing row of it, of whatever case.
        time_limit: in seconds; when they are over, the smallest so far is returned. A call of the
            candidate is interrupted where `verification.limits` can.
        name: how a command line names the candidate, `package.module:function`.
        device: where it computes.

    Returns:
        None where nothing failed in that way, or not in time.

    Example:
        >>> import torch
        >>> from verification.cases import op_tables
        >>> tanh = op_tables()["tanh"]
        >>> def wrong(x):  # from three rows on
        ...     return torch.tanh(x) * (1 + (len(x) > 2))
        >>> failing = rows_of(tanh, tanh.cases[0], wrong, torch.float64)[0]
        >>> smallest(tanh, wrong, failing).values
        'dims=1 layout=contiguous n=3 channels=1 side=1 scale=1 offset=0'
    """
    dtype = getattr(torch, row.dtype, None)
    if not isinstance(dtype, torch.dtype):
        return None
    deadline = time.monotonic() + time_limit
    asked: dict[str, Row | None] = {}

    def fails(values: Values) -> bool:
        text, left = as_text(values), deadline - time.monotonic()
        if text not in asked:
            if left <= 0:
                raise _TooLate
            with suppress(limits.TimeLimitExceeded), limits.time_limit(left):
                case = case_of(table, values)
                rows = rows_of(table, case, candidate, dtype, seeds=SEEDS, device=device)
                asked[text] = next((found for found in rows if _alike(found, row)), None)
        return asked.get(text) is not None

    whole, below = space_of(table), _below(table, row)
    for space in [whole] if below == whole else [below, whole]:
        # the result is the simplest of all that failed, whether the search came to its end or not
        with suppress(Exception, _TooLate):
            hypothesis.find(among(space), fails, settings=_SETTINGS, random=Random(0))
        failing = {text: found for text, found in asked.items() if found is not None}
        if failing:
            text = min(failing, key=partial(_complexity, table))
            command = _command(table, candidate, name, text, failing[text])
            return Shrunk(text, failing[text], command)
    return None


class _TooLate(KeyboardInterrupt):
    """Ends a search, as no other kind of exception does."""


def _complexity(table: Table, text: str) -> list[int]:
    values = case_from_values(table, text).values
    return [words.index(values[name]) for name, words in space_of(table).values.items()]


_SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def _alike(found: Row, row: Row) -> bool:
    alike = (found.quantity, found.verdict) == (row.quantity, row.verdict)
    return alike and _exception(found) == _exception(row)


def _exception(row: Row) -> str:
    return row.note.partition(":")[0] if row.rule == "runs" else ""


def _below(table: Table, row: Row) -> Options:
    """The part of a table's space in which nothing is less simple than in the row's case."""
    space, start = space_of(table), _values(table, row.case)
    found = {
        name: words[: words.index(start[name]) + 1] if start.get(name) in words else words
        for name, words in space.values.items()
    }
    return replace(space, values=found)


def _values(table: Table, name: str) -> Values:
    for case in table.cases:
        if case.name == name:
            return case.values
    try:
        return case_from_values(table, name).values
    except ValueError:  # a case that isn't made of values
        return {}


def _command(
    table: Table, candidate: Callable[..., Any], name: str, values: str, row: Row
) -> str:  # fmt: skip
    of = "optimizer" if isinstance(table, OptimizerTable) else "op"
    named = f"{getattr(candidate, '__module__', '?')}:{getattr(candidate, '__qualname__', '?')}"
    return (
        f"python -m verification {of} {shlex.quote(name or named)} --like {table.name} "
        f'--values "{values}" --dtype {row.dtype} --seed {row.seed or 0}'
    )
