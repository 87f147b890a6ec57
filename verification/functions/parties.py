"""Run anybody's function or module on copies of a sample, and note everything that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from verification.ops.arguments import (
    Arguments,
    Random,
    Setting,
    Values,
    cotangent,
    direction,
    is_float,
    is_tensor,
    leaf,
)
from verification.tensors import short

Tensors = dict[str, Tensor]
Maybe = dict[str, Tensor | None]


@dataclass(frozen=True)
class Bound:
    """A party that is ready to be called, and the live tensors that it holds."""

    call: Callable[..., Any]
    parameters: Tensors = field(default_factory=dict)
    buffers: Callable[[], Tensors] = dict


# Takes the values that it is to hold, the dtype of its floats, and the device.
Party = Callable[[Values, torch.dtype, torch.device], Bound]


@dataclass(frozen=True)
class Outcome:
    """What a call leaves.

    Attributes:
        values: tensors by quantity: "output", "grad x", "x afterwards"; or "second x".
        others: outputs that are no tensors.
        structure: how the outputs hang together.
        missing: gradients that are None.
        changed: names of arguments and cotangents that are not what they were.
        projection: ⟨cotangents, outputs⟩, of second derivatives ⟨v, gradients⟩.
        random: the states of the random generators afterwards.
    """

    values: Tensors
    others: Values
    structure: str
    missing: frozenset[str]
    changed: frozenset[str]
    projection: float
    random: list[Tensor]


def function_party(function: Callable[..., Any]) -> Party:
    """Return the party of a function, which holds nothing."""
    return lambda held, dtype, device: Bound(function)


def run(
    party: Party,
    arguments: Arguments,
    setting: Setting,
    *,
    exact: bool = False,
    second: bool = False,
    rng: Random | None = None,
    shift: float = 0.0,
) -> Outcome:
    """Call a party on copies, and take its gradients with random cotangents.

    Args:
        party: what to run.
        arguments: on what.
        setting: how.
        exact: in float64, from values that are rounded to the tested dtype all the same.
        second: return the gradients of ⟨v, gradients⟩, v random, in place of all else.
        rng: changes inputs and cotangents by ±1 ulp of the tested dtype.
        shift: moves all that is differentiated by so much of v.
    """
    device, kind = setting.device, torch.float64 if exact else setting.dtype
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        leaves = {
            name: leaf(arguments, name, setting, exact=exact, rng=rng, shift=shift)
            for name in arguments.values
        }
        held = {name: leaves.pop(name) for name in arguments.held}
        bound = party(held, kind, device)
        inputs = {n: value for n, value in leaves.items() if arguments.differentiated(n)}
        for value in inputs.values():
            value.requires_grad_(setting.gradients)
        before = {n: t.detach().clone() for n, t in leaves.items() if is_tensor(t)}
        args, kwargs = pytree.tree_unflatten(list(leaves.values()), arguments.spec)

        _seed(setting)
        outputs, structure = _named(bound.call(*args, **kwargs))
        floats = {n: o for n, o in outputs.items() if is_float(o)}
        cotangents = {n: cotangent(n, o, setting, rng) for n, o in floats.items()}
        projection = sum(_inner(c, floats[n]) for n, c in cotangents.items())
        drawn = {f"cotangent of {n}": c for n, c in cotangents.items()}
        before |= {n: c.clone() for n, c in drawn.items()}
        derived: Maybe = {}
        if setting.gradients:
            inputs |= bound.parameters
            if second:
                derived, projection = _second(floats, inputs, cotangents, setting)
            else:
                derived = _gradients(floats, inputs, cotangents)
        random = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
    changed = frozenset(n for n, t in before.items() if not equal(t, {**leaves, **drawn}[n]))
    left = {f"{n} afterwards": t for n, t in bound.buffers().items()}
    left |= {f"{n} afterwards": leaves[n] for n in sorted(arguments.written)}
    random += [g.get_state() for g in leaves.values() if isinstance(g, torch.Generator)]
    values: Maybe = {n: o for n, o in outputs.items() if is_tensor(o)}
    values = derived if second else {**values, **derived, **left}
    return Outcome(
        {n: _dense(v.detach()).clone() for n, v in values.items() if v is not None},
        {n: o for n, o in outputs.items() if not is_tensor(o)}, structure,
        frozenset(n for n, v in values.items() if v is None), changed, float(projection), random,
    )  # fmt: skip


def _seed(setting: Setting) -> None:
    torch.default_generator.manual_seed(setting.seed)
    if setting.device.type == "cuda":
        torch.cuda.manual_seed_all(setting.seed)


def _named(output: Any) -> tuple[Values, str]:
    """Return the leaves of what a party returned by name, and their structure."""
    output = pytree.tree_map_only(float, lambda x: torch.tensor(x, dtype=torch.float64), output)
    output = pytree.tree_map_only(np.ndarray, _from_numpy, output)
    leaves, spec = pytree.tree_flatten_with_path(output)
    kinds = "tensor" if is_tensor(output) else type(output).__name__
    names = {f"output{pytree.keystr(path)}": value for path, value in leaves}
    return names, kinds if spec.is_leaf() else f"{kinds} of {', '.join(names) or 'nothing'}"


def _from_numpy(array: Any) -> Tensor:
    return torch.from_numpy(array.astype(np.float64) if array.dtype == np.longdouble else array)


def _gradients(
    outputs: Tensors, inputs: Tensors, cotangents: Tensors, create_graph: bool = False
) -> Maybe:
    """Return a gradient, or None, for each input."""
    used = [name for name, output in outputs.items() if output.requires_grad]
    wanted = {name: value for name, value in inputs.items() if value.requires_grad}
    found: Maybe = dict.fromkeys(inputs)
    if used and wanted:
        gradients = torch.autograd.grad(
            [outputs[n] for n in used], list(wanted.values()), [cotangents[n] for n in used],
            allow_unused=True, create_graph=create_graph,
        )  # fmt: skip
        found |= dict(zip(wanted, gradients, strict=True))
    return {f"grad {name}": gradient for name, gradient in found.items()}


def _second(
    outputs: Tensors, inputs: Tensors, cotangents: Tensors, setting: Setting
) -> tuple[Maybe, float]:
    """Return the gradients of ⟨v, gradients⟩, zeros where that is constant, and its value."""
    for value in cotangents.values():
        value.requires_grad_()
    first = _gradients(outputs, inputs, cotangents, create_graph=True)
    terms = [
        (direction(name, gradient, setting).conj() * gradient).sum().real
        for name, gradient in zip(inputs, first.values(), strict=True)
        if gradient is not None
    ]
    total = torch.stack(terms).sum() if terms else torch.zeros(())
    wanted = {n: t for n, t in inputs.items() if t.requires_grad}
    wanted |= {f"cotangent of {n}": c for n, c in cotangents.items()}
    found: tuple[Tensor | None, ...] = (None,) * len(wanted)
    if total.requires_grad:
        found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    derived: Maybe = {
        f"second {name}": torch.zeros_like(value) if gradient is None and terms else gradient
        for (name, value), gradient in zip(wanted.items(), found, strict=True)
    }
    return derived, total.item()


def _dense(value: Tensor) -> Tensor:
    return value if value.layout == torch.strided else value.to_dense()


def _inner(a: Tensor, b: Tensor) -> float:
    return float((a.conj() * b.detach()).sum().real)


def equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors of one shape have the same values; NaN equals NaN."""
    return bool(((a == b) | ((a != a) & (b != b))).all())


