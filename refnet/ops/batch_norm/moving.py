"""`reference.move_running` as an operator, for transforms that see through the equations.

A torch.func transform forbids Python to change a tensor from outside, compiled or not; an operator
may. The plain way is `reference.move_running`, wherever a Function hides it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.library import custom_op

from refnet import backend
from refnet.ops import wide
from refnet.ops.batch_norm import reference


def move_running(
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    m: int,
    momentum: float | Tensor,
) -> None:
    """Do what `reference.move_running` does, below all transforms."""
    # functionalize knows no operator that says what it changes, and compilers remove one that
    # seems to change nothing.
    operator = _silently if backend.is_functionalized() else _openly
    share = momentum if isinstance(momentum, Tensor) else mean.new_full((), momentum)
    operator(running_mean, running_var, mean, var, m, wide(share))


def _move(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, m: int, momentum: Tensor
) -> None:
    reference.move_running(running_mean, running_var, mean, var, m, momentum)


_openly = custom_op(
    "refnet::move_running", _move, mutates_args=("running_mean", "running_var"),
)  # fmt: skip
_silently = custom_op("refnet::move_running_silently", _move, mutates_args=())
_silently.register_fake(lambda *args: None)


@_openly.register_vmap
def _batched(
    info: Any,
    in_dims: tuple[int | None, ...],
    running_mean: Tensor,
    running_var: Tensor,
    mean: Tensor,
    var: Tensor,
    m: int,
    momentum: Tensor,
) -> tuple[None, None]:
    """Move the statistics of an ensemble, stacked in any dimension: all is done element by element.

    Raises:
        RuntimeError: a batch of statistics is to go into one.
    """
    if in_dims[0] is None or in_dims[1] is None:
        raise RuntimeError(
            "batch_norm: under vmap the running statistics have to be batched as the input is, "
            "or be left out"
        )
    tensors = (running_mean, running_var, mean, var, momentum)
    dims = (*in_dims[:4], in_dims[5])
    front = [t if d is None else t.movedim(d, 0) for t, d in zip(tensors, dims, strict=True)]
    if dims[4] is not None:
        front[4] = front[4].unsqueeze(-1)  # against (batch, C)
    _openly(*front[:4], m, front[4])
    return None, None
