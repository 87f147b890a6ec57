"""Run one layer alone: on the reference's input, with its parameters, buffers and random state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from verification.models.findings import BUFFER, FORWARD, GRADIENT, Found, Key
from verification.models.judging import crash, gap, judge_beside, judge_gradients, size
from verification.models.matching import Names
from verification.models.parties import Lockstep, judge_outputs, label, output_name
from verification.models.recording import Call, Party, State, Step, set_random_state
from verification.models.trees import clone, largest, map_tensors, nudged, tensors_of


@dataclass
class Local:
    """What a layer makes of an input.

    Attributes:
        output: by its place in what was returned.
        gradients: with respect to the inputs ("input 0", …) and the parameters, by the reference's
            names, for a random cotangent; zeros where there is no path.
        buffers: afterwards, by the reference's names.
        cotangent: the largest element of the cotangent.
    """

    output: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    cotangent: float


def compare_alone(
    lockstep: Lockstep, start: State, moved: list[State], found: Step, expected: Step
) -> tuple[Found, dict[Key, float]]:
    """Compare each layer alone, in every call.

    Args:
        lockstep: the parties.
        start: the reference before the step.
        moved: likewise, changed by ±1 ulp.
        found: the candidate's step.
        expected: the reference's.

    Returns:
        The verdicts, and what each output inherits: how far it is in the run of the candidate from
        what the candidate makes of the reference's input.
    """
    alone, inherited = Found(), dict[Key, float]()
    calls = list(lockstep.calls(found, expected))
    parties = [(lockstep.reference, start), *((lockstep.other, state) for state in moved)]
    made = [_run_all(lockstep, *p, calls) for p in (*parties, (lockstep.candidate, start))]
    for (ours, _, i, (first, last, ran)), right, *others, mine in zip(calls, *made, strict=True):
        name = label(ours)
        if broken := [error for error in (right, *others) if isinstance(error, Exception)]:
            lockstep.left_out[f"layer {name} alone: the reference's raises {broken[0]}"] = None
            continue
        if isinstance(mine, Exception):
            alone.put((FORWARD, name, output_name("", i)), (1, last.left), crash(mine))
            continue
        outputs = [response.output for response in others]
        for tensor, judged in judge_outputs(mine.output, right.output, outputs, i):
            alone.put((FORWARD, name, tensor), (1, last.left), judged)
        for path in ran.output.keys() & mine.output.keys() & right.output.keys():
            came = gap(ran.output[path], mine.output[path]) / size(right.output[path])
            inherited[FORWARD, name, output_name(path, i)] = came
        for buffer, value in right.buffers.items():
            layer, tensor = lockstep.matching.owner(buffer)
            if layer in ours:
                responses = [response.buffers.get(buffer) for response in others]
                terms = largest(first.arguments)
                judged = judge_beside(mine.buffers.get(buffer), value, responses, terms)
                alone.put((BUFFER, layer, tensor), (2, last.left), judged)
        gradients = judge_gradients(
            mine.gradients, right.gradients, [r.gradients for r in others], right.cotangent
        )
        for tensor, judged in gradients:
            tensor = lockstep.matching.parameters.get(tensor, tensor)
            if len(ours) == 1 and ours[0]:
                tensor = tensor.removeprefix(f"{ours[0]}.")
            alone.put((GRADIENT, name, tensor), (4, -first.entered), judged)
    return alone, inherited


def _run_all(lockstep: Lockstep, party: Party, state: State, calls: list[Any]) -> list[Any]:
    """Run the layers of a party; an error stands for what it makes impossible."""
    party.load(state)
    made: list[Local | Exception] = []
    for i, (ours, theirs, _, (call, *_)) in enumerate(calls):
        names = ours if party is lockstep.candidate else theirs
        random = lockstep.random if party is lockstep.other else None
        arguments = call.arguments if random is None else nudged(call.arguments, random)
        shared = _shared(lockstep.matching.parameters, ours, theirs)
        try:
            made.append(run_alone(party, names, call, arguments, shared, seed=i))
        except Exception as error:  # anybody's layer
            made.append(error)
    return made


def _shared(parameters: Mapping[str, str], ours: Names, theirs: Names) -> Names:
    """Return the parameters that are in the layers of both, by the reference's names."""

    def inside(name: str, layers: Names) -> bool:
        return any(not layer or name.startswith(f"{layer}.") for layer in layers)

    return tuple(b for b, a in parameters.items() if inside(b, theirs) and inside(a, ours))


def run_alone(
    party: Party, names: Names, call: Call, arguments: Any, shared: Names, seed: int
) -> Local:
    """Run a layer, or several one after the other, as in a call of the reference's.

    Args:
        party: whose layer; its parameters are those that it has at the moment.
        names: of the layer, or of several, each of which takes the former's output.
        call: the recorded call.
        arguments: those of the call, or near them.
        shared: parameters to derive by, by the reference's names.
        seed: of the cotangent.
    """
    modules = party.modules
    layer = modules[names[0]] if len(names) == 1 else nn.Sequential(*[modules[n] for n in names])
    party.load_buffers(call.buffers)
    args, kwargs = clone(arguments)
    leaves = {
        f"input {place}": leaf for place, leaf in tensors_of((*args, kwargs)) if leaf.requires_grad
    }
    set_random_state(call.random)
    with torch.enable_grad():
        # a leaf may not be changed in place, a copy of it may
        args, kwargs = map_tensors(lambda t: t.clone() if t.requires_grad else t, (args, kwargs))
        output = dict(tensors_of(layer(*args, **kwargs)))
    own = party.parameters
    wanted: dict[str, Tensor] = leaves | {name: own[name] for name in shared}
    gradients, size = _derive(output, wanted, seed)
    buffers = {name: value.clone() for name, value in party.buffers.items() if name in call.buffers}
    return Local({p: t.detach() for p, t in output.items()}, gradients, buffers, size)


def _derive(
    output: Mapping[str, Tensor], wanted: Mapping[str, Tensor], seed: int
) -> tuple[dict[str, Tensor | None], float]:
    """Return the vector-Jacobian product of a random cotangent, never of ones."""
    random = torch.Generator().manual_seed(seed)
    roots, cotangents = [], []
    for value in output.values():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=random, dtype=torch.float64)
            if value.requires_grad:
                roots.append(value)
                cotangents.append(drawn.to(value))
    some = {name: tensor for name, tensor in wanted.items() if tensor.requires_grad}
    found: dict[str, Tensor | None] = {name: torch.zeros_like(t) for name, t in wanted.items()}
    if roots and some:
        parts = torch.autograd.grad(roots, [*some.values()], cotangents, allow_unused=True)
        found |= {n: part for n, part in zip(some, parts, strict=True) if part is not None}
    return found, max((float(c.abs().max()) for c in cotangents if c.numel()), default=0.0)
