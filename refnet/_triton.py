"""Kernels in Triton: when they can run, and on which device.

A `cuda.py` beside the reference imports triton at its top, and is itself imported with the first
call on a CUDA tensor: `kernels("refnet.ops.softmax.cuda")` stands for it until then. Whoever works
on a CPU needs no triton and waits for none.

With TRITON_INTERPRET=1 in the environment Triton's interpreter runs the kernels, in NumPy, on a
CPU: slow, and enough to check them. They are then preferred on CPU tensors too.
"""

from __future__ import annotations

import functools
import importlib
import os
import struct
import warnings
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = ["ASSERTING", "INTERPRETED", "Kernels", "halves", "launching"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # read once, as Triton does
# Options of a launch whose `tl.device_assert` shall be heeded, and no more of debugging than that.
ASSERTING: dict[str, bool] = {} if INTERPRETED else {"debug": True, "sanitize_overflow": False}
_OLDEST = (3, 3)

_failure = ""


class Kernels:
    """A module of kernels, imported when the first call comes that it may serve.

    Attributes:
        module: the module, or None as long as nothing asked for it.

    Example:
        >>> Kernels("refnet.ops.softmax.cuda").unsupported(torch.ones(2), 0, torch.float32)
        'a tensor on cpu'
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.module: ModuleType | None = None

    def unsupported(self, *args: Any) -> str:
        """Return why the kernels cannot serve a call; empty if they can.

        Args:
            args: of the call, the tensor that says where it runs first.
        """
        return self.unavailable(args[0]) or str(self.module.unsupported(*args))  # type: ignore[union-attr]

    def unavailable(self, tensor: Tensor) -> str:
        """Return why there are no kernels for a tensor, whatever a call asks; empty if there are.

        Args:
            tensor: whatever the caller gave for one.
        """
        if not (isinstance(tensor, Tensor) and (INTERPRETED or tensor.is_cuda)):
            return f"a tensor on {getattr(tensor, 'device', type(tensor).__name__)}"
        if self.module is None and not _failure:
            self._load()
        return _failure

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def _load(self) -> None:
        global _failure
        try:
            import triton

            if tuple(map(int, triton.__version__.split(".")[:2])) < _OLDEST:
                oldest = ".".join(map(str, _OLDEST))
                raise ImportError(f"triton {triton.__version__} is older than {oldest}")
            if INTERPRETED:
                _round_to_nearest()
            self.module = importlib.import_module(self.name)
        except Exception as error:  # whatever Triton has: the reference does without
            _failure = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"refnet has no CUDA kernels here ({_failure}): the slower reference runs",
                stacklevel=2,
            )


def halves(x: float) -> tuple[float, float]:
    """Return two numbers whose sum is a double, for a kernel: Triton passes a float as a float32.

    Example:
        >>> high, low = halves(0.1)
        >>> high == float(torch.tensor(0.1)), abs(high + low - 0.1) < 1e-16
        (True, True)
    """
    high = struct.unpack("f", struct.pack("f", x))[0]
    return high, x - high


def launching(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return what a launch stands in: Triton launches on the current device, not on a tensor's."""
    if not tensor.is_cuda or tensor.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(tensor.device)


def _round_to_nearest() -> None:
    """Let the interpreter round to bfloat16 as devices do; it truncates."""
    from triton.runtime import interpreter

    convert = interpreter._convert_float
    if hasattr(convert, "__wrapped__"):
        return

    @functools.wraps(convert)
    def rounded(numbers: Any, source: Any, target: Any, mode: Any) -> Any:
        if (source.name, target.name) != ("fp32", "bf16"):
            return convert(numbers, source, target, mode)
        floats = torch.from_numpy(numbers.view("float32").copy())
        return floats.to(torch.bfloat16).view(torch.uint16).numpy()

    interpreter._convert_float = rounded
