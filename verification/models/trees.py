"""Tensors in whatever a layer takes or returns: tuples, mappings, dataclasses, nested."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor


def tensors_of(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors with their places.

    Example:
        >>> [place for place, _ in tensors_of((torch.ones(1), {"mask": torch.ones(1)}, None))]
        ['0', '1.mask']
    """
    if isinstance(value, Tensor):
        yield path, value
    for key, item in _items(value):
        yield from tensors_of(item, f"{path}.{key}" if path else str(key))


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return the same structure with other tensors; what has no tensors is not copied.

    Example:
        >>> map_tensors(torch.neg, [torch.ones(1), "x"])
        [tensor([-1.]), 'x']
    """
    if isinstance(value, Tensor):
        return function(value)
    if not any(True for _ in tensors_of(value)):
        return value
    new = {key: map_tensors(function, item) for key, item in _items(value)}
    if isinstance(value, tuple):
        named = hasattr(value, "_fields")
        return type(value)(*new.values()) if named else type(value)(new.values())
    if isinstance(value, list):
        return type(value)(new.values())
    changed = copy.copy(value)
    for key, item in new.items():
        if isinstance(value, Mapping):
            changed[key] = item
        else:
            object.__setattr__(changed, key, item)
    return changed


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):  # before dataclasses: an output of transformers is both
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def clone(value: Any) -> Any:
    """Copy the tensors, apart from any graph; each knows whether it required a gradient."""
    return map_tensors(lambda t: t.detach().clone().requires_grad_(t.requires_grad), value)


def largest(value: Any) -> float:
    """Return the largest absolute value of the floats, 0 without any."""
    floats = [t.detach() for _, t in tensors_of(value) if t.is_floating_point() and t.numel()]
    return max((float(t.abs().max()) for t in floats), default=0.0)


def nudged(value: Any, generator: torch.Generator) -> Any:
    """Change every float but 0 by −1 or +1 unit in the last place, at random.

    Example:
        >>> x = torch.tensor([0.0, 1.0])
        >>> nudged(x, torch.Generator().manual_seed(0)) - x
        tensor([ 0.0000e+00, -5.9605e-08])
    """

    def nudge(tensor: Tensor) -> Tensor:
        old = tensor.detach()
        if not old.is_floating_point():
            return old.clone()
        up = torch.empty(old.shape).bernoulli_(0.5, generator=generator).bool().to(old.device)
        new = torch.nextafter(old, torch.where(up, torch.inf, -torch.inf).to(old))
        kept = (old == 0) | ~torch.isfinite(new)
        return torch.where(kept, old, new).requires_grad_(tensor.requires_grad)

    return map_tensors(nudge, value)
