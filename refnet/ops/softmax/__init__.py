"""Softmax and log-softmax: torch's functions on hand-written forward and backward."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from refnet import backend
from refnet._triton import Kernels
from refnet.ops import require_float, require_index, require_tensor
from refnet.ops.softmax import cpu, reference

__all__ = ["log_softmax", "softmax"]

_FAST: dict[str, Any] = {"cuda": Kernels("refnet.ops.softmax.cuda"), "cpu": cpu}
_SERVES = {name: fast.unsupported for name, fast in _FAST.items()}


class Softmax(Function):
    """The shell around `reference.softmax` and `reference.softmax_backward`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
        return reference.softmax(z, dim, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, ctx.dim, _ = inputs
        ctx.dtype = z.dtype
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None, None]:
        (a,) = ctx.saved_tensors
        return reference.softmax_backward(da, a, ctx.dim).to(ctx.dtype), None, None


class LogSoftmax(Function):
    """The shell around `reference.log_softmax` and `reference.log_softmax_backward`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
        return reference.log_softmax(z, dim, dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, ctx.dim, _ = inputs
        ctx.dtype = z.dtype
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, dlog_a: Tensor) -> tuple[Tensor, None, None]:
        (log_a,) = ctx.saved_tensors
        return reference.log_softmax_backward(dlog_a, log_a, ctx.dim).to(ctx.dtype), None, None


class CompiledSoftmax(Function):
    """The shell around loops or kernels, for softmax and its logarithm; keeps the result."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, dim: int, logarithm: bool, fast: Any) -> Tensor:
        a: Tensor = fast.forward(z, dim, logarithm)
        ctx.dim, ctx.logarithm, ctx.fast = dim, logarithm, fast
        ctx.save_for_backward(a)
        return a

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None, None, None]:
        (a,) = ctx.saved_tensors
        if torch.is_grad_enabled() or not backend.is_plain(da) or da.is_neg():
            plain = reference.log_softmax_backward if ctx.logarithm else reference.softmax_backward
            return plain(da, a, ctx.dim).to(a.dtype), None, None, None
        return ctx.fast.backward(da, a, ctx.dim, ctx.logarithm), None, None, None


_apply_compiled = backend.apply_of(CompiledSoftmax)


def softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Turn scores into probabilities along `dim`.

    a_i = e^{z_i} / Σ_j e^{z_j}

    Args:
        input: scores z, any shape.
        dim: the dimension of the classes. Without it torch guesses, and warns; so do we.
        _stacklevel: of that warning.
        dtype: the result's dtype; the input is cast to it first.

    Returns:
        Probabilities of the input's shape that sum to 1 along `dim`.

    Raises:
        IndexError: `dim` is out of range.
        NotImplementedError: the input is not of a floating-point dtype.

    Example:
        The lecture's four scores:

        >>> import torch
        >>> softmax(torch.tensor([5.0, 2.0, -1.0, 3.0]), dim=0)
        tensor([0.8420, 0.0419, 0.0021, 0.1140])

    Source: lecture, "Softmax layer" and "Understanding softmax".
    """
    dim, dtype = _resolve("softmax", input, dim, _stacklevel, dtype)
    chosen = backend.choose("softmax", input, dim, dtype, **_SERVES)
    if chosen != backend.REFERENCE:
        return _compiled(input.to(dtype), dim, False, _FAST[chosen])
    if backend.composes():
        return reference.softmax(input, dim, dtype)
    return Softmax.apply(input, dim, dtype)  # type: ignore[no-any-return, no-untyped-call]


def log_softmax(
    input: Tensor,
    dim: int | None = None,
    _stacklevel: int = 3,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the logarithm of softmax along `dim`, without overflow or underflow.

    log a_i = z_i − log Σ_j e^{z_j}

    Args:
        input: scores z, any shape.
        dim: the dimension of the classes. Without it torch guesses, and warns; so do we.
        _stacklevel: of that warning.
        dtype: the result's dtype; the input is cast to it first.

    Returns:
        Log-probabilities of the input's shape.

    Raises:
        IndexError: `dim` is out of range.
        NotImplementedError: the input is not of a floating-point dtype.

    Example:
        >>> import torch
        >>> log_softmax(torch.tensor([0.0, 1e4]), dim=0)
        tensor([-10000.,      0.])

    Source: lecture, "Softmax layer" and "Loss function softmax".
    """
    dim, dtype = _resolve("log_softmax", input, dim, _stacklevel, dtype)
    chosen = backend.choose("log_softmax", input, dim, dtype, **_SERVES)
    if chosen != backend.REFERENCE:
        return _compiled(input.to(dtype), dim, True, _FAST[chosen])
    if backend.composes():
        return reference.log_softmax(input, dim, dtype)
    return LogSoftmax.apply(input, dim, dtype)  # type: ignore[no-any-return, no-untyped-call]


def _compiled(input: Tensor, dim: int, logarithm: bool, fast: Any) -> Tensor:
    if input.requires_grad and torch.is_grad_enabled():
        return _apply_compiled(input, dim, logarithm, fast)  # type: ignore[no-any-return]
    return fast.forward(input, dim, logarithm)  # type: ignore[no-any-return]


def _resolve(
    name: str, input: Tensor, dim: int | None, stacklevel: int, dtype: torch.dtype | None
) -> tuple[int, torch.dtype]:
    """Fill in the defaults of `dim` and `dtype` as torch does, and check both."""
    require_tensor(name, input)
    if dim is None:
        dim = 0 if input.dim() in (0, 1, 3) else 1
        warnings.warn(
            f"Implicit dimension choice for {name} has been deprecated. "
            "Change the call to include dim=X as an argument.",
            stacklevel=stacklevel,
        )
    dim = require_index(name, "dim", dim)
    low, high = -max(input.dim(), 1), max(input.dim(), 1) - 1
    if not low <= dim <= high:
        raise IndexError(
            f"Dimension out of range (expected to be in range of [{low}, {high}], but got {dim})"
        )
    if dtype is None:
        require_float(name, input)
        dtype = backend.autocast(name, input)[0].dtype
    elif not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name}(): argument 'dtype' must be torch.dtype, not {dtype!r}")
    elif not dtype.is_floating_point:
        raise NotImplementedError(f"{name}: dtype must be floating-point, but got {dtype}")
    return dim, dtype
