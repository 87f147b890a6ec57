"""Pieces of tensors, so that what a pure rule makes of them stays small; complex ones as reals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

__all__ = ["as_real", "blocks", "shaped_like"]

# Elements of a block: on a CPU what torch gives one thread, times the threads.
_GRAIN = 2**15
_BLOCK_OF_A_DEVICE = 2**22

_DENSE = (Tensor, torch.nn.Parameter)


def blocks(tensors: Sequence[Any], *, whole: bool) -> Iterable[tuple[Any, ...]]:
    """Cut tensors of one shape along its longest side."""
    w = tensors[0]
    dense = all(t is None or (type(t) in _DENSE and not t.is_sparse) for t in tensors)
    if whole or not dense or torch.compiler.is_compiling():
        return [tuple(tensors)]
    size = _GRAIN * torch.get_num_threads() if w.is_cpu else _BLOCK_OF_A_DEVICE
    if w.numel() <= size:
        return [tuple(tensors)]
    side = max(range(w.dim()), key=lambda dim: int(w.shape[dim]))
    length = max(1, size * w.shape[side] // w.numel())
    cut = [repeat(None) if t is None else t.split(length, side) for t in tensors]
    return zip(*cut, strict=False)


def as_real(tensor: Any) -> Any:
    """Return a view of a complex tensor as pairs, (…, 2); of a conjugate view, a copy."""
    if tensor is None or not tensor.is_complex() or tensor.is_sparse:
        return tensor
    return torch.view_as_real(tensor.resolve_conj())


def shaped_like(param: Tensor, value: Tensor) -> Tensor:
    """Return what the rule has made, of the parameter's dtype and shape."""
    return torch.view_as_complex(value) if param.is_complex() else value.to(param.dtype)
