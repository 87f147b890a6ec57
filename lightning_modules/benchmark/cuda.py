"""How long a call takes on a GPU: the device, the host, a replay of its graph.

`triton.testing` measures: with CUDA events around single calls, the second-level cache emptied
before each; and many calls in one CUDA graph, without the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import torch

from lightning_modules.benchmark.timing import Call, Timing

ROUNDS = 5  # in turns, so that a clock that changes changes it for all
HOST = 50  # calls that the host makes in one breath: fewer than a queue holds


@dataclass(frozen=True)
class DeviceTiming:
    """What was measured of one party; seconds per call, of every round.

    Attributes:
        device: between events before and after it.
        graph: in the replay of a CUDA graph; NaN where a call can't be captured.
        host: until the call returned, which waits for nothing.
    """

    device: Timing
    graph: Timing
    host: Timing


def measure_on_device(calls: Mapping[str, Call]) -> dict[str, DeviceTiming]:
    """Time calls on the current CUDA device, in turns.

    Args:
        calls: by the party's name.

    Raises:
        RuntimeError: there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device to measure on")
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            found[name].append((_device(call), _graph(call), _host(call)))
    return {
        name: DeviceTiming(*(Timing(tuple(values)) for values in zip(*rounds, strict=True)))
        for name, rounds in found.items()
    }


def copy_bandwidth(numbers: int = 2**28) -> float:
    """Return the bytes per second, read and written, of a copy on the device."""
    source = torch.ones(numbers, device="cuda")
    target = torch.empty_like(source)
    return 8 * numbers / median(_device(lambda: target.copy_(source)) for _ in range(ROUNDS))


def peak_on_device(call: Call) -> int:
    """Return the most bytes that a call allocates on the device."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _device(call: Call) -> float:
    from triton.testing import do_bench

    return float(do_bench(call, return_mode="median")) / 1e3


def _graph(call: Call) -> float:
    from triton.testing import do_bench_cudagraph

    try:
        with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            return float(do_bench_cudagraph(call, return_mode="median")) / 1e3
    except RuntimeError:  # it reads a number on the host, or allocates where it may not
        return math.nan


def _host(call: Call) -> float:
    call()
    torch.cuda.synchronize()
    start = perf_counter()
    for _ in range(HOST):
        call()
    taken = perf_counter() - start
    torch.cuda.synchronize()
    return taken / HOST
