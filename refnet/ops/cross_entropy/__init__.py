"""Softmax cross-entropy, fused: torch's function on hand-written forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import _reduction

from refnet import backend
from refnet._triton import Kernels
from refnet.ops import require_float, require_index, require_number, require_tensor
from refnet.ops.cross_entropy import cpu, reference
from refnet.ops.cross_entropy.reference import Options

__all__ = ["cross_entropy"]

_FAST: dict[str, Any] = {"cuda": Kernels("refnet.ops.cross_entropy.cuda"), "cpu": cpu}
_SERVES = {name: fast.unsupported for name, fast in _FAST.items()}


class CrossEntropy(Function):
    """The shell around `reference.forward` and the backwards.

    Keeps its arguments alone; the probabilities are taken from the logits again, which is what
    keeps higher derivatives right.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Tensor:
        return reference.forward(logits, target, weight, options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        logits, target, weight, ctx.options = inputs
        ctx.save_for_backward(logits, target, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, weight = ctx.saved_tensors
        needs_logits, needs_target, needs_weight, _ = ctx.needs_input_grad
        args = (grad, logits, target, weight, ctx.options)
        dlogits = dtarget = dweight = None
        if needs_logits:
            dlogits = reference.backward(*args).to(logits.dtype)
        if needs_target or needs_weight:
            dtarget, dweight = reference.backward_probabilities(*args)
        return (
            dlogits,
            dtarget.to(target.dtype) if needs_target and dtarget is not None else None,
            dweight.to(weight.dtype) if needs_weight and dweight is not None else None,
            None,
        )


class CompiledCrossEntropy(Function):
    """The shell around loops or kernels; keeps one or two numbers per row besides its arguments.

    They are constants in the graph, so higher derivatives are the reference's, of the arguments.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, weight: Tensor | None, options: Options, fast: Any
    ) -> Tensor:
        loss, sums = fast.forward(logits, target, weight, options)
        ctx.options, ctx.fast = options, fast
        ctx.save_for_backward(logits, target, weight, sums)
        return loss  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, target, weight, sums = ctx.saved_tensors
        if torch.is_grad_enabled() or not backend.is_plain(grad) or grad.is_neg():
            dlogits = reference.backward(grad, logits, target, weight, ctx.options)
            return dlogits.to(logits.dtype), None, None, None, None
        dlogits = ctx.fast.backward(grad, logits, target, weight, sums, ctx.options)
        return dlogits, None, None, None, None


_apply_compiled = backend.apply_of(CompiledCrossEntropy)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compare scores with the true classes: the logarithmic loss of their softmax, in one op.

    L = −Σ_c y_c log a_c,  a = softmax(z),  and backward dZ = A − Y

    Args:
        input: scores z, shape (C), (N, C) or (N, C, d1, …).
        target: class indices, shape () or (N) or (N, d1, …), int64 or uint8; or probabilities of
            the input's shape.
        weight: a factor per class, shape (C).
        size_average: deprecated, see `reduction`.
        ignore_index: the class index whose rows don't count.
        reduce: deprecated, see `reduction`.
        reduction: "none": L of every row; "sum"; "mean": divided by the summed weights of the rows
            that count (class indices) or by their number (probabilities).
        label_smoothing: s in [0, 1]: y is replaced by (1 − s) y + s/C.

    Returns:
        The loss: a scalar, or one per row.

    Raises:
        IndexError: a class index is out of range (eager mode on a CPU).
        ValueError: batch sizes differ, or the reduction is unknown.
        RuntimeError: shapes or dtypes don't fit, or the smoothing is outside [0, 1].
        NotImplementedError: the input is not of a floating-point dtype.

    Example:
        The lecture's example: of the probabilities 0.3, 0.2, 0.1, 0.4 the second is true, −log 0.2.

        >>> import torch
        >>> cross_entropy(torch.tensor([[0.3, 0.2, 0.1, 0.4]]).log(), torch.tensor([1]))
        tensor(1.6094)

    Source: lecture, "Loss function softmax", "Gradient descent with softmax" (whose da = −1/a holds
    for the true class alone).

    Differs from torch: scores of NaN or ∞ in an ignored row have a gradient of 0, where torch lets
    the NaN through; a label smoothing below 0 or NaN is refused for probabilities too; uint8
    indices are taken in any number of dimensions; the input is kept for the backward, instead of a
    further tensor of its size, so it may not be changed in place in between.
    """
    if size_average is not None or reduce is not None:
        reduction = _reduction.legacy_get_string(size_average, reduce)
    require_tensor("cross_entropy", input)
    require_tensor("cross_entropy", target, "target")
    if weight is not None:
        require_tensor("cross_entropy", weight, "weight")
    options = Options(
        require_index("cross_entropy", "ignore_index", ignore_index),
        require_number("cross_entropy", "label_smoothing", label_smoothing),
        reduction,
    )
    input, target, weight = backend.autocast("cross_entropy", input, target, weight)
    _check(input, target, weight, options)
    if input.dim() == 1 and target.dim() == 1 and target.shape != input.shape:
        target = target.squeeze(0)  # torch takes (1) for () where there is no batch
    chosen = backend.choose("cross_entropy", input, target, weight, **_SERVES)
    if target.shape != input.shape and chosen != backend.CPU:  # the loops look at them themselves
        _check_labels(input, target, options)
    if chosen != backend.REFERENCE:
        fast = _FAST[chosen]
        if input.requires_grad and torch.is_grad_enabled():
            return _apply_compiled(input, target, weight, options, fast)  # type: ignore[no-any-return]
        return fast.forward(input, target, weight, options)[0]  # type: ignore[no-any-return]
    if backend.composes():
        return reference.forward(input, target, weight, options)
    return CrossEntropy.apply(input, target, weight, options)  # type: ignore[no-any-return, no-untyped-call]


def _check(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> None:
    """Raise what torch raises."""
    if options.reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{options.reduction} is not a valid value for reduction")
    if not 0 <= options.label_smoothing <= 1:
        raise RuntimeError(
            f"label_smoothing must be between 0.0 and 1.0. Got: {options.label_smoothing}"
        )
    require_float("cross_entropy", input)
    if target.shape == input.shape:
        if not target.is_floating_point():
            raise RuntimeError(
                "Expected floating point type for target with class probabilities, "
                f"got {target.dtype}"
            )
        if options.ignore_index >= 0:
            raise RuntimeError(
                "ignore_index is not supported for floating point target, "
                f"but got {options.ignore_index}"
            )
    else:
        _check_indices(input, target, weight)
    classes = input.shape[reference.class_dim(input)]
    if weight is not None and weight.shape != (classes,):
        raise RuntimeError(
            f"weight tensor should be defined either for all {classes} classes or no classes "
            f"but got weight tensor of shape: {list(weight.shape)}"
        )


def _check_indices(input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if target.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(
            f"expected target dtype to be Long or Byte (or the shape of the input "
            f"{list(input.shape)}), but got {target.dtype}, {list(target.shape)}"
        )
    if input.dim() == 1:
        if target.numel() != 1 or target.dim() > 1:
            raise ValueError(
                f"Expected one target for input {list(input.shape)}, got {list(target.shape)}"
            )
    elif target.dim() == 0 or input.shape[0] != target.shape[0]:
        raise ValueError(
            f"Expected input batch_size ({input.shape[0]}) to match target batch_size "
            f"({target.shape[0] if target.dim() else 1})."
        )
    elif target.shape[1:] != input.shape[2:]:
        expected = [input.shape[0], *input.shape[2:]]
        raise RuntimeError(f"Expected target size {expected}, got {list(target.shape)}")
    if weight is not None and weight.dtype != input.dtype:
        raise RuntimeError(f"expected weight of {input.dtype} but found {weight.dtype}")
    if weight is not None and weight.requires_grad:
        raise RuntimeError("cross_entropy: weight must not require a gradient for class indices")


def _check_labels(input: Tensor, target: Tensor, options: Options) -> None:
    if backend.has_readable_values(target):
        classes, labels = input.shape[reference.class_dim(input)], target.long()
        outside = ((labels < 0) | (labels >= classes)) & (labels != options.ignore_index)
        if outside.any():
            value = labels[outside][0].item()
            raise IndexError(f"Target {value} is out of bounds for {classes} classes.")
