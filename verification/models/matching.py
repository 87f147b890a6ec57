"""Which layer, parameter and buffer of the reference answers to which one of the candidate.

By the user's map first, then by name where the shapes agree, then by shape and order. What is left
over is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from torch import Tensor, nn

Names = tuple[str, ...]
Match = Mapping[str | Names, str | Names]
Tensors = dict[str, Tensor]
ROOT = "(root)"


@dataclass(frozen=True)
class Matching:
    """What answers to what.

    Attributes:
        layers: names of the candidate's layers and of the reference's: one of each, or several
            that are called one after the other, where one side has fused them.
        parameters: the reference's names, and the candidate's.
        buffers: likewise.
        unmatched: what is in no pair.
    """

    layers: list[tuple[Names, Names]]
    parameters: dict[str, str]
    buffers: dict[str, str]
    unmatched: list[str]

    def owner(self, name: str) -> tuple[str, str]:
        """Return the candidate's layer that has a parameter or buffer, and its name there."""
        layer, _, tensor = (self.parameters | self.buffers)[name].rpartition(".")
        return layer or ROOT, tensor


def match_models(
    candidate: nn.Module, reference: nn.Module, match: Match | None = None
) -> Matching:
    """Pair the layers, parameters and buffers of two models.

    Args:
        candidate: a model.
        reference: another one.
        match: the candidate's name of a layer, parameter or buffer, and the reference's; a tuple of
            names for layers that the other model has fused into one.

    Raises:
        ValueError: `match` has a name that is not there, or has it twice.

    Example:
        >>> a, b = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))
        >>> found = match_models(a, b)
        >>> found.layers, found.parameters["1.weight"], found.unmatched
        ([(('',), ('',)), (('0',), ('1',))], '0.weight', ["the reference's layer 0"])
    """
    given = [(_names(ours), _names(theirs)) for ours, theirs in (match or {}).items()]
    ours, theirs = sides = _Side(candidate, "candidate"), _Side(reference, "reference")
    for side, names in zip(sides, zip(*given, strict=True), strict=bool(given)):
        side.require(names)
    layers = _match_layers(ours, theirs, [pair for pair in given if pair[0][0] in ours.layers])
    parameters = _match_tensors(ours.parameters, theirs.parameters, layers, given)
    buffers = _match_tensors(ours.buffers, theirs.buffers, layers, given)
    unmatched = []
    for i, side in enumerate(sides):
        held = {name for pair in layers for name in pair[i]}
        unmatched += [f"the {side.who}'s layer {name}" for name in side.layers if name not in held]
        for kind, pairs in (("parameters", parameters), ("buffers", buffers)):
            known = set(pairs) if i else set(pairs.values())
            missing = [name for name in getattr(side, kind) if name not in known]
            unmatched += [f"the {side.who}'s {kind[:-1]} {name}" for name in missing]
    return Matching(layers, parameters, buffers, unmatched)


class _Side:
    """The names of one model."""

    def __init__(self, model: nn.Module, who: str) -> None:
        self.who = who
        self.layers = dict(model.named_modules())
        self.parameters: Tensors = dict(model.named_parameters())
        self.buffers: Tensors = dict(model.named_buffers())

    def require(self, groups: Sequence[Names]) -> None:
        names = [name for group in groups for name in group]
        for name in names:
            if not any(name in kind for kind in (self.layers, self.parameters, self.buffers)):
                raise ValueError(f"match: the {self.who} has no {name!r}")
            if names.count(name) > 1:
                raise ValueError(f"match: {name!r} of the {self.who} is there twice")

    def shape(self, name: str) -> tuple[Any, ...]:
        """Return the shapes of what a layer holds, or of a layer that holds nothing its class."""
        layer = self.layers[name]
        held = [*layer.parameters(), *layer.buffers()]
        return tuple(tuple(t.shape) for t in held) or (type(layer).__name__.lower(),)

    def siblings(self, name: str) -> list[str]:
        parent = self.layers.get(name.rpartition(".")[0])
        return [] if parent is None else [child for child, _ in parent.named_children()]


def _names(value: str | Names) -> Names:
    return (value,) if isinstance(value, str) else tuple(value)


def _match_layers(
    ours: _Side, theirs: _Side, given: list[tuple[Names, Names]]
) -> list[tuple[Names, Names]]:
    found = [*given]
    taken = [{name for pair in given for name in pair[i]} for i in range(2)]

    def alike(name: str) -> bool:
        if name in taken[0] | taken[1] or name not in theirs.layers:
            return False
        # A number in a Sequential says little: its neighbours or its class have to agree, too.
        bare = all(isinstance(side.shape(name)[0], str) for side in (ours, theirs))
        beside = bare and ours.siblings(name) == theirs.siblings(name)
        return beside or ours.shape(name) == theirs.shape(name)

    by_name = [name for name in ours.layers if not name or alike(name)]
    found += [((name,), (name,)) for name in by_name if name not in taken[0]]
    for names, held in zip(taken, zip(*found, strict=True), strict=True):
        names.update(name for group in held for name in group)
    for bare in (False, True):  # layers without tensors, such as activations, by themselves
        mine, yours = (
            [n for n in side.layers if n not in held and isinstance(side.shape(n)[0], str) is bare]
            for side, held in zip((ours, theirs), taken, strict=True)
        )
        found += [((a,), (b,)) for a, b in _in_order(mine, yours, ours.shape, theirs.shape)]
    order = {name: i for i, name in enumerate(ours.layers)}
    return sorted(found, key=lambda pair: order[pair[0][0]])


def _match_tensors(
    ours: Tensors, theirs: Tensors, layers: list[tuple[Names, Names]],
    given: list[tuple[Names, Names]],
) -> dict[str, str]:  # fmt: skip
    """Pair the tensors of paired layers, of the innermost ones first."""
    found = {b[0]: a[0] for a, b in given if a[0] in ours and b[0] in theirs}
    for name, own in found.items():
        if ours[own].shape != theirs[name].shape:
            shapes = f"{list(ours[own].shape)} and {list(theirs[name].shape)}"
            raise ValueError(f"match: {own!r} and {name!r} have shapes {shapes}")

    def left(tensors: Tensors, groups: Names, taken: Any) -> list[str]:
        return [
            name for group in groups for name in tensors
            if name not in taken and (not group or name.startswith(f"{group}."))
        ]  # fmt: skip

    for a, b in sorted(layers, key=lambda pair: -len(pair[0][0].split(".")) if pair[0][0] else 1):
        mine, yours = left(ours, a, found.values()), left(theirs, b, found)
        if len(a) == len(b) == 1:  # the same name in the layer, and the same shape
            local = {name[len(a[0]) :].lstrip("."): name for name in mine}
            for name in yours:
                other = local.get(name[len(b[0]) :].lstrip("."))
                if other and ours[other].shape == theirs[name].shape:
                    found[name] = other
        mine, yours = left(ours, a, found.values()), left(theirs, b, found)
        pairs = _in_order(mine, yours, lambda name: ours[name].shape, lambda n: theirs[n].shape)
        found |= {b: a for a, b in pairs}
    return found


def _in_order(
    ours: list[str], theirs: list[str], our_shape: Callable[[str], Any],
    their_shape: Callable[[str], Any],
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Pair what has the same shape, in the same order."""
    shapes = [our_shape(name) for name in ours], [their_shape(name) for name in theirs]
    for a, b, size in SequenceMatcher(None, *shapes, autojunk=False).get_matching_blocks():
        yield from zip(ours[a : a + size], theirs[b : b + size], strict=True)
