"""What is checked of an op or an optimizer, and how much: the parts of a run."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from verification import process_state
from verification.cases import Case, OpTable, op_tables
from verification.cases.batch_norm_module import called
from verification.cases.optimizers import Case as OptimizerCase
from verification.cases.optimizers import optimizer_tables
from verification.cases.random_cases import case_from_values
from verification.ops.errors import error_cases, error_rows
from verification.ops.gradients import verify_gradients
from verification.ops.randomness import randomness_cases, randomness_rows
from verification.ops.rows import op_rows
from verification.optimizers.rows import optimizer_rows
from verification.optimizers.usage import usage_cases, usage_rows
from verification.parts import Part
from verification.report import ANOTHER, AS_GOOD, Row

DTYPES = ("float64", "float32", "bfloat16", "float16")
OWN = {"eps_inside_root", "bias_correction"}  # arguments of refnet's that torch doesn't have
SPECIAL = ("∞", "NaN and inf")  # quantities of a dropout and an optimizer
SMALL = 40  # elements of an input that difference quotients are taken by


@dataclass(frozen=True)
class Profile:
    """How much is checked.

    Attributes:
        dtypes: of an op; an optimizer is run in the first two.
        seeds: draws of each case of an op, in float64 and in the other dtypes.
        quotients: in how many cases derivatives are compared with difference quotients.
        runs: draws of each case of an optimizer.
        steps: of each run of an optimizer.
        every: how many cases of an optimizer there are to one that is run in float32 as well.
    """

    dtypes: tuple[str, ...]
    seeds: tuple[int, int]
    quotients: float
    runs: int
    steps: int
    every: int


PROFILES = {
    # One draw tells whether a function is another one; its accuracy takes the one in the middle.
    "quick": Profile(DTYPES[:2], (1, 3), quotients=3, runs=1, steps=9, every=2),
    "full": Profile(DTYPES, (5, 5), quotients=math.inf, runs=3, steps=50, every=1),
}


@dataclass(frozen=True)
class Plan:
    """What is asked for; None is as the profile has it."""

    profile: str = "quick"
    dtypes: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    device: str = "cpu"
    cases: str | None = None
    time_limit: float | None = None
    special_values: bool = True

    def matches(self, case: str) -> bool:
        """Return whether a case is asked for, by its name or a pattern."""
        return self.cases is None or case == self.cases or fnmatchcase(case, self.cases)


def make_plan(
    profile: str,
    dtypes: Sequence[str | torch.dtype] | None = None,
    seeds: int | Sequence[int] | None = None,
    device: str = "cpu",
    cases: str | None = None,
    time_limit: float | None = None,
    special_values: bool = True,
) -> Plan:
    """Check the arguments of `verify_op` and return them as a plan."""
    _choose("profile", profile, PROFILES)
    names = None if dtypes is None else tuple(str(d).removeprefix("torch.") for d in dtypes)
    for name in names or ():
        _choose("dtypes", name, DTYPES)
    if isinstance(seeds, bool):
        raise ValueError(f"seeds must be a number of draws, or which, got {seeds}")
    if isinstance(seeds, int):
        if seeds < 1:
            raise ValueError(f"seeds must be at least 1, got {seeds}")
        seeds = range(seeds)
    if seeds is not None and (not len(seeds) or min(seeds) < 0):
        raise ValueError(f"seeds must be at least one, none below 0, got {list(seeds)}")
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise ValueError(f"time_limit must be a positive number, got {time_limit}")
    chosen = None if seeds is None else tuple(seeds)
    return Plan(profile, names, chosen, device, cases, time_limit, special_values)


def op_parts(candidate: Any, like: str, plan: Plan) -> list[Part]:
    """Return the checks of an op, each case by itself, so that one may take too long or crash."""
    table, profile = _choose("like", like, op_tables()), PROFILES[plan.profile]
    candidate = adapted(candidate, like)
    dtypes = plan.dtypes or profile.dtypes
    found = []
    if not plan.special_values:
        table = replace(table, cases=tuple(c for c in table.cases if not _is_special(c)))
    for case in _asked(table, table.cases, plan):
        # One case in all of them tells a result that is promoted.
        kinds = plan.dtypes or (DTYPES if case is table.cases[0] else profile.dtypes)
        run = partial(_values, _only(table, case), candidate, kinds, plan)
        found.append(_part(like, run, case.name))
    derived = [c for c in _derivable(table) if plan.matches(c.name)] if "float64" in dtypes else []
    if plan.cases is None and len(derived) > profile.quotients:  # spread over the table
        places = np.linspace(0, len(derived) - 1, int(profile.quotients)).astype(int)
        derived = [derived[i] for i in places]
    for case in derived:
        run = partial(verify_gradients, _only(table, case), candidate, device=plan.device)
        found.append(_part(like, run, case.name))
    seeds = plan.seeds or range(profile.seeds[1])
    drawn = partial(randomness_rows, table, candidate, device=plan.device, seeds=seeds)
    wrong = partial(error_rows, table, candidate, device=plan.device, asked=plan.matches)
    names = randomness_cases(table)
    found += _others(like, "random numbers", drawn, names, plan, says=True)
    return found + _others(like, "errors", wrong, error_cases(table, plan.device), plan)


def optimizer_parts(candidate: Any, like: str, plan: Plan) -> list[Part]:
    """Return the checks of an optimizer, each case by itself."""
    table, profile = _choose("like", like, optimizer_tables()), PROFILES[plan.profile]
    candidate = adapted(candidate, like)
    options: dict[str, Any] = {
        "seeds": plan.seeds or profile.runs,
        "steps": profile.steps,
        "device": plan.device,
    }
    known = set() if candidate is table.builtin else _named(candidate)
    cases = [_known(case, known) for case in table.cases if not _foreign(case, known)]
    found = []
    for i, case in enumerate(_asked(table, cases, plan)):
        names = DTYPES[:1] if plan.cases is None and i % profile.every else DTYPES[:2]
        dtypes = [_dtype(name) for name in plan.dtypes or names]
        run = partial(optimizer_rows, _only(table, case), candidate, dtypes=dtypes, **options)
        found.append(_part(like, run, case.name))
    if not plan.dtypes or "float64" in plan.dtypes:
        used = partial(usage_rows, table, candidate, device=plan.device)
        found += _others(like, "uses", used, usage_cases(table), plan, says=True)
    return found


def _part(like: str, run: Callable[[], Iterator[list[Row]]], case: str) -> Part:
    return Part(like, 1, partial(_watched, run, like, case), case)


def _others(
    like: str,
    name: str,
    run: Callable[[], Iterator[list[Row]]],
    cases: Sequence[str],
    plan: Plan,
    says: bool = False,
) -> list[Part]:
    """Return the part whose rows have these cases, if any of them is asked for."""
    asked = [case for case in cases if plan.matches(case)]
    watched = partial(_watched, run, like, asked[0], says) if asked else run
    return [Part(like, 0, partial(_asked_rows, watched, plan), name)] if asked else []


def _watched(
    run: Callable[[], Iterator[list[Row]]], like: str, case: str, says: bool = False
) -> Iterator[list[Row]]:
    """Run checks and see what they leave changed in the process, which is put back.

    Args:
        run: the checks.
        like: of the row about it.
        case: likewise.
        says: whether there is a row also if nothing is changed.
    """
    before, changed = process_state.state(), list[str]()
    try:
        yield from run()
    finally:
        changed = process_state.put_back(before)
    if changed or says:
        verdict, found = ANOTHER if changed else AS_GOOD, len(changed)
        yield [Row(like, case, "global state", "-", found, math.nan, 0.0, "stays", verdict,
                   "; ".join(changed))]  # fmt: skip


def _values(table: OpTable, candidate: Any, dtypes: Sequence[str], plan: Plan) -> Iterator[Any]:
    """Run a case; float64 needs fewer draws."""
    first, others = PROFILES[plan.profile].seeds
    groups = [([d for d in dtypes if d == "float64"], first),
              ([d for d in dtypes if d != "float64"], others)]  # fmt: skip
    rows: list[Row] = []
    for names, count in groups:
        if names:
            kinds = [_dtype(name) for name in names]
            seeds = plan.seeds or range(count)
            for found in op_rows(table, candidate, dtypes=kinds, seeds=seeds, device=plan.device):
                rows += found
    yield rows


def _derivable(table: OpTable) -> list[Case]:
    """Return the cases whose difference quotients mean something: of moderate size and scale."""
    if table.options is not None:
        return [case for case in table.cases if case.values]
    found = []
    for case in table.cases:
        input = case.draw(np.random.default_rng(0))["input"]
        if case.autocast:
            continue
        if 0 < input.size <= SMALL and 0.3 < input.std() < 3 and not case.hard:
            found.append(replace(case, values={"case": case.name}))
    return found


def _is_special(case: Case) -> bool:
    arrays = case.draw(np.random.default_rng(0)).values()
    return any(array is not None and not np.isfinite(array).all() for array in arrays)


def _asked_rows(run: Callable[[], Iterator[list[Row]]], plan: Plan) -> Iterator[list[Row]]:
    for rows in run():
        rows = [row for row in rows if plan.matches(row.case)]
        yield [row for row in rows if plan.special_values or row.quantity not in SPECIAL]


def _asked(table: Any, cases: Iterable[Any], plan: Plan) -> list[Any]:
    """Return the cases that a plan names, or the one that its words `name=value` stand for."""
    found = [case for case in cases if plan.matches(case.name)]
    if not found and plan.cases is not None and "=" in plan.cases:
        with suppress(ValueError):  # then it may name an error
            found = [case_from_values(table, plan.cases)]
    return found


def _only(table: Any, case: Any) -> Any:
    return replace(table, cases=(case,))


def adapted(candidate: Any, like: str) -> Callable[..., Any]:
    """Return a candidate as a table calls it: a batch norm may be modules, in a namespace or one.

    Raises:
        TypeError: it cannot be called.
    """
    if like == "BatchNorm" and isinstance(candidate, type):
        names = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
        candidate = SimpleNamespace(**dict.fromkeys(names, candidate))
    if like == "BatchNorm" and hasattr(candidate, "BatchNorm2d"):
        return called(candidate)
    if not callable(candidate):
        raise TypeError(f"candidate must be callable, got {candidate!r}")
    function: Callable[..., Any] = candidate
    return function


def _named(candidate: Any) -> set[str]:
    try:
        parameters = inspect.signature(candidate).parameters.values()
    except (TypeError, ValueError):  # compiled, or made up
        return set()
    return {p.name for p in parameters if p.kind != p.VAR_KEYWORD}


def _foreign(case: OptimizerCase, known: set[str]) -> bool:
    """Tell whether a case is about an argument of refnet's that the candidate doesn't have."""
    return any(case.arguments.get(name) for name in OWN - known)


def _known(case: OptimizerCase, known: set[str]) -> OptimizerCase:
    given = {n: value for n, value in case.arguments.items() if n not in OWN - known}
    return replace(case, arguments=given)


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)  # type: ignore[no-any-return]


def _choose(argument: str, value: Any, choices: Any) -> Any:
    """Return the choice, or the value itself of a sequence of choices."""
    if value not in choices:
        raise ValueError(f"{argument} must be one of {', '.join(choices)}, got {value!r}")
    return choices[value] if isinstance(choices, Mapping) else value
