"""One room per op: `reference.py` has the equations, `__init__.py` the `autograd.Function`."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from operator import index

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """Return `tensor` in the precision that the equations are evaluated in: float64.

    The reference sums, and keeps the coefficients of a channel or a row, in float64 and rounds once
    at the end: that is what makes it at least as accurate as the builtin on every input.
    Complex tensors become complex128.
    """
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def zero_through(tensor: Tensor) -> Tensor:
    """Return zeros that hang on `tensor` in the graph, with derivative 0, whatever its values are.

    A derivative that is constant in the input, such as ReLU's, has a second derivative of 0 and not
    none at all: whoever differentiates it again gets zeros, as from the builtin.
    """
    return torch.where(torch.ones_like(tensor, dtype=torch.bool), 0, tensor)


def broadcasts_to(tensor: Tensor, shape: Sequence[int]) -> bool:
    """Return whether a tensor can be expanded to a shape.

    Example:
        >>> broadcasts_to(torch.ones(3, 1), (2, 3, 4)), broadcasts_to(torch.ones(2), (3,))
        (True, False)
    """
    return tensor.dim() <= len(shape) and all(
        have in (1, want)
        for have, want in zip(reversed(tensor.shape), reversed(shape), strict=False)
    )


def require_number(name: str, argument: str, value: object) -> float:
    """Return as a float what torch takes for one: a number, NumPy's too, or a 0-D tensor.

    Raises:
        TypeError: it is none.

    Example:
        >>> require_number("dropout", "p", torch.tensor(0.5))
        0.5
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor) and value.dim() == 0 and not value.requires_grad:
        return float(value)
    if not isinstance(value, Real):
        raise TypeError(f"{name}(): argument '{argument}' must be float, not {value!r}")
    return float(value)


def require_index(name: str, argument: str, value: object) -> int:
    """Return as an int what torch takes for one: an integer, NumPy's too, but no boolean.

    Raises:
        TypeError: it is none.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}(): argument '{argument}' must be int, not {value!r}")
    return index(value)


def require_bool(name: str, argument: str, value: object) -> None:
    """Raise what torch raises where a flag is something else.

    Raises:
        TypeError: `value` is no boolean.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}(): argument '{argument}' must be bool, not {value!r}")


def require_tensor(name: str, tensor: Tensor | None, argument: str = "input") -> None:
    """Raise what torch raises where an op is given something else than a tensor.

    Raises:
        TypeError: `tensor` is no tensor.
    """
    if not isinstance(tensor, Tensor):
        kind = type(tensor).__name__
        raise TypeError(f"{name}(): argument '{argument}' must be Tensor, not {kind}")


def require_float(name: str, tensor: Tensor) -> None:
    """Raise what torch raises where an op takes real floating-point tensors only.

    Raises:
        TypeError: `tensor` is no tensor.
        NotImplementedError: `tensor` is of an integer, boolean or complex dtype.
    """
    require_tensor(name, tensor)
    if not tensor.is_floating_point():
        raise NotImplementedError(
            f"{name}: input must be of a floating-point dtype, but got {tensor.dtype}"
        )
