"""Modules as parties: their parameters and buffers are those of the reference, by name or order."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from verification.functions.comparison import Comparison, said
from verification.functions.parties import Bound, Party, Tensors, equal, run
from verification.limits import time_limit as limited
from verification.ops.arguments import Arguments, Setting, Values, is_float
from verification.report import ANOTHER, AS_GOOD, Row

SELF = "self."  # before the names of what a module holds


@dataclass(frozen=True)
class Match:
    """Which of a module's tensors stand for which of the reference's.

    Attributes:
        names: the module's, by the reference's.
        unmatched: names of either that have no counterpart.
    """

    names: dict[str, str]
    unmatched: list[str]


def tensors_of(module: nn.Module) -> Tensors:
    """Return a module's parameters and buffers by name, each once."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def match(module: nn.Module, reference: nn.Module) -> Match:
    """Match parameters with parameters and buffers with buffers, of the same shape.

    By name; what then remains by order.

    Example:
        >>> class Mine(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.w = nn.Parameter(torch.ones(2, 3))
        >>> match(Mine(), nn.Linear(3, 2))
        Match(names={'weight': 'w'}, unmatched=['bias of the reference'])
    """
    ours, theirs = tensors_of(module), tensors_of(reference)

    def alike(their: str, our: str) -> bool:
        a, b = theirs[their], ours[our]
        return a.shape == b.shape and isinstance(a, nn.Parameter) == isinstance(b, nn.Parameter)

    names = {name: name for name in theirs if name in ours and alike(name, name)}
    rest = [name for name in ours if name not in names]
    for their in [name for name in theirs if name not in names]:
        our = next((name for name in rest if alike(their, name)), None)
        if our is not None:
            names[their] = our
            rest.remove(our)
    lost = [f"{name} of the reference" for name in theirs if name not in names]
    return Match(names, lost + [f"{name} of the candidate" for name in rest])


def module_party(module: nn.Module, names: dict[str, str], modes: Sequence[bool]) -> Party:
    """Return the party of a module; every time that it is bound it is a fresh copy.

    Args:
        module: is left as it is.
        names: what its tensors are called, by the reference's names.
        modes: for each call in a row, whether the module trains; of several, the result is a list.
    """

    def bind(held: Values, dtype: torch.dtype, device: torch.device) -> Bound:
        live = copy.deepcopy(module).to(device=device, dtype=dtype)
        tensors = tensors_of(live)
        with torch.no_grad():
            for their, our in names.items():
                tensors[our].copy_(held[SELF + their])

        def call(*args: Any, **kwargs: Any) -> Any:
            outputs = [live.train(mode)(*args, **kwargs) for mode in modes]
            return outputs[0] if len(modes) == 1 else outputs

        def buffers() -> Tensors:
            found = dict(live.named_buffers())
            return {SELF + t: found[o] for t, o in names.items() if o in found}

        parameters = {
            SELF + t: tensors[o] for t, o in names.items() if isinstance(tensors[o], nn.Parameter)
        }
        return Bound(call, parameters, buffers)

    return bind


def holding(arguments: Arguments, reference: nn.Module) -> Arguments:
    """Add the reference's tensors to a sample's arguments."""
    held = {SELF + n: t for n, t in tensors_of(reference).items()}
    fixed = {n for n, t in held.items() if not (isinstance(t, nn.Parameter) and t.requires_grad)}
    return replace(
        arguments, values=arguments.values | held, held=frozenset(held),
        fixed=arguments.fixed | fixed,
    )  # fmt: skip


def state_rows(
    comparison: Comparison,
    draw: Callable[[int], Arguments],
    candidate: nn.Module,
    reference: nn.Module,
    found: Match,
) -> list[Row]:
    """Return rows about the names of the state, and about whether the state dict holds all of it.

    Args:
        comparison: the settings.
        draw: gives the arguments of a call for a seed.
        candidate: in question.
        reference: beside it.
        found: which of their tensors belong together.
    """
    setting = comparison.settings()[0]
    others = [f"{our} for {their}" for their, our in found.names.items() if their != our]
    ours, theirs = set(candidate.state_dict()), set(reference.state_dict())
    keys = sorted(ours ^ {found.names.get(key, key) for key in theirs})
    rows = [
        comparison.row("state", "parameters and buffers", setting,
                       ANOTHER if found.unmatched else AS_GOOD,
                       ", ".join([*found.unmatched, *others]), "names", len(found.unmatched)),
        comparison.row("state", "state-dict keys", setting, ANOTHER if keys else AS_GOOD,
                       ", ".join(keys), "names", len(keys)),
    ]  # fmt: skip
    quantity = "state dict round trip"
    try:
        arguments = draw(setting.seed)
        with limited(comparison.time_limit):
            holds = round_trip(candidate, arguments, setting)
        holds = holds or not round_trip(reference, arguments, setting)
        verdict, note = AS_GOOD if holds else ANOTHER, "" if holds else "some state is not in it"
        rows.append(comparison.row("state", quantity, setting, verdict, note, "bitwise"))
    except Exception as error:
        rows.append(comparison.row("state", quantity, setting, ANOTHER, said(error)))
    return rows


def round_trip(module: nn.Module, arguments: Arguments, setting: Setting) -> bool:
    """Return whether a module that loads another's state dict does what that one does.

    After a call that may have moved the state, and into a copy in which its floats were others.
    """
    first = copy.deepcopy(module).to(device=setting.device, dtype=setting.dtype)
    second = copy.deepcopy(first)
    with torch.no_grad():
        for tensor in filter(is_float, second.state_dict().values()):
            tensor.add_(1)
    plain = replace(setting, gradients=False)
    run(lambda *_: Bound(first.train()), arguments, plain)
    second.load_state_dict(first.state_dict())
    a = run(lambda *_: Bound(first.eval()), arguments, plain).values
    b = run(lambda *_: Bound(second.eval()), arguments, plain).values
    a, b = ({**left, **tensors_of(m)} for left, m in ((a, first), (b, second)))
    return all(equal(a[name], b[name]) for name in a)