def differences(
    candidate: Outcome, reference: Outcome, written: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """Find what differs besides numbers.

    Args:
        candidate: what it left.
        reference: likewise.
        written: names of the arguments that may be written over.

    Returns:
        Pairs of a quantity, and how it differs.
    """
    if candidate.structure != reference.structure:
        yield "output", f"returns {candidate.structure}, the reference {reference.structure}"
        return
    for name in sorted(candidate.changed - written):
        yield f"{name} afterwards", "changed, the reference leaves it"
    for name, value in reference.others.items():
        if not _same(candidate.others.get(name), value):
            yield name, f"is {candidate.others.get(name)!r}, the reference's {value!r}"
    for name in sorted(candidate.missing ^ reference.missing):
        ours, its = ("none", "has one") if name in candidate.missing else ("one", "has none")
        yield name, f"there is {ours}, the reference {its}"
    for name, expected in reference.values.items():
        value = candidate.values.get(name)
        if value is None:
            if name not in candidate.missing:
                yield name, "there is none"
            continue
        for what in (lambda t: short(t.dtype), lambda t: (*t.shape,), lambda t: t.device):
            if what(value) != what(expected):
                yield name, f"is {what(value)}, the reference's {what(expected)}"
    if not all(map(torch.equal, candidate.random, reference.random)):
        yield "random state", "other numbers of draws"


def _same(a: Any, b: Any) -> bool:
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # no truth in it
        return True
