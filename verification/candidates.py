"""Find a user's op or optimizer by name, and the name of one that is at hand."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from operator import attrgetter
from pathlib import Path
from typing import Any


class NotFound(ValueError):
    """A candidate that cannot be loaded; the message is one line."""


def load(name: str) -> Any:
    """Return what "module:name" or "path/to/file.py:name" stands for.

    Args:
        name: a module that can be imported here, or a file, of a package too; then a function,
            class, or an attribute of one, as in "mine:Ops.relu".

    Returns:
        The object.

    Raises:
        NotFound: there is no such thing, or its module cannot be imported.

    Example:
        >>> load("math:sqrt")(4.0)
        2.0
        >>> load("math:root")
        Traceback (most recent call last):
        verification.candidates.NotFound: math has no 'root'
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise NotFound(f"expected module:name or path/to/file.py:name, got {name!r}")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    except NotFound:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise NotFound(f"cannot import {place}: {reason}") from error
    try:
        return attrgetter(attribute)(module)
    except AttributeError:
        raise NotFound(f"{place} has no {attribute!r}") from None


def _from_module(name: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    folder, name = _place(path.resolve())
    if "." not in name and name not in sys.modules:
        return _run_file(path, name)
    if name not in sys.modules:  # of a package, whose other files it may import
        sys.path.insert(0, str(folder))
        importlib.import_module(name)
    found = getattr(sys.modules[name], "__file__", None) or ""
    if Path(found).resolve() != path.resolve():
        raise NotFound(f"{path}: there is another module {name}, {found}; rename one of them")
    return sys.modules[name]


def _run_file(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NotFound(f"{path} is no Python file")
    sys.path.insert(0, str(path.parent.resolve()))  # as for a script: its neighbours
    sys.modules[name] = importlib.util.module_from_spec(spec)  # what it defines can be pickled then
    try:
        spec.loader.exec_module(sys.modules[name])
    except BaseException:
        del sys.modules[name]
        raise
    return sys.modules[name]


def _place(path: Path) -> tuple[Path, str]:
    """Return the folder that a file is imported from, and by what name: a package's is dotted."""
    folder, names = path.parent, [path.stem]
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        folder, names = folder.parent, [folder.name, *names]
    return folder, ".".join(names).removesuffix(".__init__")


def name_of(candidate: Any) -> str:
    """Return the name by which `load` finds an object in a new process, "" if there is none.

    Example:
        >>> from torch.nn import functional
        >>> name_of(functional.batch_norm), name_of(lambda x: x)
        ('torch.nn.functional:batch_norm', '')
    """
    place, attribute = getattr(candidate, "__module__", ""), getattr(candidate, "__qualname__", "")
    module = sys.modules.get(place or "")
    try:
        found = attrgetter(attribute)(module) if attribute else None
    except AttributeError:  # a function within a function
        found = None
    if module is None or found is not candidate:
        return ""
    if _importable(place):
        return f"{place}:{attribute}"
    path = getattr(module, "__file__", None)
    if not path or not path.endswith(".py"):
        return ""
    inside = Path(path).resolve().is_relative_to(Path.cwd())
    return f"{os.path.relpath(path) if inside else path}:{attribute}"


def _importable(module: str) -> bool:
    """Tell whether a new process in this folder would find the module that is imported here.

    The first place of `sys.path` is that of the running script. Others within this folder may be
    there for this process alone, as pytest's are; what lies in them has a path.
    """
    top = module.partition(".")[0]
    if top in sys.builtin_module_names:
        return True
    try:
        spec = PathFinder.find_spec(top, [os.getcwd(), *filter(_lasting, sys.path[1:])])
    except (ImportError, ValueError):
        return False
    here = getattr(sys.modules.get(top), "__spec__", None)
    return spec is not None and here is not None and spec.origin == here.origin


def _lasting(place: str) -> bool:
    path = Path(place).resolve()
    return path.name in ("site-packages", "dist-packages") or Path.cwd() not in path.parents
