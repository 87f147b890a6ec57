"""The whole suite: ops, optimizers, schedules, a loop, transforms, and what other packages add.

A package that `verification` may not import, because it imports `verification`, registers a suite
of its own under the entry-point group "refnet.verification": a function of `quick` and `device`
that yields lists of rows. `lightning_modules` does so with its training runs in lockstep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import EntryPoint, entry_points

from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.cases.transforms import OPS
from verification.lecture.averages import BETAS, average_rows
from verification.lecture.chain import DEPTHS, chain_rows
from verification.lecture.checked_gradients import ACTIVATIONS as CHECKED
from verification.lecture.checked_gradients import gradient_check_rows
from verification.lecture.gradient_flow import ACTIVATIONS, gradient_flow_rows
from verification.lecture.init import init_rows
from verification.lecture.numerical_gradients import FUNCTIONS, numerical_gradient_rows
from verification.lecture.regularization import regularization_rows
from verification.ops import contract
from verification.ops.contract import verify_contract
from verification.optimizers.memory import OPTIONS as MEMORY
from verification.optimizers.memory import verify_step_memory
from verification.optimizers.option_values import OPTIONS, option_values
from verification.optimizers.options import verify_options
from verification.optimizers.rows import optimizer_rows
from verification.optimizers.schedules import USES, schedule_rows, schedule_tables
from verification.parts import Advance, Part, Rows, failure, run_here
from verification.report import INCONCLUSIVE, Row
from verification.training.loop import SUBJECT as TRAINING
from verification.training.loop import training_rows
from verification.transforms.support import verify_support

__all__ = ["GROUP", "Part", "parts", "run", "whole"]
GROUP = "refnet.verification"


def parts(*, quick: bool = False, device: str = "cpu") -> list[Part]:
    """Return all parts of the suite.

    Args:
        quick: fewer seeds and shorter runs, no difference quotients and no transform that is slow;
            the same cases.
        device: where candidates and builtins compute.

    Returns:
        The ops, the optimizers, the schedules, the whole chain, initial weights, regularization,
        gradient flow, numerical gradients, averages, the gradient check, a training loop, the
        transforms, then the registered suites.

    Example:
        >>> [part.name for part in parts()][0]
        'batch_norm'
    """
    found = []
    for op in op_tables().values():
        seeds = 3 if quick else 5
        run = _later(verify_contract, op, seeds=seeds, quick=quick, device=device)
        found.append(Part(op.name, contract.parts(op, quick=quick), run))
    for optimizer in optimizer_tables().values():
        size = {"seeds": 3, "steps": 12} if quick else {"seeds": 5, "steps": 200}
        run = _later(optimizer_rows, optimizer, **size, device=device, own=True)
        found.append(Part(optimizer.name, len(optimizer.cases) + 1, run))
        if optimizer.name in OPTIONS:  # those that torch has too
            run = _later(verify_options, optimizer, pairs=not quick)
            count = len(option_values(optimizer.name)) + (not quick)
            found.append(Part(f"{optimizer.name} options", count, run))
            run = _later(verify_step_memory, optimizer)
            found.append(Part(f"{optimizer.name} memory", len(MEMORY[optimizer.name]), run))
    for schedule in schedule_tables():
        found.append(Part(schedule, len(USES), _later(schedule_rows, schedule)))
    found.append(Part("chain", len(DEPTHS), partial(chain_rows, quick=quick)))
    found.append(Part("init", 7, partial(init_rows, quick=quick)))
    found.append(Part("regularization", 3, partial(regularization_rows, quick=quick)))
    found.append(Part("gradient_flow", len(ACTIVATIONS), partial(gradient_flow_rows, quick=quick)))
    run = partial(numerical_gradient_rows, quick=quick)
    found.append(Part("numerical_gradients", len(FUNCTIONS), run))
    found.append(Part("averages", len(BETAS), partial(average_rows, quick=quick)))
    run = partial(gradient_check_rows, quick=quick)
    found.append(Part("gradient_check", len(CHECKED), run))
    found.append(Part(TRAINING, 1, training_rows))
    run = _later(verify_support, OPS, quick=quick, device=device)
    found.append(Part("transforms", len(OPS), run))
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        found.append(Part(entry.name, 0, _registered(entry, quick=quick, device=device)))
    return found


def run(chosen: Iterable[Part], advance: Advance = lambda part: None) -> list[Row]:
    """Run parts and return their rows; one that crashes or has no rows gives a failing row.

    Args:
        chosen: the parts.
        advance: called after every case, for a progress bar.
    """
    chosen = list(chosen)
    return whole(chosen, run_here(chosen, advance=advance))


def whole(chosen: Iterable[Part], found: Iterable[list[Row]]) -> list[Row]:
    """Return all rows that were found, and a failing one for each part that has none."""
    return [
        row
        for part, rows in zip(chosen, found, strict=True)
        for row in rows or [failure(part, INCONCLUSIVE, "nothing was checked")]
    ]


def _later(verify: Callable[..., Rows], table: object, **options: object) -> Callable[[], Rows]:
    return lambda: verify(table, **options)


def _registered(entry: EntryPoint, **options: object) -> Callable[[], Rows]:
    return lambda: entry.load()(**options)
