"""Ranges of work, shared among as many threads as torch would use.

Kernels run outside Python's lock, so Python's own threads do; numba's thread layers abort a process
that enters them from two threads at once, or a forked child. Who calls works along, and waits for
nobody who has not begun: several threads may call at once, and a pool that cannot start threads
(in a process that is about to end) only means that the caller does it all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["scratch", "share", "share_blocks"]

KEPT = 2**14  # numbers of scratch memory that a thread keeps, at most
SHARE = 2**16  # numbers that are worth a thread of their own, at least

_pool: ThreadPoolExecutor | None = None


def share(work: Callable[[int, int], object], bounds: Sequence[int]) -> None:
    """Call `work(first, last)` for all neighbours in `bounds`, in no particular order.

    On at most `torch.get_num_threads()` threads, the caller's among them; 1 in a forked worker of a
    DataLoader.

    Example:
        >>> done = []
        >>> share(lambda first, last: done.append((first, last)), [0, 3, 5])
        >>> sorted(done)
        [(0, 3), (3, 5)]
    """
    parts = iter(list(pairwise(bounds)))

    def drain() -> None:
        for first, last in parts:
            work(first, last)

    helpers = min(torch.get_num_threads(), len(bounds) - 1) - 1
    futures = _submit(drain, helpers) if helpers > 0 else []
    try:
        drain()
    finally:  # the memory that they write to must stay until they are done
        for future in futures:
            if not future.cancel():
                future.result()


def share_blocks(work: Callable[[int, int], object], blocks: int, numbers: int) -> None:
    """Call `work(first, last)` for ranges of `blocks` equal pieces: four for each thread, or one.

    Args:
        work: works on the pieces from first to last − 1.
        blocks: how many there are; a result that is kept by piece doesn't depend on the threads.
        numbers: in all pieces; few are not worth a second thread.

    Example:
        >>> share_blocks(lambda first, last: print(first, last), 7, 100)
        0 7
    """
    threads = torch.get_num_threads()
    ranges = min(4 * threads, numbers // SHARE, blocks) if threads > 1 else 1
    if ranges < 2:
        work(0, blocks)
    else:
        share(work, [blocks * k // ranges for k in range(ranges + 1)])


class _Own(threading.local):
    memory = torch.empty(0, dtype=torch.float64)


_own = _Own()


def scratch(size: int) -> Tensor:
    """Return float64 memory for the time of a kernel: what was in it is lost with the next call.

    A thread has its own, so that small ones cost nothing.

    Example:
        >>> scratch(3).numel() >= 3, scratch(5).data_ptr() == scratch(4).data_ptr()
        (True, True)
    """
    if size > KEPT:
        return torch.empty(size, dtype=torch.float64)
    if _own.memory.numel() < size:
        _own.memory = torch.empty(KEPT, dtype=torch.float64)
    return _own.memory


def _submit(work: Callable[[], None], times: int) -> list[Future[None]]:
    global _pool
    if _pool is None:
        _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="refnet")
    futures = []
    with suppress(RuntimeError):  # no new threads at the interpreter's shutdown
        for _ in range(times):
            futures.append(_pool.submit(work))
    return futures


def _forget_pool() -> None:
    global _pool
    _pool = None  # a forked child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
