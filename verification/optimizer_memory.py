"""What an optimizer's step needs beside parameters, gradients and state: bytes, at the peak."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from verification.cases.optimizers import OptimizerTable
from verification.report import AS_GOOD, BETTER, WORSE, Row

# Two large weights and a small one; of a step's temporaries a bias doesn't show.
SHAPES = ((768, 768), (3, 768, 768), (768,))
# Refnet's rules make new tensors, for a block of a parameter at a time: this many elements for each
# thread, and this many tensors at most.
BLOCK, LIVE = 2**15, 8
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


def peak_bytes(call: Callable[[], object], held: Sequence[Tensor]) -> int:
    """Return the most bytes that tensors made by a call hold at once.

    Args:
        call: what is measured.
        held: tensors that are there before, whose memory doesn't count.

    Example:
        >>> x = torch.ones(10)
        >>> peak_bytes(lambda: (x + 1).mul_(2), [x]), peak_bytes(lambda: (x + 1) * 2 - 1, [x])
        (40, 80)
    """
    alive = _Alive(held)
    with alive:
        call()
    return alive.peak


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held = {tensor.untyped_storage().data_ptr() for tensor in held}
        self.made: list[weakref.ref[Tensor]] = []
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.made = [made for made in self.made if made() is not None]
        self.made += [weakref.ref(t) for t in tree_leaves(result) if isinstance(t, Tensor)]
        sizes: dict[int, int] = {}
        for made in self.made:
            tensor = made()
            if tensor is not None:
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
        self.peak = max(self.peak, sum(n for at, n in sizes.items() if at not in self.held))
        return result


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
        bound = best + LIVE * BLOCK * 4
        verdict = BETTER if ours < best else AS_GOOD if ours <= bound else WORSE
        case = " ".join(f"{name}={value}" for name, value in options.items()) or "defaults"
        note = ", ".join(f"{name} {_size(size)}" for name, size in theirs.items())
        yield [
            Row(table.name, case, "bytes of a step", "float32", ours, best, bound,
                "best builtin's + blocks", verdict, f"ours {_size(ours)}; builtin's {note}")
        ]  # fmt: skip


def _measure(make: Callable[..., Any], options: Mapping[str, Any]) -> int:
    params = [torch.nn.Parameter(torch.ones(shape)) for shape in SHAPES]
    optimizer = make(params, lr=0.1, **options)
    for param in params:
        param.grad = torch.ones_like(param)
    optimizer.step()
    state = [t for p in params for t in optimizer.state.get(p, {}).values() if t is not None]
    held = [*params, *(p.grad for p in params if p.grad is not None), *state]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a block is as large as the threads are many
    try:
        return peak_bytes(optimizer.step, held)
    finally:
        torch.set_num_threads(threads)


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
