"""Plain Python loops, compiled by numba into functions of addresses and numbers.

    @compiled
    def scale(x: Reals, y: Reals, n: int, a: float) -> None:
        for i in range(n):
            y[i] = a * x[i]

    call = scale.get(torch.float32)  # None where numba is missing or fails: run the reference
    call(x.data_ptr(), y.data_ptr(), x.numel(), 2.0)

To add a kernel, write such a loop in a `cpu.py` beside the reference:

- The annotations are the signature. `Reals` points to numbers of the dtype that `get` is asked for,
  `Doubles`, `Ints` and `Bytes` to float64, int64 and uint8, `Pointers` to a table of `Reals`;
  `int`, `float` (a double) and `bool` are numbers. It returns None, an `int` or a `float`.
- `real = type(x[0])` is the dtype's constructor: `real(a) * x[i]` stays in float32 where x is.
- It calls `math` and functions under `@inlined`, makes no arrays and raises nothing.
- Neither indices nor alignment are checked: look at shapes, strides and labels before the call.
- It runs without Python's lock, in one thread; `refnet._threads.share` cuts the work into ranges.
- It stays Python: `scale.function(x, y, n, 2.0)` with NumPy arrays for pointers does the same.

numba is imported with the first kernel that is asked for, not with refnet. It keeps the compiled
code on disk, here under a name with a digest of all the source that went in, so that a change of an
inlined function, or of a constant, is never missed. What is called is the entry that it makes for
one signature: ctypes takes five times as long to convert twenty arguments.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Annotated, Any

import torch

__all__ = [
    "ELEMENTS",
    "SUMS",
    "Bytes",
    "Doubles",
    "Ints",
    "Kernel",
    "Pointers",
    "Reals",
    "compiled",
    "forget",
    "inlined",
    "unavailable",
]

Reals = Annotated[Any, "reals"]
Pointers = Annotated[Any, "pointers"]
Doubles = Annotated[Any, "doubles"]
Ints = Annotated[Any, "ints"]
Bytes = Annotated[Any, "bytes"]

# What the compiler may change. In loops over elements: fuse a product with a sum, and nothing else,
# so that an element's result doesn't depend on where it stands. In sums: their order, too. Never:
# take NaN and ∞ for impossible (nnan, ninf).
ELEMENTS = ("contract",)
SUMS = ("arcp", "contract", "nsz", "reassoc")

VECTOR_BITS = 512  # at most: the processor may have less
_OLDEST_NUMBA = (0, 61)
_NAMES = {torch.float32: "float32", torch.float64: "float64"}

_log = logging.getLogger("refnet")
_lock = threading.RLock()
_kernels: list[Kernel] = []
_written: dict[FunctionType, CodeType] = {}  # kernels and inlined functions, as they were written
_own: dict[FunctionType, tuple[str, ...]] = {}  # inlined functions' own `fastmath`
_jitted: dict[tuple[Any, ...], Any] = {}  # inlined functions, for all kernels that call them
_failure = ""
_said: set[str] = set()


class Kernel:
    """A loop, and the compiled functions that were made of it.

    Attributes:
        function: the loop in Python.
    """

    def __init__(self, function: FunctionType, fastmath: Iterable[str]) -> None:
        self.function = self.__wrapped__ = function
        self._fastmath = tuple(fastmath)
        self._calls: dict[torch.dtype, Callable[..., Any]] = {}
        self._made: dict[tuple[torch.dtype, str], Any] = {}  # by dtype and digest of the source
        _written[function] = function.__code__
        _kernels.append(self)

    def get(self, dtype: torch.dtype) -> Callable[..., Any] | None:
        """Return what runs for a dtype, or None, after one warning, where there can be none.

        Args:
            dtype: what `Reals` are, float32 or float64.
        """
        call = self._calls.get(dtype)
        if call is None and not _failure:
            with _lock:
                call = self._calls.get(dtype) or self._compile(dtype)
        return call

    def _compile(self, dtype: torch.dtype) -> Callable[..., Any] | None:
        start = time.perf_counter()
        trouble: Exception | None = None
        try:
            made, trouble = self._from_cache_or_source(dtype)
        except Exception as error:  # whatever numba has: the reference does without
            _fail(f"{type(error).__name__}: {error}")
            return None
        (entry,) = made.overloads.values()
        self._calls[dtype] = entry.entry_point
        if trouble is not None:
            _say_once(
                "cache", warnings.warn,
                f"refnet's compiled kernels cannot be kept on disk ({trouble}), and are compiled "
                "again in every process. NUMBA_CACHE_DIR names a directory for them.",
            )  # fmt: skip
        elif not made.stats.cache_hits:
            seconds = time.perf_counter() - start
            _say_once(
                "compiled", _log.warning,
                "refnet compiles its CPU kernels when they are first used, once on a machine: "
                f"{self.function.__name__} took {seconds:.1f} s",
            )  # fmt: skip
        return self._calls[dtype]

    def _from_cache_or_source(self, dtype: torch.dtype) -> tuple[Any, Exception | None]:
        """Return compiled code, and what went wrong in keeping it on disk."""
        import numba

        if numba.version_info[:2] < _OLDEST_NUMBA:
            oldest = ".".join(map(str, _OLDEST_NUMBA))
            raise ImportError(f"numba {numba.__version__} is older than {oldest}")
        options: dict[str, Any] = {
            "fastmath": set(self._fastmath), "error_model": "numpy", "nogil": True,
        }  # fmt: skip
        *arguments, result = (_numba_type(kind, dtype) for kind in _annotations(self.function))
        signature = result(*arguments)

        def jit(copy: FunctionType, original: FunctionType) -> Any:
            fastmath = _own.get(original, self._fastmath)
            key = self._digest(original), fastmath
            if key not in _jitted:
                own = {**options, "fastmath": set(fastmath)}
                _jitted[key] = numba.njit(**own, forceinline=True)(copy)
            return _jitted[key]

        digest, trouble = self._digest(self.function), None
        made = self._made.get((dtype, digest))
        if made is not None:
            return made, None
        source = _linked(self.function, jit)
        source.__qualname__ += f"_{digest}"
        functions = (self.function, *_called(self.function))
        if all(
            f.__code__ is _written[f] and Path(f.__code__.co_filename).exists() for f in functions
        ):
            try:
                made = numba.njit(signature, cache=True, **options)(source)
            except Exception as error:  # no place, no space, a broken file
                trouble = error
        self._made[dtype, digest] = made = made or numba.njit(signature, **options)(source)
        return made, trouble

    def _digest(self, function: FunctionType) -> str:
        """A hash of all the source that goes into a function under this kernel's flags."""
        functions = (function, *_called(function))
        text = repr((VECTOR_BITS, self._fastmath, *((_source(f), _own.get(f)) for f in functions)))
        return hashlib.sha256(f"{function.__module__} {text}".encode()).hexdigest()[:12]


