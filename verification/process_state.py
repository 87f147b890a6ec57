"""What a call may not change in its process: defaults, modes, threads, flags."""

from __future__ import annotations

from collections.abc import Callable
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
    # What is drawn moves the generator; a seed is somebody else's.
    "the generator's seed": (torch.initial_seed, torch.manual_seed),
}  # fmt: skip


def state() -> State:
    """Return all that a call may not change.

    Example:
        >>> state()["default dtype"]
        torch.float32
    """
    return {name: read() for name, (read, _) in SETTINGS.items()}


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
    for name, value in state().items():
        if value != before[name]:
            changed.append(f"{name}: {before[name]} became {value}")
            SETTINGS[name][1](before[name])
    return changed
