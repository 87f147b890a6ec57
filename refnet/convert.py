"""Swap the layers of a model for refnet's, in place, and back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from refnet import _calls, nn

_Root = TypeVar("_Root", bound=torch.nn.Module)
_Swaps = dict[type, type]

# torch's class -> refnet's, for every name that both have.
_THEIRS = torch.nn.modules
_OURS: _Swaps = {getattr(_THEIRS, n): getattr(nn, n) for n in nn.__all__ if hasattr(_THEIRS, n)}
# Not layers: containers, and what computes a parameter.
_UNLISTED = ("torch.nn.modules.container", "torch.nn.utils")


@dataclass(frozen=True)
class Row:
    """A module that was swapped, or a place that was left.

    Attributes:
        names: dotted paths of the module: several where it is registered more than once. What is
            inside a shared module is named by the first of its paths.
        layer: name of its class before.
        reason: why it was left; empty of a swapped one.
        location: file:line, or the node of a graph, of a call that was left; else empty.
    """

    names: tuple[str, ...]
    layer: str
    reason: str = ""
    location: str = ""

    @property
    def name(self) -> str:
        """All paths of the module, the root being "(root)"."""
        return " = ".join(name or "(root)" for name in self.names)


@dataclass(frozen=True)
class Conversion:
    """What `convert` did. `str()` of it is a table, equal rows being one line of it.

    Attributes:
        to: "refnet" or "torch".
        swapped: the layers that are of the other package now.
        left: the rest, with reasons, but for containers and what was of that package before.
    """

    to: str
    swapped: tuple[Row, ...]
    left: tuple[Row, ...]

    @property
    def summary(self) -> str:
        """The counts, in one line."""
        return f"convert to {self.to}: {len(self.swapped)} swapped, {len(self.left)} left"

    def __str__(self) -> str:
        """Return the summary and the table."""
        lines: dict[tuple[str, ...], list[str]] = {}
        for what, rows in (("swapped", self.swapped), ("left", self.left)):
            for row in rows:
                reason = " at ".join(filter(None, (row.reason, row.location)))
                lines.setdefault((what, row.layer, reason), []).append(row.name)
        width = max((len(layer) for _, layer, _ in lines), default=0)
        table = [self.summary]
        for (what, layer, reason), names in lines.items():
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            where = ", ".join(names[:3]) + more
            end = f": {reason}" if reason else ""
            table.append(f"{what:7} {len(names):4} x {layer:{width}}  {where}{end}")
        return "\n".join(table)


def convert(
    module: _Root,
    to: Literal["refnet", "torch"] = "refnet",
    *,
    report: Callable[[Conversion], object] | None = None,
) -> _Root:
    """Swap every layer of a model that has a namesake in `refnet.nn` (or `torch.nn`), in place.

    Only the class of a layer changes, so that parameters, buffers, hooks, tied modules, names,
    dtype, device, training mode and an existing optimizer stay as they are.

    Left, and reported with the reason: layers without a namesake; subclasses (a parametrized layer
    is one), since they may compute something else; layers whose `forward` was replaced on the
    instance; what `torch.jit` compiled; and functions, such as `F.relu` in a `forward` or in a
    graph of `torch.fx`. Those are searched for in the source, as well as that goes, and are to be
    replaced by hand by `refnet.functional`'s.

    Args:
        module: the root of the model; it may be a layer itself.
        to: "refnet", or "torch" for the way back.
        report: called with the `Conversion` after the swap, for instance `print`. Without it, its
            summary is logged to "refnet" at level INFO.

    Returns:
        `module` itself.

    Raises:
        TypeError: `module` is no `torch.nn.Module`, or `report` can't be called.
        ValueError: `to` is neither "refnet" nor "torch".

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())
        >>> model = convert(model, report=print)
        convert to refnet: 1 swapped, 1 left
        swapped    1 x ReLU    1
        left       1 x Conv2d  0: no counterpart in refnet.nn
        >>> isinstance(model[1], nn.ReLU)
        True
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"convert: module must be a torch.nn.Module, got {module!r}")
    if to not in ("refnet", "torch"):
        raise ValueError(f'convert: to must be "refnet" or "torch", got {to!r}')
    if report is not None and not callable(report):
        raise TypeError(f"convert: report must be callable, got {report!r}")
    swaps = _OURS if to == "refnet" else {ours: theirs for theirs, ours in _OURS.items()}
    names: dict[torch.nn.Module, list[str]] = {}
    for path, part in _walk(module, set()):
        names.setdefault(part, []).append(path)
    plan: list[tuple[torch.nn.Module, type]] = []  # complete before the first swap
    swapped: list[Row] = []
    left: list[Row] = []
    for part, found in names.items():
        paths = tuple(found)
        layer = type(part).__name__
        reasons = dict.fromkeys(_reasons(part, to, swaps))
        left += [Row(paths, layer, reason, location) for reason, location in reasons]
        if type(part) in swaps and not reasons:
            plan.append((part, swaps[type(part)]))
            swapped.append(Row(paths, layer))
    for part, cls in plan:
        part.__class__ = cls
        if to == "torch":  # what a SyncBatchNorm was before
            vars(part).pop("_converted_from", None)
    done = Conversion(to, tuple(swapped), tuple(left))
    if report is None:
        logging.getLogger("refnet").info(done.summary)
    else:
        report(done)
    return module


def _walk(
    module: torch.nn.Module, entered: set[torch.nn.Module], path: str = ""
) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield every path and its module, a tied one more than once, but what is inside it once.

    Nothing from inside a script.
    """
    yield path, module
    if module not in entered and not isinstance(module, torch.jit.ScriptModule):
        entered.add(module)
        for name, child in module._modules.items():
            if child is not None:
                yield from _walk(child, entered, f"{path}.{name}" if path else name)


def _reasons(module: torch.nn.Module, to: str, swaps: _Swaps) -> Iterator[tuple[str, str]]:
    """Yield why a module is left, or what it computes besides its layers, and where."""
    base = next((cls for cls in type(module).__mro__ if cls in swaps), None)
    if isinstance(module, torch.jit.ScriptModule):
        yield "compiled by torch.jit, which fixed its layers", ""
    elif type(module) in swaps:
        if "forward" in vars(module):
            yield "its forward was replaced on the instance", ""
    elif to == "refnet" and isinstance(module, tuple(_OURS.values())):
        return  # there already
    elif type(module).__module__.startswith("torch.ao.nn.quantized"):
        yield "quantized", ""
    elif base is not None:
        yield f"a subclass of {base.__name__}, which may compute something else", ""
    else:
        calls = list(_calls.find(module, "torch" if to == "refnet" else "refnet", set(swaps)))
        yield from calls
        is_layer = not module._modules and not type(module).__module__.startswith(_UNLISTED)
        if to == "refnet" and is_layer and not calls:
            ours = type(module).__module__.startswith("torch.nn")
            yield "no counterpart in refnet.nn" if ours else "no layer of torch's", ""
