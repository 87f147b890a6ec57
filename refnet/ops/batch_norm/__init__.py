"""Batch norm: torch's function on hand-written forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from refnet import backend
from refnet._triton import Kernels
from refnet.ops import require_bool, require_float, require_number, require_tensor, wide
from refnet.ops.batch_norm import cpu, reference
from refnet.ops.batch_norm.moving import move_running

__all__ = ["batch_norm"]

_kernels = Kernels("refnet.ops.batch_norm.cuda")


def _statistics(
    z: Tensor, running_mean: Tensor | None, running_var: Tensor | None, training: bool
) -> tuple[Tensor, Tensor]:
    """μ and σ² that z is normalized by."""
    if training:
        return reference.statistics(z)
    return wide(running_mean), wide(running_var)  # type: ignore[arg-type]


def _normalize(
    z: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
    move: Callable[..., object] = reference.move_running,
) -> Tensor:
    mean, var = _statistics(z, running_mean, running_var, training)
    if training and running_mean is not None and running_var is not None and z.numel():
        m = reference.count(z)  # an empty batch leaves the running statistics
        move(running_mean, running_var, mean.detach(), var.detach(), m, momentum)
    return reference.forward(z, weight, bias, mean, reference.inverse_std(var, eps))


class BatchNorm(Function):
    """The shell around `reference.forward` and `reference.backward`.

    Keeps its arguments alone: in training the backward takes the statistics of the input again,
    which costs two sums, saves memory, and keeps higher derivatives right, where statistics saved
    as constants would spoil them without a sound.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        z: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float | Tensor,
        eps: float,
    ) -> Tensor:
        return _normalize(
            z, weight, bias, running_mean, running_var, training, momentum, eps
        )  # fmt: skip

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, weight, bias, running_mean, running_var, ctx.training, _, ctx.eps = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        by_batch = ctx.training  # what the batch has moved is not needed
        ctx.save_for_backward(
            z, weight, None if by_batch else running_mean, None if by_batch else running_var
        )

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        return _backward(ctx, dy, *ctx.saved_tensors)


def _backward(
    ctx: Any,
    dy: Tensor,
    z: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
) -> tuple[Tensor | None, ...]:
    mean, var = _statistics(z, running_mean, running_var, ctx.training)
    inv_std = reference.inverse_std(var, ctx.eps)
    m = reference.count(z) if ctx.training else None
    results = reference.backward(dy, z, weight, mean, inv_std, m)
    return gradients(ctx, z, weight, *results)


class BatchNormLoops(Function):
    """The shell around `cpu.forward` and `cpu.backward`; keeps μ beside its arguments.

    What has no gradient comes in one tuple: every argument of a Function costs time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        constants: tuple[Any, ...],
    ) -> Tensor:
        y, means = cpu.forward(z, weight, bias, *constants)
        running_mean, running_var, ctx.training, _, ctx.eps = constants
        ctx.bias_dtype = z.dtype
        if ctx.training:
            ctx.save_for_backward(z, weight, means)
        else:
            ctx.save_for_backward(z, weight, running_mean, running_var)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, *kept = ctx.saved_tensors
        running_mean, running_var = (None, None) if ctx.training else kept
        if torch.is_grad_enabled() or not backend.is_plain(dy):
            return _backward(ctx, dy, z, weight, running_mean, running_var)[:4]
        backend.ran("batch_norm backward", backend.CPU)
        needs_z, needs_weight, needs_bias, _ = ctx.needs_input_grad
        means = kept[0] if ctx.training else wide(running_mean)  # type: ignore[arg-type]
        dz, dweight, dbias = cpu.backward(
            dy, z, weight, means, running_var, ctx.eps, needs_z, needs_weight or needs_bias
        )  # fmt: skip
        return dz, dweight if needs_weight else None, dbias if needs_bias else None, None


class BatchNormKernels(Function):
    """The shell around `cuda.forward` and `cuda.backward`; keeps μ and 1/√(σ² + ε) in float64."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        rest: tuple[Any, ...],
    ) -> Tensor:
        *running, ctx.training, _, ctx.eps = rest
        y, kept = _kernels.forward(z, weight, bias, *rest)
        ctx.bias_dtype = None if bias is None else bias.dtype
        # the running statistics for higher orders alone, and to find out if they have been moved
        ctx.save_for_backward(z, weight, kept, *((None, None) if ctx.training else running))
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        z, weight, kept, *running = ctx.saved_tensors
        if torch.is_grad_enabled() or not backend.is_plain(dy):
            return _backward(ctx, dy, z, weight, *running)[:4]
        backend.ran("batch_norm backward", backend.CUDA)
        dz, dweight, dbias = _kernels.backward(
            dy, z, weight, kept, ctx.training, ctx.needs_input_grad[0]
        )
        return gradients(ctx, z, weight, dz, dweight, dbias)[:4]


_FAST: dict[str, Any] = {
    "cuda": (_kernels, backend.apply_of(BatchNormKernels)),
    "cpu": (cpu, backend.apply_of(BatchNormLoops)),
}


