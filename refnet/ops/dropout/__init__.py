"""Inverted dropout: torch's function on hand-written forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from refnet import backend
from refnet.ops import require_tensor
from refnet.ops.dropout import reference

__all__ = ["dropout"]


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

    Returns:
        A tensor of the input's shape and dtype.

    Raises:
        ValueError: `p` is outside [0, 1], or `mask` and `generator` are both given.
        TypeError: `mask` is not boolean.
        RuntimeError: `mask` doesn't broadcast to the input, or the input is not floating-point.

    Example:
        >>> import torch
        >>> keep = torch.tensor([True, False, True, True, True])
        >>> dropout(torch.ones(5), p=0.2, mask=keep)
        tensor([1.2500, 0.0000, 1.2500, 1.2500, 1.2500])

    Source: lecture, "Implementing dropout".

    Differs from torch: `generator` and `mask` are ours. In eager mode on a CPU the masks are those
    that torch draws from the same seed; on CUDA torch's fused kernel draws others.
    """
    require_tensor("dropout", input)
    if not isinstance(p, (int, float)):
        raise TypeError(f"dropout(): argument 'p' must be float, not {p!r}")
    if not 0 <= p <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if mask is not None:
        if generator is not None:
            raise ValueError("dropout: give either mask or generator, not both")
        if mask.dtype != torch.bool:
            raise TypeError(f"dropout: mask must be boolean (True: kept), but got {mask.dtype}")
        shape = torch.broadcast_shapes(mask.shape, input.shape)  # type: ignore[no-untyped-call]
        if shape != input.shape:
            raise RuntimeError(
                f"dropout: mask {list(mask.shape)} must broadcast to input {list(input.shape)}"
            )
    if not training or (p == 0 and mask is None):
        return input
    if p not in (0, 1) and not (input.is_floating_point() or input.is_complex()):
        raise RuntimeError(f"dropout: input must be floating-point, but got {input.dtype}")
    if mask is None:
        mask = _draw_mask(input, p, generator)
    if backend.forward_mode():
        result = reference.forward(input, mask, p)
    else:
        result = Dropout.apply(input, mask, p)  # type: ignore[no-untyped-call]
    return input.copy_(result) if inplace else result


def _draw_mask(input: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """The lecture's `rand < keep_prob`; p = 1 draws no random numbers."""
    if p == 1:
        return torch.zeros_like(input, dtype=torch.bool)
    # Drawn in the input's dtype and layout, as torch does it, so that a CPU gives torch's masks.
    return torch.empty_like(input).bernoulli_(1 - p, generator=generator).bool()
