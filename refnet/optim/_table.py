"""A table of addresses: where the parameters, gradients and state are that a kernel works through.

So a step costs one call, however many parameters there are. A column is a parameter, or a piece of
a large one: threads share the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refnet._compile import Doubles, Ints, Kernel, Pointers, compiled
from refnet._threads import share

__all__ = ["REAL", "Table", "count"]

PIECE = 2**16  # numbers in a column, at most
SHARE = 2**16  # numbers that are worth a thread of their own, at least

# What kernels see of a dtype: a complex number is a pair.
REAL = {
    torch.float32: torch.float32,
    torch.float64: torch.float64,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


@compiled()
def count(steps: Pointers, n: int, ts: Doubles, owners: Ints, columns: int) -> None:
    """t ← t + 1, in the state of each parameter; and as a double for each of its pieces."""
    for k in range(n):
        step = steps[k]
        step[0] += 1
    for k in range(columns):
        ts[k] = steps[owners[k]][0]


class Table:
    """Where parameters of one dtype and their state are; where the gradients are, `point` is told.

    Args:
        params: the parameters.
        states: their state, with counts of steps that have one dtype, or with none at all.
        names: of the state that is as large as a parameter.
        rows: names of all such state that the kernel knows, in its order.
        fresh: for each parameter, whether its state is made by this step.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Any]],
        names: Sequence[str],
        rows: Sequence[str],
        fresh: Sequence[bool],
    ) -> None:
        self._real = REAL[params[0].dtype]
        self._changed = [*params, *(state[name] for state in states for name in names)]
        at = np.zeros((2 + len(rows), len(params)), np.int64)  # 0 for what isn't there
        at[0] = [param.data_ptr() for param in params]
        for name in names:
            at[2 + rows.index(name)] = [state[name].data_ptr() for state in states]

        numbers = np.array([p.numel() * (2 if p.is_complex() else 1) for p in params])
        pieces = np.maximum(-(-numbers // PIECE), 1)
        self._owners = np.repeat(np.arange(len(params)), pieces)
        start = PIECE * (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces))
        self._sizes = np.minimum(numbers[self._owners] - start, PIECE)
        self._offset = start * self._real.itemsize
        at = np.take(at, self._owners, axis=1)
        self._at = np.ascontiguousarray(at + (at != 0) * self._offset)  # row after row
        self._bounds: dict[int, Sequence[int]] = {}  # by number of threads

        # Unless steps are counted, t is 1 in the first and 2 in all others.
        self._ts = np.where(np.array(fresh)[self._owners], 1.0, 2.0)
        steps = [state["step"] for state in states if "step" in state]
        self._steps = np.array([step.data_ptr() for step in steps], np.int64)
        self._counter = steps[0].dtype if steps else None
        columns = len(self._owners)
        self._count = (_at(self._steps), len(steps), _at(self._ts), _at(self._owners), columns)
        height = self._at.strides[0]
        rows_at = (_at(self._at) + height * row for row in range(len(self._at)))
        self._first = (*rows_at, _at(self._ts), _at(self._sizes))

    def point(self, grads: Sequence[int]) -> None:
        """Put in the addresses of the gradients, one for each parameter."""
        if len(grads) == len(self._owners):
            self._at[1] = grads
        else:
            self._at[1] = np.array(grads)[self._owners] + self._offset

    def run(self, kernel: Kernel, numbers: Sequence[Any]) -> None:
        """Count the steps and call the kernel on all columns."""
        call: Any = kernel.get(self._real)
        torch.autograd.graph.increment_version(self._changed)  # as all that changes a tensor does
        if self._counter is not None:
            advance: Any = count.get(self._counter)
            advance(*self._count)
        threads = torch.get_num_threads()
        bounds = self._bounds.get(threads) or self._cut(threads)
        if len(bounds) == 2:
            call(*self._first, *bounds, *numbers)
        else:
            share(lambda first, last: call(*self._first, first, last, *numbers), bounds)
        if self._counter is None and self._ts[0] == 1:
            self._ts.fill(2)

    def _cut(self, threads: int) -> Sequence[int]:
        """Cut the columns into ranges of about as many numbers: four for each thread, or one."""
        ends, columns = np.cumsum(self._sizes), len(self._sizes)
        ranges = min(4 * threads, int(ends[-1]) // SHARE) if threads > 1 else 1
        cuts = np.searchsorted(ends, ends[-1] * np.arange(1, ranges) / max(ranges, 1), "right")
        self._bounds[threads] = sorted({0, *map(int, cuts), columns})
        return self._bounds[threads]


def _at(array: Any) -> int:
    return int(array.ctypes.data)
