"""ReLU, leaky ReLU, tanh and sigmoid: torch's functions on hand-written forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from refnet import backend
from refnet.ops import require_float, require_number, require_tensor, zero_through
from refnet.ops.activations import cpu, reference

__all__ = ["leaky_relu", "relu", "sigmoid", "tanh"]


class Relu(Function):
    """The shell around `reference.relu` and `reference.relu_backward`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return reference.relu(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            da = da + zero_through(a)
        return reference.relu_backward(da, a)


class ReluInplace(Relu):
    """The same over its input: the result is kept where the input was, and nothing else."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.copy_(reference.relu(z))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)


class LeakyRelu(Function):
    """The shell around `reference.leaky_relu` and `reference.leaky_relu_backward`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, negative_slope: float) -> Tensor:
        return reference.leaky_relu(z, negative_slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        z, ctx.negative_slope = inputs
        ctx.save_for_backward(z)  # not the output, which the caller may change, as in torch

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            da = da + zero_through(z)
        return reference.leaky_relu_backward(da, z, ctx.negative_slope), None


class LeakyReluInplace(LeakyRelu):
    """The same over its input: the result, which has the input's sign, stands for it."""

    @staticmethod
    def forward(z: Tensor, negative_slope: float) -> Tensor:
        return z.copy_(reference.leaky_relu(z, negative_slope))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        _, ctx.negative_slope = inputs
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None]:
        if ctx.negative_slope < 0:
            raise RuntimeError(
                "leaky_relu: the gradient of an in-place call needs negative_slope >= 0, "
                f"but got {ctx.negative_slope}"
            )
        return LeakyRelu.backward(ctx, da)


class Tanh(Function):
    """The shell around `reference.tanh` and `reference.tanh_backward`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return reference.tanh(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return reference.tanh_backward(da, a).to(da.dtype)


class Sigmoid(Function):
    """The shell around `reference.sigmoid` and `reference.sigmoid_backward`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return reference.sigmoid(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return reference.sigmoid_backward(da, a).to(da.dtype)


_FUNCTIONS: dict[str, Any] = {
    "relu": Relu,
    "leaky_relu": LeakyRelu,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
}


class CompiledActivation(Function):
    """The shell around the loops, for all four; keeps the result, or leaky ReLU's input."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, name: str, negative_slope: float) -> Tensor:
        a = cpu.forward(name, z, negative_slope)
        ctx.name, ctx.negative_slope = name, negative_slope
        ctx.save_for_backward(z if name == "leaky_relu" else a)
        return a

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled() or not backend.is_plain(da) or da.is_neg():
            dz = _FUNCTIONS[ctx.name].backward(ctx, da)
            return dz if isinstance(dz, Tensor) else dz[0], None, None
        (kept,) = ctx.saved_tensors
        return cpu.backward(ctx.name, da, kept, ctx.negative_slope), None, None


_apply_compiled = backend.apply_of(CompiledActivation)


def _compiled(name: str, z: Tensor, negative_slope: float = 0.0) -> Tensor:
    if z.requires_grad and torch.is_grad_enabled():
        return _apply_compiled(z, name, negative_slope)  # type: ignore[no-any-return]
    return cpu.forward(name, z, negative_slope)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """Set negative values to zero.

    a = max(0, z)

    Args:
        input: z, any shape; real.
        inplace: write the result over the input.

    Returns:
        a, of the input's shape and dtype.

    Raises:
        RuntimeError: the input is boolean.
        NotImplementedError: the input is complex.

    Example:
        >>> import torch
        >>> relu(torch.tensor([-2.0, 3.0]))
        tensor([0., 3.])

    Source: lecture, "Weight Initialization in a Deep Network" and "Calculate gradient with batch
    norm".

    Differs from torch: −0.0 becomes 0.0.
    """
    require_tensor("relu", input)
    if input.dtype == torch.bool:
        raise RuntimeError("relu: input must not be boolean, but got torch.bool")
    if input.is_complex():
        raise NotImplementedError(f"relu: input must be real, but got {input.dtype}")
    if backend.choose("relu", input, inplace, cpu=cpu.unsupported) == backend.CPU:
        return _compiled("relu", input)
    if inplace and backend.may_be_overwritten(input):
        return ReluInplace.apply(input)  # type: ignore[no-any-return, no-untyped-call]
    apply = reference.relu if backend.composes() else Relu.apply
    a = apply(input)
    return input.copy_(a) if inplace else a


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Scale negative values by a small slope.

    a = z where z > 0, else slope·z

    Args:
        input: z, any shape; floating-point.
        negative_slope: the slope where z ≤ 0.
        inplace: write the result over the input; its gradient needs a slope ≥ 0, as in torch.

    Returns:
        a, of the input's shape and dtype.

    Raises:
        NotImplementedError: the input is not of a floating-point dtype.
        TypeError: the slope is not a number.

    Example:
        >>> import torch
        >>> leaky_relu(torch.tensor([-2.0, 3.0]), 0.1)
        tensor([-0.2000,  3.0000])

    Source: lecture, "Calculate gradient with batch norm" (any activation g).
    """
    require_float("leaky_relu", input)
    if isinstance(negative_slope, Tensor) and negative_slope.numel() == 1:
        negative_slope = negative_slope.item()
    negative_slope = require_number("leaky_relu", "negative_slope", negative_slope)
    if backend.choose("leaky_relu", input, inplace, cpu=cpu.unsupported) == backend.CPU:
        return _compiled("leaky_relu", input, negative_slope)
    if inplace and backend.may_be_overwritten(input):
        return LeakyReluInplace.apply(input, negative_slope)  # type: ignore[no-any-return, no-untyped-call]
    z = input.clone() if inplace else input  # what the backward needs must not be written over
    apply = reference.leaky_relu if backend.composes() else LeakyRelu.apply
    a = apply(z, negative_slope)
    return input.copy_(a) if inplace else a


def tanh(input: Tensor) -> Tensor:
    """Squash values to (−1, 1).

    a = (e^z − e^−z) / (e^z + e^−z)

    Args:
        input: z, any shape; integers are taken as floats.

    Returns:
        a, of the input's shape.

    Raises:
        AttributeError: the input is not a tensor.

    Example:
        >>> import torch
        >>> tanh(torch.tensor([0.0, 1.0]))
        tensor([0.0000, 0.7616])

    Source: lecture, "Weight Initialization in a Deep Network" and "Calculate gradient with batch
    norm".
    """
    if backend.choose("tanh", input, cpu=cpu.unsupported) == backend.CPU:
        return _compiled("tanh", input)
    if backend.composes():
        return reference.tanh(input)
    return Tanh.apply(input)  # type: ignore[no-any-return, no-untyped-call]


def sigmoid(input: Tensor) -> Tensor:
    """Squash values to (0, 1).

    a = 1 / (1 + e^−z)

    Args:
        input: z, any shape; integers are taken as floats.

    Returns:
        a, of the input's shape.

    Raises:
        AttributeError: the input is not a tensor.

    Example:
        >>> import torch
        >>> sigmoid(torch.tensor([0.0, 1.0]))
        tensor([0.5000, 0.7311])

    Source: lecture, "What causes vanishing/exploding gradient?" (σ' ≤ 1/4; the slide writes σ).
    """
    if backend.choose("sigmoid", input, cpu=cpu.unsupported) == backend.CPU:
        return _compiled("sigmoid", input)
    if backend.composes():
        return reference.sigmoid(input)
    return Sigmoid.apply(input)  # type: ignore[no-any-return, no-untyped-call]
