"""What a call may not change in its process: defaults, modes, flags, torch's functions."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

State = dict[str, Any]
Setting = tuple[Callable[[], Any], Callable[[Any], object]]  # how it is read, and how it is set

_backends: Any = torch.backends  # the annotations lack some of it
_CPU = torch.device("cpu")


def _flag(owner: Any, name: str) -> Setting:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _autocast(kind: str) -> Setting:
    def write(value: Any) -> None:
        torch.set_autocast_enabled(kind, value[0])
        torch.set_autocast_dtype(kind, value[1])

    return lambda: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)), write


def _flushes() -> bool:
    """Tell whether denormal numbers count as 0, which nothing else tells."""
    return not (torch.tensor([1e-310], dtype=torch.float64, device="cpu") * 1).item()


def _umask() -> int:
    """Return the mask of new files, which is only told to who sets it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a folder that is gone"


def _variables() -> Mapping[str, str]:
    return {n: v for n, v in os.environ.items() if not n.startswith(_COMPILERS)}


def _set_variables(before: Mapping[str, str]) -> None:
    for name in _variables().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


_COMPILERS = (
    "TORCHINDUCTOR_",
    "_TORCHINDUCTOR_",
    "TRITON_",
    "KMP_",
)  # what `torch.compile` sets for its processes


def _handlers() -> Mapping[str, Any]:
    return {s.name: signal.getsignal(s) for s in _SIGNALS}


def _set_handlers(before: Mapping[str, Any]) -> None:
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            signal.signal(number, before[number.name])


_SIGNALS = [
    signal.Signals[name]
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE")
    if name in signal.Signals.__members__
]  # not those of time limits and child processes, which others set


# Where torch's functions and methods are, and with what name somebody would write them.
_OWNERS: dict[str, Any] = {
    "torch": torch,
    "torch.nn": torch.nn,
    "torch.nn.functional": torch.nn.functional,
    "torch.optim": torch.optim,
    **{
        f"torch.{place}": getattr(getattr(torch, head) if head else torch, name)
        for place in ("Tensor", "nn.Module", "optim.Optimizer", "optim.SGD", "optim.RMSprop",
                      "optim.Adam", "optim.AdamW")
        for head, _, name in [place.rpartition(".")]
    },
}  # fmt: skip


def _functions() -> Mapping[str, Mapping[str, Any]]:
    found = {place: dict(vars(owner)) for place, owner in _OWNERS.items()}
    del found["torch"]["Storage"]  # it goes with the default dtype
    return found


def _replaced(before: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return what stood in the places where something else stands now.

    A name that is new counts where it hides an inherited one: torch itself imports modules late.
    """
    found: dict[str, Any] = {}
    for place, names in before.items():
        owner = _OWNERS[place]
        now = vars(owner)
        for name, old in names.items():
            new = now.get(name, _GONE)
            is_function = callable(old) or isinstance(old, _DESCRIPTORS)
            if new is not old and is_function and not _torchs_own(new, old):
                found[f"{place}.{name}"] = old
        if isinstance(owner, type):
            for name in now.keys() - names.keys():
                old = _inherited(owner, name)
                if old is not _GONE and not _torchs_own(now[name], old):
                    found[f"{place}.{name}"] = _GONE
    return found


def _torchs_own(new: Any, old: Any) -> bool:
    """Tell whether torch has wrapped a function, as the first optimizer or compilation does."""
    file = getattr(getattr(new, "__code__", None), "co_filename", "")
    if not file.startswith(os.path.dirname(torch.__file__)):
        return False
    return inspect.unwrap(new) is inspect.unwrap(old) or file.endswith("mutation_guard.py")


_GONE = object()
_DESCRIPTORS = (property, staticmethod, classmethod)


def _inherited(owner: type, name: str) -> Any:
    return next((vars(base)[name] for base in owner.__mro__[1:] if name in vars(base)), _GONE)


def _put_functions_back(replaced: Mapping[str, Any]) -> None:
    for whole, old in replaced.items():
        place, _, name = whole.rpartition(".")
        if old is _GONE:
            delattr(_OWNERS[place], name)
        else:
            setattr(_OWNERS[place], name, old)


SETTINGS: dict[str, Setting] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device == _CPU else device),
    ),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "anomaly detection": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "autocast on the CPU": _autocast("cpu"),
    "autocast on CUDA": _autocast("cuda"),
    "deterministic algorithms": (
        torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode,
    ),
    "denormals flushed": (_flushes, torch.set_flush_denormal),
    "cuDNN on": _flag(_backends.cudnn, "enabled"),
    "cuDNN deterministic": _flag(_backends.cudnn, "deterministic"),
    "cuDNN benchmark": _flag(_backends.cudnn, "benchmark"),
    "float32 matmul on CUDA": _flag(_backends.cuda.matmul, "fp32_precision"),
    "float32 convolution on CUDA": _flag(_backends.cudnn.conv, "fp32_precision"),
    "float32 matmul on the CPU": _flag(_backends.mkldnn.matmul, "fp32_precision"),
    "NumPy's errors": (np.geterr, lambda value: np.seterr(**value)),
    "the working folder": (_folder, os.chdir),
    "environment variables": (_variables, _set_variables),
    "the mask of new files": (_umask, os.umask),
    "signal handlers": (_handlers, _set_handlers),
    "sys.stdout": _flag(sys, "stdout"),
    "sys.stderr": _flag(sys, "stderr"),
    # What is drawn moves the generator; a seed is somebody else's.
    "the generator's seed": (torch.initial_seed, torch.manual_seed),
}  # fmt: skip


def state() -> State:
    """Return all that a call may not change.

    Example:
        >>> state()["default dtype"]
        torch.float32
    """
    return {name: read() for name, (read, _) in SETTINGS.items()} | {_FUNCTIONS: _functions()}


def put_back(before: State) -> list[str]:
    """Put everything back; return in words what had been changed.

    Args:
        before: what `state` returned.

    Example:
        >>> before = state()
        >>> torch.set_default_dtype(torch.float64)
        >>> put_back(before), put_back(before)
        (['default dtype: torch.float32 became torch.float64'], [])
    """
    changed = []
    if replaced := _replaced(before[_FUNCTIONS]):  # first: the others call some of them
        changed.append(f"{_FUNCTIONS}: {', '.join(replaced)} became another")
        _put_functions_back(replaced)
    for name, (read, write) in SETTINGS.items():
        old, new = before[name], read()
        if new != old:
            changed.append(f"{name}: {_change(old, new)}")
            write(old)
    return changed


def _change(old: Any, new: Any) -> str:
    """Say what became what; of variables the names alone, since some values are secrets."""
    if isinstance(old, Mapping):
        names = sorted(n for n in old.keys() | new.keys() if old.get(n) != new.get(n))
        return f"{', '.join(names)} became another"
    return f"{old} became {new}"


_FUNCTIONS = "torch's functions"
