"""Compare anybody's op or optimizer with torch's builtin and with a float64 oracle."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from verification.candidates import name_of
from verification.parts import Part, run_here
from verification.plans import DTYPES, Plan, make_plan, op_parts, optimizer_parts
from verification.report import Report, Row


def verify_op(
    candidate: Any,
    like: str,
    *,
    profile: str = "quick",
    dtypes: Sequence[str | torch.dtype] | None = None,
    seeds: int | Sequence[int] | None = None,
    device: str = "cpu",
    cases: str | None = None,
    time_limit: float | None = None,
    special_values: bool = True,
) -> Report:
    """Compare an op with torch's builtin and with a float64 oracle.

    Values, gradients, second derivatives, buffers, random numbers, what is changed in place,
    layouts, dtypes and errors. A candidate that crashes, or returns something else, gives failing
    rows.

    Args:
        candidate: a callable with the signature of `torch.nn.functional.<like>`, called with what
            is required by position and options by keyword. A dropout may take a keyword `mask`
            besides. For "BatchNorm" a namespace with modules BatchNorm1d to 3d, as `torch.nn` is,
            or one class that takes the place of all three.
        like: "batch_norm", "softmax", …: a name of `verification.cases.op_tables()`.
        profile: "quick" (about 2 s) or "full" (up to 20 s: more draws, dtypes and quotients).
        dtypes: what is computed in, "float32" or torch.float32; as the profile has it by default.
        seeds: how many draws of each case, or which.
        device: where candidate and builtin compute.
        cases: the name of a case or a pattern like "offset*"; all by default.
        time_limit: seconds for each case, as far as code can be interrupted within a process.
        special_values: whether inputs that hold infinities or NaN are among the cases.

    Returns:
        A report; `passed`, `failures`, `raise_if_failed()` and more. Failing rows have a command
        that repeats them.

    Raises:
        ValueError: there is no such `like`, profile, dtype, seed or case.
        TypeError: the candidate cannot be called.

    Example:
        >>> def my_relu(input, inplace=False):
        ...     return input.clamp_(min=0) if inplace else input.clamp(min=0)
        >>> verify_op(my_relu, like="leaky_relu", cases="easy*").passed
        False

    Source: lecture, "Gradient checking".
    """
    plan = make_plan(profile, dtypes, seeds, device, cases, time_limit, special_values)
    parts = op_parts(candidate, like, plan)
    return make_report("op", candidate, like, plan, _run(parts, plan))


def verify_optimizer(
    candidate: Callable[..., Any],
    like: str,
    *,
    profile: str = "quick",
    dtypes: Sequence[str | torch.dtype] | None = None,
    seeds: int | Sequence[int] | None = None,
    device: str = "cpu",
    cases: str | None = None,
    time_limit: float | None = None,
    special_values: bool = True,
) -> Report:
    """Compare an optimizer with torch's and with a float64 oracle, along whole trajectories.

    Parameters and state after every step, resumed runs, gradients that are None or zero, parameter
    groups, closures.

    Args:
        candidate: a class or factory with the arguments of `torch.optim.<like>`; for "Momentum"
            those of `refnet.optim.Momentum`.
        like: "SGD", "Momentum", "RMSprop", "Adam" or "AdamW".
        profile: "quick" (about 2 s) or "full" (up to 20 s: more and longer runs).
        dtypes: of the parameters; float64 and float32 by default.
        seeds: how many draws of parameters and gradients, or which.
        device: as in `verify_op`.
        cases: as in `verify_op`.
        time_limit: as in `verify_op`.
        special_values: as in `verify_op`, of gradients.

    Returns:
        A report; `passed`, `failures`, `raise_if_failed()` and more. Failing rows have a command
        that repeats them.

    Raises:
        ValueError: there is no such `like`, profile, dtype, number of seeds or case.
        TypeError: the candidate cannot be called.

    Example:
        >>> import torch
        >>> verify_optimizer(torch.optim.SGD, like="SGD", cases="lr=0.01").passed
        True
    """
    plan = make_plan(profile, dtypes, seeds, device, cases, time_limit, special_values)
    parts = optimizer_parts(candidate, like, plan)
    return make_report("optimizer", candidate, like, plan, _run(parts, plan))


def make_report(
    kind: str, candidate: Any, like: str, plan: Plan, rows: Sequence[Row], name: str = ""
) -> Report:
    """Make a report of the rows of a candidate, with the commands that repeat its failures.

    Args:
        kind: "op" or "optimizer".
        candidate: what was checked.
        like: as what.
        plan: how.
        rows: what came out.
        name: of the candidate, where `candidates.load` finds it.

    Raises:
        ValueError: there are no rows of the cases that were asked for.
    """
    from verification.mutants.kill_matrix import (
        with_margins,  # it plants bugs in what is checked here
    )

    if not rows and plan.cases is not None:
        left_out = "; with special_values=False those of NaN and ∞ are out"
        why = "" if plan.special_values else left_out
        raise ValueError(
            f"cases={plan.cases!r} is none of the cases of {like}, and no values of it{why}"
        )
    name = name or name_of(candidate)
    rows = [row if row.passed else replace(row, repeat=_repeat(kind, name, like, plan, row))
            for row in rows]  # fmt: skip
    shown = name or getattr(candidate, "__qualname__", None) or type(candidate).__qualname__
    settings = {"candidate": shown, "like": like, **asdict(plan)}
    return with_margins(Report(rows, f"{shown} like {like}", settings=settings))


def _run(parts: list[Part], plan: Plan) -> list[Row]:
    with warnings.catch_warnings(), torch.enable_grad(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # what torch says of edge cases
        return [row for rows in run_here(parts, limit=plan.time_limit) for row in rows]


def _repeat(kind: str, name: str, like: str, plan: Plan, row: Row) -> str:
    """Return a shell command, or a line of Python where the candidate has no name."""
    dtypes = [row.dtype] if row.dtype in DTYPES else None
    seeds = plan.seeds
    if kind == "op" and row.seed is not None:
        seeds = (row.seed,)
    if not name:
        asked = {"like": like, "cases": row.case, "dtypes": dtypes, "seeds": seeds}
        if plan.profile != "quick":
            asked["profile"] = plan.profile
        given = ", ".join(f"{key}={value!r}" for key, value in asked.items() if value is not None)
        return f"verification.verify_{kind}(candidate, {given})"
    words = [name, "--like", like, "--case", row.case]
    words += ["--dtype", dtypes[0]] if dtypes else []
    if seeds is not None and len(seeds) > 1 and seeds == tuple(range(len(seeds))):
        words += ["--seeds", str(len(seeds))]
    elif seeds is not None:
        words += [word for seed in seeds for word in ("--seed", str(seed))]
    words += ["--profile", plan.profile] if plan.profile != "quick" else []
    words += ["--device", plan.device] if plan.device != "cpu" else []
    words += ["--time-limit", f"{plan.time_limit:g}"] if plan.time_limit else []
    return shlex.join(["python", "-m", "verification", kind, *words])
