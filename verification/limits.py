"""A time limit for code that may never return, as far as that can be had within a process."""

from __future__ import annotations

import gc
import math
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 1.0  # s: an exception that the code has caught is raised once more
SOON = 0.01  # s: until a finalizer is done, in which Python would print an exception and go on


class TimeLimitExceeded(TimeoutError):
    """A case took longer than it was allowed to."""


def limits_apply() -> bool:
    """Return whether `time_limit` can interrupt here: in the main thread of a POSIX system.

    Elsewhere Python delivers no alarm; and a call that stays in compiled code is interrupted
    nowhere, since the alarm waits for Python's next instruction. Only another process helps then,
    as the command line does.
    """
    main = threading.current_thread() is threading.main_thread()
    return hasattr(signal, "setitimer") and main


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise a TimeLimitExceeded in the body if it takes longer; without limit for None.

    Limits nest: the one that ends first counts, and leaving an inner one puts the handler and the
    timer of the outer one back, with what is left of it.

    Args:
        seconds: of real time, more than 0; None for no limit.

    Raises:
        TimeLimitExceeded: the time is over; see `limits_apply` for where that is noticed.
        ValueError: `seconds` is not a positive number.

    Example:
        >>> with time_limit(0.01):
        ...     while True:
        ...         pass
        Traceback (most recent call last):
        verification.limits.TimeLimitExceeded: more than 0.01 s
    """
    if seconds is not None and not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a positive number, got {seconds}")
    if seconds is None or not limits_apply():
        yield
        return
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    if 0 < left <= seconds:  # an outer limit ends first
        yield
        return

    def expired(_signal: int, frame: FrameType | None) -> None:
        if _would_be_lost(frame):
            signal.setitimer(signal.ITIMER_REAL, SOON, AGAIN)
            return
        raise TimeLimitExceeded(f"more than {seconds:g} s")

    before, start = signal.signal(signal.SIGALRM, expired), time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if left:
            rest = left - (time.monotonic() - start)
            signal.setitimer(signal.ITIMER_REAL, max(rest, 1e-6), interval)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Tell whether code runs whose exceptions Python prints and drops: that of its finalizers.

    Such are `__del__`, what is called for a weak reference, and `gc.callbacks`.
    """
    collectors = {getattr(call, "__code__", None) for call in gc.callbacks}
    while frame is not None:
        code = frame.f_code
        finalizes = code.co_name == "__del__" or code.co_filename == weakref.__file__
        if finalizes or code in collectors:
            return True
        frame = frame.f_back
    return False
