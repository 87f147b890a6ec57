"""Batch norm over the batches of several processes, as if they were one batch.

Legend: as in `reference`, but z and dy are this process' part of the batch. Process p has m_p
values per channel, maybe none, with the mean μ_p and the squares S_p = Σ (z − μ_p)²; m = Σ m_p.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from refnet import backend
from refnet.ops import wide
from refnet.ops.batch_norm import check, gradients, reference

__all__ = ["sync_batch_norm"]


def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float | Tensor,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """`batch_norm` in training, with the statistics of all batches of a process group as of one.

    Every process of the group has to call it, and go backwards through it, the same number of times
    in the same order, as with any collective; with an empty batch too, and where its input needs no
    gradient. dγ and dβ are those of this process' part of the loss, as torch's are, for
    `DistributedDataParallel` to average.

    Args:
        input: z, shape (N, C, *), this process' part of the batch; N may be 0 and differ.
        running_mean: average of μ, shape (C), moved in place; None: not kept.
        running_var: average of σ², shape (C), likewise.
        weight: γ, shape (C); None is 1.
        bias: β, shape (C); None is 0.
        momentum: 1 − the lecture's β of the exponentially weighted average, a number or a tensor
            of no dimensions.
        eps: ε, added to the variance.
        group: the processes.

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        ValueError, RuntimeError: as `batch_norm`; one value per channel is an error if the group
            has no more, and on a CPU, since on a GPU it would have to wait for the count.
        NotImplementedError: a forward-mode level is open, or the input is not of a floating-point
            dtype.

    Source: lecture, "Implement Batch Normalization", "Batch norm derivation"; T. Chan, G. Golub,
    R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    check(input, running_mean, running_var, weight, bias, True, eps, alone=False)
    if backend.forward_mode():
        raise NotImplementedError(
            "SyncBatchNorm: forward mode over several processes is not supported"
        )
    args = (input, weight, bias, running_mean, running_var, momentum, eps, group)
    return SyncBatchNorm.apply(*args)[0]  # type: ignore[no-any-return, no-untyped-call]


class SyncBatchNorm(Function):
    """The shell around `reference.forward` and `reference.backward`, and a sum over the processes.

    Unlike `BatchNorm` it keeps the statistics, which it would have to ask the other processes for;
    where the backward is differentiated in turn, it does ask.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        z: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float | Tensor,
        eps: float,
        group: dist.ProcessGroup,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, var, m = statistics(z, group)
        if backend.has_readable_values(m) and m == 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, got 1 in all processes of "
                f"the group together: input size {z.size()} in this one"
            )
        if running_mean is not None and running_var is not None:
            momentum = momentum * wide(m > 0)  # if all are empty, the running statistics stay
            # one value, seen on a GPU too late for an error: a variance of 0, and not of NaN
            some = m.clamp(min=2)
            reference.move_running(running_mean, running_var, mean, var, some, momentum)
        inv_std = reference.inverse_std(var, eps)
        return reference.forward(z, weight, bias, mean, inv_std), mean, inv_std, m

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        z, weight, bias, _, _, _, ctx.eps, ctx.group = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(z, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, mean, inv_std, m = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: what was kept are constants
            mean, var, m = statistics(z, ctx.group)
            inv_std = reference.inverse_std(var, ctx.eps)
        # Also where this process needs no dz: another one may, and waits for the sums.
        total = partial(AllReduce.apply, group=ctx.group)
        results = reference.backward(dy, z, weight, mean, inv_std, m, total)
        return gradients(ctx, z, weight, *results)


def statistics(z: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor, Tensor]:
    """μ, σ² and m of the whole batch, by one sum over the processes: each fills in its own row."""
    row, own = moments(z), dist.get_rank(group)
    rows = [row if p == own else torch.zeros_like(row) for p in range(dist.get_world_size(group))]
    return combine(AllReduce.apply(torch.stack(rows), group))  # type: ignore[no-untyped-call]


def moments(z: Tensor) -> Tensor:
    """μ_p, S_p and m_p in one row, (2C + 1): zeros for an empty batch."""
    m = reference.count(z)
    z = wide(z).transpose(0, 1).flatten(1)  # (C, m)
    mean = z.sum(1) / max(m, 1)
    squares = (z - mean[:, None]).square().sum(1)
    return torch.cat([mean, squares, mean.new_full((1,), m)])


def combine(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """μ = Σ m_p μ_p / m, σ² = Σ (S_p + m_p (μ_p − μ)²) / m and m itself, by Chan's formula.

    Sums around the means of the parts, so that nothing cancels at a large mean.

    Args:
        rows: `moments` of each process, (P, 2C + 1).
    """
    channels = rows.shape[1] // 2
    means, squares, counts = rows.tensor_split([channels, 2 * channels], dim=1)
    m = counts.sum()
    mean = (counts * means).sum(0) / m.clamp(min=1)
    var = (squares + counts * (means - mean).square()).sum(0) / m.clamp(min=1)
    return mean, var, m


class AllReduce(Function):
    """Σ over the processes of a group, differentiable as often as one likes.

    Each term is in the sum of every process, so its gradient is the sum of what all of them send
    back: the operation is its own backward.
    """

    @staticmethod
    def forward(term: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = term.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor, None]:
        return AllReduce.apply(dtotal, ctx.group), None  # type: ignore[no-untyped-call]

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, None], term: Tensor, group: dist.ProcessGroup
    ) -> tuple[Tensor, int | None]:
        return AllReduce.apply(term, group), in_dims[0]  # type: ignore[no-untyped-call]
