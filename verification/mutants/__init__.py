"""Planted bugs: a check that has never gone red proves nothing.

A mutant is a line of source and what a mistake would have made of it. `planted` puts the mistake
into the running code: functions and methods of the module get the code of the changed source, so
that whoever holds a reference to them runs the bug.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, cast

from refnet._compile import Kernel, forget
from refnet.backend import use_backend

# The modules beside this one that have rows of bugs.
TABLES = (
    "batch_norm", "batch_norm_cpu", "dropout", "dropout_cpu", "softmax", "softmax_cpu",
    "cross_entropy", "cross_entropy_cpu", "linear", "activations", "activations_cpu",
    "optimizers", "optimizers_cpu", "schedules", "chain", "init", "regularization",
    "gradient_flow", "numerical_gradients", "averages", "checked_gradients", "training",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A bug that could have been made.

    Attributes:
        subject: what has to notice: the checks of an op, an optimizer, a schedule, a training run.
        bug: what is wrong, in a few words.
        module: where, below `refnet`; or one of `verification`, by its full name.
        old: text that stands exactly once in the module's source.
        new: what stands there in the mutant.
    """

    subject: str
    bug: str
    module: str
    old: str
    new: str

    @property
    def compiled(self) -> bool:
        """Whether it is in loops that are compiled, or in what calls them."""
        return self.module.rpartition(".")[2] in _COMPILED


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """Run the body of a `with` with a bug in refnet; one thread at a time.

    A bug in the equations needs them to run: the reference is forced. One in a compiled loop needs
    it to be compiled again, for the bug and after it.

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
    module = _module(mutant)
    bugs = _functions(changed(mutant))
    original = {name: f.__code__ for name, f in _functions(module).items()}
    try:
        _set_code(module, {name: f.__code__ for name, f in bugs.items()}, mutant.compiled)
        with use_backend("auto" if mutant.compiled else "reference"):
            yield
    finally:
        _set_code(module, original, mutant.compiled)


_COMPILED = ("cpu", "_elementary", "_plan", "_table", "_threads")  # loops, and what calls them


def changed(mutant: Mutant) -> ModuleType:
    """Return a copy of a mutant's module that has the bug, and leave the module alone.

    Raises:
        ValueError: as `planted`.

    Example:
        >>> import torch
        >>> bug = Mutant("relu", "zero", "ops.activations.reference", "torch.zeros_like(z), z)",
        ...              "torch.zeros_like(z), 2 * z)")
        >>> changed(bug).relu(torch.ones(1))
        tensor([2.])
    """
    module = _module(mutant)
    source = inspect.getsource(module)
    if source.count(mutant.old) != 1:
        found = source.count(mutant.old)
        raise ValueError(f"{mutant.subject}, {mutant.bug}: {mutant.old!r} stands {found} times")
    copy = ModuleType(module.__name__)
    copy.__package__ = module.__package__
    exec(compile(source.replace(mutant.old, mutant.new), str(module.__file__), "exec"), vars(copy))
    return copy


def _module(mutant: Mutant) -> ModuleType:
    inside = mutant.module.startswith("verification.")
    return importlib.import_module(mutant.module if inside else f"refnet.{mutant.module}")


def _functions(module: ModuleType) -> dict[str, FunctionType]:
    """All functions and methods that a module defines, by qualified name."""
    found: dict[str, FunctionType] = {}
    pending: list[Any] = [*vars(module).values()]
    while pending:
        item = pending.pop()
        item = getattr(item, "__func__", item)  # a static or class method
        if inspect.isclass(item) and item.__module__ == module.__name__:
            pending += vars(item).values()
        elif inspect.isfunction(item) or isinstance(item, Kernel):
            item = inspect.unwrap(cast(Any, item))
            if item.__module__ == module.__name__:
                found[item.__qualname__] = item
    return found


def _set_code(module: ModuleType, codes: dict[str, CodeType], compiled: bool) -> None:
    for name, function in _functions(module).items():
        if _instructions(function.__code__) != _instructions(codes[name]):
            function.__code__ = codes[name]  # what is the same need not be compiled again
    if compiled:
        forget()


def _instructions(code: CodeType) -> tuple[Any, ...]:
    return code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars


def mutants() -> list[Mutant]:
    """Return all planted bugs."""
    modules = [importlib.import_module(f"{__name__}.{table}") for table in TABLES]
    return [Mutant(*row) for module in modules for row in module.ROWS]
