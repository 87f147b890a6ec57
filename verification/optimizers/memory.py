"""What an optimizer's step needs beside parameters, gradients and state: bytes, at the peak."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from verification.cases.optimizers import OptimizerTable
from verification.report import AS_GOOD, BETTER, WORSE, Row

# Two large weights and a small one; of a step's temporaries a bias doesn't show.
SHAPES = ((768, 768), (3, 768, 768), (768,))
IMPLEMENTATIONS: Mapping[str, Mapping[str, bool]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
OPTIONS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "SGD": ({}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "RMSprop": ({}, {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    "Adam": ({}, {"amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    "AdamW": ({}, {"amsgrad": True, "maximize": True}),
}


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator has handed out during a call, on the CPU.

    Example:
        >>> x = torch.ones(1000)
        >>> peak_bytes(lambda: x.add(x).mul_(x)), peak_bytes(lambda: (x + x) * x - x)
        (4000, 8000)
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler says that it starts
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events: Any = profiler.profiler
    found = [e for e in events.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(found, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def verify_step_memory(
    table: OptimizerTable, candidate: Callable[..., torch.optim.Optimizer] | None = None
) -> Iterator[list[Row]]:
    """Yield a row for each set of options: the second step of a net, beside the best builtin's.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.

    Returns:
        An iterator over lists of rows; errors and bounds are bytes.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(verify_step_memory(optimizer_tables()["Adam"]))
        >>> rows[0].quantity, rows[0].passed
        ('bytes of a step', True)
    """
    for options in OPTIONS[table.name]:
        ours = _measure(candidate or table.candidate, options)
        theirs = {
            name: _measure(table.builtin, {**options, **chosen})
            for name, chosen in IMPLEMENTATIONS.items()
            if not (name == "fused" and table.name == "RMSprop")
        }
        best = min(theirs.values())
        verdict = BETTER if ours < best else AS_GOOD if ours == best else WORSE
        case = " ".join(f"{name}={value}" for name, value in options.items()) or "defaults"
        note = ", ".join(f"{name} {_size(size)}" for name, size in theirs.items())
        yield [
            Row(table.name, case, "bytes of a step", "float32", ours, best, best,
                "best builtin's bytes", verdict, f"ours {_size(ours)}; builtin's {note}")
        ]  # fmt: skip


def _measure(make: Callable[..., Any], options: Mapping[str, Any]) -> int:
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = make(params, lr=0.1, **options)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    return peak_bytes(optimizer.step)


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
