"""Inverted dropout: torch's function on hand-written forward and backward."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from refnet import backend
from refnet._triton import Kernels
from refnet.ops import broadcasts_to, require_bool, require_number, require_tensor
from refnet.ops.dropout import cpu, reference

__all__ = ["dropout", "dropout1d", "dropout2d", "dropout3d"]

_FAST: dict[str, Any] = {"cuda": Kernels("refnet.ops.dropout.cuda"), "cpu": cpu}
_SERVES = {name: fast.unsupported for name, fast in _FAST.items()}


class Dropout(Function):
    """The shell around `reference.forward` and `reference.backward`; keeps a byte per element."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a: Tensor, mask: Tensor, p: float) -> Tensor:
        return reference.forward(a, mask, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, mask, ctx.p = inputs
        ctx.save_for_backward(mask)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return reference.backward(da, mask, ctx.p), None, None


class DropoutLoops(Function):
    """The shell around loops or kernels; keeps the key of its random numbers alone.

    Its backward is the same function of the cotangent, and so are all higher ones.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, key: Tensor, p: float, strides: tuple[int, ...] | None, name: str
    ) -> Tensor:
        y: Tensor = _FAST[name].forward(a, key, p, strides)
        ctx.save_for_backward(key)
        ctx.p, ctx.strides, ctx.name = p, y.stride(), name
        return y

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> tuple[Tensor, None, None, None, None]:
        (key,) = ctx.saved_tensors
        forward, rest = _FAST[ctx.name].forward, (None, None, None, None)
        if not backend.is_plain(da):
            ones = torch.ones(da.shape, dtype=da.dtype, device=da.device)
            mask = forward(ones, key, ctx.p, ctx.strides) != 0
            return reference.forward(da, mask, ctx.p), *rest
        backend.ran("dropout backward", ctx.name)
        if torch.is_grad_enabled():
            return DropoutLoops.apply(da, key, ctx.p, ctx.strides, ctx.name), *rest  # type: ignore[no-untyped-call]
        return forward(da, key, ctx.p, ctx.strides), *rest


_apply_loops = backend.apply_of(DropoutLoops)


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Shut off random units while training, and scale up the others so that E[a] stays the same.

    a * d / keep_prob, d ~ Bernoulli(keep_prob), keep_prob = 1 − p

    Args:
        input: a, any shape.
        p: the probability that a unit is shut off, in [0, 1].
        training: without it the input is returned as it is.
        inplace: write the result over the input.
        generator: where the random numbers come from; torch's default generator otherwise.
        mask: a boolean keep-mask that broadcasts to the input's shape, instead of a random one.
            What is kept is divided by 1 − p, at p = 1 by nothing.

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        ValueError: `p` is outside [0, 1], or `mask` and `generator` are both given.
        TypeError: `mask` is not boolean.
        RuntimeError: `mask` doesn't broadcast to the input, the input is not floating-point, or
            `generator` is given under `torch.compile` or `torch.func.vmap`.

    Example:
        >>> import torch
        >>> keep = torch.tensor([True, False, True, True, True])
        >>> dropout(torch.ones(5), p=0.2, mask=keep)
        tensor([1.2500, 0.0000, 1.2500, 1.2500, 1.2500])

    Source: lecture, "Implementing dropout".

    Differs from torch: `generator` and `mask` are ours. The masks are others than those that torch
    draws from the same seed, but for those of the reference on a CPU in eager mode: of dtypes
    without compiled loops, or under `refnet.use_backend("reference")`. Activation checkpointing
    runs the forward twice and puts back torch's own random state alone, not a generator's: draw the
    mask before, and pass it.
    """
    return _dropout("dropout", input, p, training, inplace, generator, mask)


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Shut off whole channels of sequences: `dropout` with one random number per channel.

    Args:
        input: a, shape (N, C, L) or (C, L).
        p: the probability that a channel is shut off, in [0, 1].
        training: without it the input is returned as it is.
        inplace: write the result over the input.
        generator: where the random numbers come from; torch's default generator otherwise.
        mask: a boolean keep-mask that broadcasts to the input's shape, such as (N, C, 1).

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        RuntimeError: the input is not 2-D or 3-D; and what `dropout` raises.

    Example:
        >>> import torch
        >>> keep = torch.tensor([[True], [False]])
        >>> dropout1d(torch.ones(2, 3), p=0.5, mask=keep)
        tensor([[2., 2., 2.],
                [0., 0., 0.]])

    Source: lecture, "Implementing dropout"; Tompson et al. 2015, "Efficient object localization
    using convolutional networks".

    Differs from torch: as `dropout` does. The input's own shape is left alone with `inplace`.
    """
    require_tensor("dropout1d", input)
    _check_p("dropout1d", p)
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: input must be (N, C, L) or (C, L), but got {list(input.shape)}"
        )
    return _dropout("dropout1d", input, p, training, inplace, generator, mask, input.dim() == 3)


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Shut off whole channels of images: `dropout` with one random number per channel.

    Args:
        input: a, shape (N, C, H, W); any other from (N, C) on is taken, with a warning, as torch
            does, three dimensions as (N, C, L).
        p: the probability that a channel is shut off, in [0, 1].
        training: without it the input is returned as it is.
        inplace: write the result over the input.
        generator: where the random numbers come from; torch's default generator otherwise.
        mask: a boolean keep-mask that broadcasts to the input's shape, such as (N, C, 1, 1).

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        RuntimeError: the input has less than two dimensions; and what `dropout` raises.

    Example:
        >>> import torch
        >>> keep = torch.tensor([True, False]).reshape(1, 2, 1, 1)
        >>> dropout2d(torch.ones(1, 2, 1, 2), p=0.5, mask=keep)
        tensor([[[[2., 2.]],
        <BLANKLINE>
                 [[0., 0.]]]])

    Source: lecture, "Implementing dropout"; Tompson et al. 2015, "Efficient object localization
    using convolutional networks".

    Differs from torch: as `dropout` does.
    """
    _warn_of_shape("dropout2d", input, (3, 4), "(N, C, H, W)")
    if input.dim() == 3:
        warnings.warn(
            "dropout2d: a 3-D input is taken as (N, C, L); in a later version of torch it will be "
            "(C, H, W). Use dropout1d for (N, C, L).",
            stacklevel=2,
        )
    return _dropout("dropout2d", input, p, training, inplace, generator, mask, True)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Shut off whole channels of volumes: `dropout` with one random number per channel.

    Args:
        input: a, shape (N, C, D, H, W) or (C, D, H, W); any other is taken, with a warning, as
            torch does: as one example without the batch dimension.
        p: the probability that a channel is shut off, in [0, 1].
        training: without it the input is returned as it is.
        inplace: write the result over the input.
        generator: where the random numbers come from; torch's default generator otherwise.
        mask: a boolean keep-mask that broadcasts to the input's shape, such as (N, C, 1, 1, 1).

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        RuntimeError: the input is a number without dimensions; and what `dropout` raises.

    Example:
        >>> import torch
        >>> keep = torch.tensor([True, False]).reshape(2, 1, 1, 1)
        >>> dropout3d(torch.ones(2, 1, 1, 2), p=0.5, mask=keep)[:, 0, 0]
        tensor([[2., 2.],
                [0., 0.]])

    Source: lecture, "Implementing dropout"; Tompson et al. 2015, "Efficient object localization
    using convolutional networks".

    Differs from torch: as `dropout` does. The input's own shape is left alone with `inplace`.
    """
    _warn_of_shape("dropout3d", input, (4, 5), "(N, C, D, H, W)")
    return _dropout("dropout3d", input, p, training, inplace, generator, mask, input.dim() == 5)


def _dropout(
    name: str,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    generator: torch.Generator | None,
    mask: Tensor | None,
    batched: bool | None = None,
) -> Tensor:
    """All four; `batched` says where the channels of a channel dropout are: dimension 1 or 0."""
    require_tensor(name, input)
    p = _check_p(name, p)
    require_bool(name, "training", training)
    _check(name, input, generator, mask)
    if not training or (p == 0 and mask is None):
        return input
    if p not in (0, 1) and not (input.is_floating_point() or input.is_complex()):
        raise RuntimeError(f"{name}: input must be floating-point, but got {input.dtype}")
    chosen = backend.REFERENCE
    if batched is None:
        chosen = backend.choose(name, input, p, mask, **_SERVES)
    if chosen != backend.REFERENCE:
        fast = _FAST[chosen]
        key = fast.draw_key(generator, input.device)
        if torch.is_grad_enabled() and input.requires_grad:
            result = _apply_loops(input, key, p, None, chosen)
        else:
            result = fast.forward(input, key, p)
        return input.copy_(result) if inplace else result
    if mask is None:
        mask = _draw_mask(input, p, generator, batched)
    if backend.composes():
        result = reference.forward(input, mask, p)
    else:
        result = Dropout.apply(input, mask, p)  # type: ignore[no-untyped-call]
    return input.copy_(result) if inplace else result


def _draw_mask(
    input: Tensor, p: float, generator: torch.Generator | None, batched: bool | None
) -> Tensor:
    """The lecture's `rand < keep_prob`; p = 1 draws no random numbers."""
    if p == 1:
        return torch.zeros((), dtype=torch.bool, device=input.device)
    # Drawn in the input's dtype and layout, as torch does it, so that a CPU gives torch's masks.
    if batched is None:
        noise = torch.empty_like(input)
    elif input.dim() <= batched:
        raise RuntimeError(
            f"channel dropout: input must have channels, but got {list(input.shape)}"
        )
    else:
        channels = input.shape[: 1 + batched]
        noise = input.new_empty((*channels, *[1] * (input.dim() - len(channels))))
    return noise.bernoulli_(1 - p, generator=generator).bool()


def _check(
    name: str, input: Tensor, generator: torch.Generator | None, mask: Tensor | None
) -> None:
    if generator is not None and backend.is_transformed():
        raise RuntimeError(
            f"{name}: a generator cannot be used under torch.compile or torch.func; "
            "draw the mask before, and pass it as `mask`"
        )
    if mask is None:
        return
    if generator is not None:
        raise ValueError(f"{name}: give either mask or generator, not both")
    require_tensor(name, mask, "mask")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name}: mask must be boolean (True: kept), but got {mask.dtype}")
    if not broadcasts_to(mask, input.shape):
        raise RuntimeError(
            f"{name}: mask {list(mask.shape)} must broadcast to input {list(input.shape)}"
        )


def _check_p(name: str, p: float) -> float:
    p = require_number(name, "p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    return p


def _warn_of_shape(name: str, input: Tensor, usual: tuple[int, int], shape: str) -> None:
    require_tensor(name, input)
    if input.dim() not in usual:
        warnings.warn(
            f"{name}: an input of {input.dim()} dimensions is deprecated, it should be {shape}; "
            "use dropout instead.",
            stacklevel=3,
        )
