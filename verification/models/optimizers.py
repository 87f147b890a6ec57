"""One step of both optimizers, on the same gradients."""

from __future__ import annotations

from typing import Any

from verification.models.findings import OPTIMIZER, PARAMETER, Found, Key
from verification.models.judging import excess, judge
from verification.models.matching import ROOT
from verification.models.parties import Crash, Lockstep
from verification.models.recording import State, Step
from verification.models.trees import nudged


def compare_optimizers(
    lockstep: Lockstep, start: State, after: State, moved: list[State], found: Step, expected: Step
) -> tuple[Found, dict[Key, float]]:
    """Step the candidate's optimizer with the reference's gradients, and with its own.

    Args:
        lockstep: the parties.
        start: the reference before the step.
        after: the reference after it.
        moved: the reference before it, changed by ±1 ulp.
        found: the candidate's forward and backward.
        expected: the reference's.

    Returns:
        The verdicts on the first, and by how much more the second differs.
    """
    alone = Found()
    candidate, other = lockstep.candidate, lockstep.other
    if lockstep.reference.optimizer is None:
        return alone, {}
    others = []
    for state in moved:
        other.load(state)
        others.append(lockstep.optimize(other, nudged(expected.gradients, lockstep.random)))
    candidate.load(start)
    try:
        mine = lockstep.optimize(candidate, expected.gradients)
    except Crash as error:
        alone.put((OPTIMIZER, ROOT, "step"), (5, 0), error.judged)
        return alone, {}
    _compare_names(lockstep, mine, after)
    _compare_state(lockstep, mine, after, others, alone)
    if candidate.keeps_own_state:  # which a second step would change
        return alone, {}
    candidate.load(start)
    ran = Found()
    _compare_state(lockstep, lockstep.optimize(candidate, found.gradients), after, others, ran)
    return alone, {key: excess(judged, alone[key][1]) for key, (_, judged) in ran.items()}


def _compare_names(lockstep: Lockstep, mine: State, after: State) -> None:
    """An optimizer that has other names for everything keeps its own state."""
    ours, theirs = (
        {key for kept in state.optimizer.values() for key in kept} - {"step"}
        for state in (mine, after)
    )
    if ours and theirs and not ours & theirs:
        lockstep.candidate.keeps_own_state = True
        names = f"the candidate's {sorted(ours)}, the reference's {sorted(theirs)}"
        lockstep.left_out[f"optimizer state: {names}"] = None


def _compare_state(
    lockstep: Lockstep, mine: State, after: State, others: list[State], into: Found
) -> None:
    for i, (name, weight) in enumerate(after.parameters.items()):
        if name not in mine.parameters:
            continue
        layer, tensor = lockstep.matching.owner(name)
        if not lockstep.candidate.keeps_own_state:
            ours, theirs = (state.optimizer.get(name, {}) for state in (mine, after))
            for key in dict.fromkeys([*theirs, *ours]):
                responses = [state.optimizer.get(name, {}).get(key) for state in others]
                own, right = (_plain(key, state.get(key)) for state in (ours, theirs))
                judged = judge(own, right, responses)
                into.put((OPTIMIZER, layer, f"{key} of {tensor}"), (5, i), judged)
        responses = [state.parameters[name] for state in others]
        judged = judge(mine.parameters[name], weight, responses)
        into.put((PARAMETER, layer, tensor), (6, i), judged)


def _plain(key: str, value: Any) -> Any:
    """Return a count of steps as a number, which is equal or not."""
    return float(value) if key == "step" and value is not None else value
