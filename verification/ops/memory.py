"""What an op keeps for its backward, in bytes, beside the builtin's.

Tensors that the caller holds anyway, the arguments and the result, don't count; a random mask that
the op draws does.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from verification.cases import Arrays, Case, OpTable
from verification.report import ANOTHER, AS_GOOD, BETTER, WORSE, Row
from verification.tensors import as_tensors, lay_out, repeated, round_to, short

KEPT = "bytes kept"


def bytes_kept(call: Callable[[], Tensor], held: Sequence[Tensor]) -> int:
    """Count the bytes of memory that a graph saves and that neither result nor caller holds.

    What a Function hides in attributes of its context, and does not save, isn't seen.

    Args:
        call: makes the graph, and returns its result.
        held: what the caller holds.

    Returns:
        The sizes of the blocks of memory behind the saved tensors, each counted once.

    Example:
        >>> x = torch.ones(10, requires_grad=True)
        >>> bytes_kept(lambda: x.tanh(), [x]), bytes_kept(lambda: (x * 2).tanh() * (x + 1), [x])
        (0, 80)
    """
    kept: dict[int, int] = {}
    alive: list[Tensor] = []  # no address may be given out twice

    def pack(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    for tensor in (*held, result):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def verify_memory(
    table: OpTable,
    candidate: Callable[..., Any] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32, torch.bfloat16, torch.float16),
    device: str = "cpu",
) -> Iterator[list[Row]]:
    """Yield a row for each dtype: the case in which the candidate keeps most beside the builtin.

    Args:
        table: the op, with all its cases.
        candidate: as in `op_rows`.
        dtypes: of the input.
        device: where candidate and builtin compute.

    Returns:
        An iterator over lists of rows; "error" is the bytes of the candidate, and the bound is
        those of the builtin.

    Example:
        >>> from verification.cases import op_tables
        >>> rows = next(verify_memory(op_tables()["relu"]))
        >>> rows[0].quantity, rows[0].passed
        ('bytes kept', True)
    """
    function = table.adapt(table.candidate if candidate is None else candidate)
    for dtype in dtypes:
        yield [_row(table, function, dtype, torch.device(device))]


def _row(
    table: OpTable, function: Callable[..., Any], dtype: torch.dtype, device: torch.device
) -> Row:
    nan = float("nan")
    worst: tuple[int, int, str] | None = None
    totals = [0, 0]
    cases = [case for case in table.cases if short(dtype) in case.dtypes]
    for case in cases:
        try:
            ours = _measure(table, case, function, dtype, device)
        except Exception as error:  # a candidate that crashes gets a row
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            return Row(table.name, case.name, KEPT, short(dtype), nan, nan, nan, "runs",
                       ANOTHER, note)  # fmt: skip
        theirs = _measure(table, case, table.builtin, dtype, device)
        totals = [totals[0] + ours, totals[1] + theirs]
        if worst is None or ours - theirs > worst[0] - worst[1]:
            worst = ours, theirs, case.name
    if worst is None:
        raise ValueError(f"{table.name}: no case can be held by {dtype}")
    ours, theirs, name = worst
    verdict = WORSE if ours > theirs else BETTER if ours < theirs else AS_GOOD
    note = f"all {len(cases)} cases keep {totals[0]} of {totals[1]}"
    return Row(table.name, name, KEPT, short(dtype), ours, theirs, theirs, "builtin's bytes",
               verdict, note)  # fmt: skip


def _measure(
    table: OpTable,
    case: Case,
    function: Callable[..., Any],
    dtype: torch.dtype,
    device: torch.device,
) -> int:
    rng = np.random.default_rng(zlib.crc32(f"{table.name} {case.name}".encode()))
    arrays = {name: round_to(value, dtype) for name, value in case.draw(rng).items()}
    del arrays["cotangent"]
    for name in arrays:
        arrays[name] = repeated(name, arrays[name], case.layout, table.expanded)
    tensors = as_tensors(table, case, arrays, dtype, device)
    options = dict(case.options)
    # What would be given from outside has to be drawn.
    drawn: Arrays = dict.fromkeys(table.complete(tensors, options).keys() - tensors.keys())
    inplace = bool(options.get("inplace"))
    arguments: Arrays = {}
    for name, tensor in tensors.items():
        leaf = name in table.differentiable and tensor is not None and tensor.is_floating_point()
        if leaf and inplace:
            tensor = tensor.requires_grad_() * 1
        tensor = lay_out(name, tensor, case, table)
        arguments[name] = tensor.requires_grad_() if leaf and not inplace else tensor
    held = [t for t in arguments.values() if t is not None]
    return bytes_kept(lambda: function(**arguments, **drawn, **options), held)