def compiled(fastmath: Iterable[str] = ELEMENTS) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a kernel of a loop; see the module's docstring.

    Args:
        fastmath: what the compiler may change, `ELEMENTS` or `SUMS`.

    Example:
        >>> @compiled()
        ... def halve(x: Reals, n: int) -> None:
        ...     for i in range(n):
        ...         x[i] /= 2
        >>> x = torch.ones(3)
        >>> halve.get(torch.float32)(x.data_ptr(), 3)
        >>> x
        tensor([0.5000, 0.5000, 0.5000])
    """
    return lambda function: Kernel(typing.cast(FunctionType, function), fastmath)


@typing.overload
def inlined(fastmath: Callable[..., Any]) -> Callable[..., Any]: ...
@typing.overload
def inlined(fastmath: Iterable[str]) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def inlined(fastmath: Any) -> Any:
    """Mark a function that kernels may call; itself it stays a Python function.

    Args:
        fastmath: what the compiler may change in it, if not the same as in the kernel.

    Example:
        >>> @inlined
        ... def square(x): return x * x
        >>> square(3)
        9
        >>> @inlined(ELEMENTS)
        ... def shifted(x): return (x + 1e16) - 1e16
        >>> shifted(3.0)
        4.0
    """
    if isinstance(fastmath, FunctionType):
        _written[fastmath] = fastmath.__code__
        return fastmath

    def mark(function: FunctionType) -> FunctionType:
        _own[function] = tuple(fastmath)
        return typing.cast(FunctionType, inlined(function))

    return mark


def unavailable() -> str:
    """Return why there are no compiled kernels; empty as long as nothing has failed.

    Example:
        >>> unavailable()
        ''
    """
    return _failure


def forget() -> None:
    """Look at the source again before the next call: somebody has changed the code of a function.

    What differs from what was written is compiled, and not kept on disk.
    """
    for kernel in _kernels:
        kernel._calls.clear()


def _fail(reason: str) -> None:
    global _failure
    _failure = reason
    _say_once("failure", warnings.warn,
              f"refnet has no CPU kernels here ({reason}): the slower reference runs")  # fmt: skip


def _say_once(topic: str, say: Callable[..., None], text: str) -> None:
    if topic not in _said:
        _said.add(topic)
        say(text)


def _annotations(function: FunctionType) -> list[Any]:
    """Return the kinds of the arguments and, last, of the result."""
    hints = typing.get_type_hints(function, include_extras=True)
    kinds = [hints[name] for name in function.__code__.co_varnames[: function.__code__.co_argcount]]
    return [*kinds, hints.get("return", type(None))]


def _numba_type(kind: Any, dtype: torch.dtype) -> Any:
    from numba import types

    from refnet._address import Address

    pointer: Any = Address
    real = getattr(types, _NAMES[dtype])
    numbers = {int: types.int64, float: types.float64, bool: types.boolean, type(None): types.void}
    pointers = {
        Reals: real,
        Pointers: pointer(real),
        Doubles: types.float64,
        Ints: types.int64,
        Bytes: types.uint8,
    }
    return numbers[kind] if kind in numbers else pointer(pointers[kind])


def _called(function: FunctionType) -> Iterator[FunctionType]:
    """Yield the inlined functions that a function calls, and those that they call."""
    for name in function.__code__.co_names:
        callee = function.__globals__.get(name)
        if isinstance(callee, FunctionType) and callee in _written:
            yield callee
            yield from _called(callee)


def _source(function: FunctionType) -> Any:
    """Return what decides about the compiled code: instructions, constants and names."""
    code, scope = function.__code__, function.__globals__
    numbers = [scope[n] for n in code.co_names if isinstance(scope.get(n), int | float)]
    return code.co_code, code.co_consts, code.co_names, code.co_varnames, numbers


def _linked(
    function: FunctionType, jit: Callable[[FunctionType, FunctionType], Any]
) -> FunctionType:
    """Return a copy of a function that calls compiled functions where it called inlined ones."""
    scope = dict(function.__globals__)
    for name in function.__code__.co_names:
        callee = scope.get(name)
        if isinstance(callee, FunctionType) and callee in _written:
            scope[name] = jit(_linked(callee, jit), callee)
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return copy
