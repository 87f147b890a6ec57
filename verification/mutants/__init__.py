"""Planted bugs: a check that has never gone red proves nothing.

A mutant is a line of refnet's source and what a mistake would have made of it. `planted` puts the
mistake into the running code: functions and methods of the module get the code of the changed
source, so that whoever holds a reference to them runs the bug.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any


@dataclass(frozen=True)
class Mutant:
    """A bug that could have been made.

    Attributes:
        subject: the part of the suite that has to notice, an op or an optimizer.
        bug: what is wrong, in a few words.
        module: where, below `refnet`.
        old: text that stands exactly once in the module's source.
        new: what stands there in the mutant.
    """

    subject: str
    bug: str
    module: str
    old: str
    new: str


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Run the body of a `with` with a bug in refnet; one thread at a time.

    Raises:
        ValueError: the text isn't there, or more than once: the table is out of date.

    Example:
        >>> import torch
        >>> from refnet.functional import relu
        >>> bug = Mutant("relu", "zero", "ops.activations.reference", "torch.zeros_like(z), z)",
        ...              "torch.zeros_like(z), 2 * z)")
        >>> with planted(bug): relu(torch.ones(1))
        tensor([2.])
        >>> relu(torch.ones(1))
        tensor([1.])
    """
    module = importlib.import_module(f"refnet.{mutant.module}")
    source = inspect.getsource(module)
    if source.count(mutant.old) != 1:
        found = source.count(mutant.old)
        raise ValueError(f"{mutant.subject}, {mutant.bug}: {mutant.old!r} stands {found} times")
    changed = ModuleType(module.__name__)
    changed.__package__ = module.__package__
    code = compile(source.replace(mutant.old, mutant.new), str(module.__file__), "exec")
    exec(code, changed.__dict__)
    original = {name: f.__code__ for name, f in _functions(module).items()}
    try:
        _set_code(module, {name: f.__code__ for name, f in _functions(changed).items()})
        yield
    finally:
        _set_code(module, original)


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """All functions and methods that a module defines, by qualified name."""
    found: dict[str, FunctionType] = {}
    pending: list[Any] = [*vars(module).values()]
    while pending:
        item = pending.pop()
        item = getattr(item, "__func__", item)  # a static or class method
        if inspect.isclass(item) and item.__module__ == module.__name__:
            pending += vars(item).values()
        elif inspect.isfunction(item) and item.__module__ == module.__name__:
            item = inspect.unwrap(item)
            found[item.__qualname__] = item
    return found


def _set_code(module: ModuleType, codes: dict[str, CodeType]) -> None:
    for name, function in _functions(module).items():
        function.__code__ = codes[name]


def mutants() -> list[Mutant]:
    """Return all planted bugs."""
    from verification.mutants import (
        activations,
        batch_norm,
        cross_entropy,
        dropout,
        linear,
        optimizers,
        softmax,
    )

    modules = (batch_norm, dropout, softmax, cross_entropy, linear, activations, optimizers)
    return [Mutant(*row) for module in modules for row in module.ROWS]