def gradients(
    ctx: Any, z: Tensor, weight: Tensor | None, dz: Tensor, dweight: Tensor, dbias: Tensor
) -> tuple[Tensor | None, ...]:
    """What a Function returns whose first of eight arguments are z, γ and β."""
    needs_z, needs_weight, needs_bias, *_rest = ctx.needs_input_grad
    return (
        dz.to(z.dtype) if needs_z else None,
        dweight.to(weight.dtype) if needs_weight and weight is not None else None,
        dbias.to(ctx.bias_dtype) if needs_bias else None,
        *[None] * 5,
    )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize every channel over the batch, then scale and shift it.

    γ (z − μ) / √(σ² + ε) + β

    In training μ and σ² (biased) are those of the batch, and the running ones move towards them,
    V ← (1 − momentum) V + momentum θ, with the unbiased variance; otherwise they are the running
    ones.

    Args:
        input: z, shape (N, C, *).
        running_mean: average of μ, shape (C), moved in place in training; None: not kept.
        running_var: average of σ², shape (C), likewise.
        weight: γ, shape (C); None is 1.
        bias: β, shape (C); None is 0.
        training: normalize by the batch's statistics.
        momentum: 1 − the lecture's β of the exponentially weighted average, a number or a tensor
            of no dimensions.
        eps: ε, added to the variance.

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        ValueError: one value per channel in training, one running statistic without the other, or
            an ε that is negative (in training: not positive).
        RuntimeError: a size or dtype doesn't fit the input's, or evaluation without statistics.
        NotImplementedError: the input is not of a floating-point dtype.

    Example:
        >>> import torch
        >>> batch_norm(torch.tensor([[1.0], [3.0]]), None, None, training=True)
        tensor([[-1.0000],
                [ 1.0000]])

    Source: lecture, "Implement Batch Normalization", "Batch norm derivation", "Batch norm at test
    time" (whose second average is meant of σ²).

    Differs from torch: in evaluation, where the backward needs the running statistics, moving them
    by a training step in between is an error; torch then returns a gradient of the wrong ones.
    """
    if type(eps) is not float:
        eps = require_number("batch_norm", "eps", eps)
    if type(momentum) is not float and (
        not isinstance(momentum, Tensor) or momentum.dim() or momentum.requires_grad
    ):
        momentum = require_number("batch_norm", "momentum", momentum)
    args = (input, weight, bias, running_mean, running_var, training, momentum, eps)
    chosen = backend.choose("batch_norm", *args, **_SERVES)
    if chosen != backend.REFERENCE:
        fast, shell = _FAST[chosen]
        if not torch.is_grad_enabled():
            return fast.forward(*args)[0]  # type: ignore[no-any-return]
        return shell(input, weight, bias, args[3:])  # type: ignore[no-any-return]
    check(input, running_mean, running_var, weight, bias, training, eps)
    if backend.composes():
        return _normalize(*args, move=move_running)
    return BatchNorm.apply(*args)  # type: ignore[no-any-return, no-untyped-call]


def _unsupported(
    fast: Any,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
) -> str:
    reason: str = fast.unsupported(
        input, weight, bias, running_mean, running_var, training, momentum, eps
    )  # fmt: skip
    if reason and (fast is cpu or backend.forced() == backend.CUDA):
        # a mistake of the caller's comes first
        check(input, running_mean, running_var, weight, bias, training, eps)
    return reason


_SERVES = {"cuda": partial(_unsupported, _kernels), "cpu": partial(_unsupported, cpu)}


def check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    alone: bool = True,
) -> None:
    """Raise what torch raises.

    `alone`: the batch is all that there is, no other process has more of it.
    """
    require_tensor("batch_norm", input)
    if training and alone and input.dim() and reference.count(input) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.size()}"
        )
    if input.dim() < 2:
        error = IndexError if training else RuntimeError
        raise error(f"batch_norm: input must be (N, C, *), but got {list(input.shape)}")
    require_bool("batch_norm", "training", training)
    if eps < 0 or (training and eps == 0):
        sign = "positive during training" if training else "non-negative"
        raise ValueError(f"batch_norm eps must be {sign}, but got {eps}")
    if (running_mean is None) != (running_var is None) and training:
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    require_float("batch_norm", input)
    per_channel = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    if not training:
        for name in ("running_mean", "running_var"):
            if per_channel[name] is None:
                raise RuntimeError(f"{name} must be defined in evaluation mode")
    dtypes = set()
    for name, tensor in per_channel.items():
        if tensor is None:
            continue
        require_tensor("batch_norm", tensor, name)
        if tensor.numel() != input.shape[1]:
            raise RuntimeError(
                f"{name} should contain {input.shape[1]} elements not {tensor.numel()}"
            )
        if name.startswith("running") and tensor.requires_grad:
            raise RuntimeError(f"batch_norm: {name} must not require a gradient")
        dtypes.add(tensor.dtype)
    half = input.dtype in (torch.float16, torch.bfloat16)
    if dtypes and not (dtypes == {input.dtype} or (half and dtypes == {torch.float32})):
        found = ", ".join(f"{n} {t.dtype}" for n, t in per_channel.items() if t is not None)
        raise RuntimeError(
            "batch_norm: weight, bias and statistics must share the dtype of the input, or be "
            f"float32 for a half-precision input, but got input {input.dtype}, {found}"
        )
