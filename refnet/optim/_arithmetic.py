"""What the update rules are made of, with a factor that is a number or a tensor without dimensions.

With a number these are torch's own primitives, which round once where a sum of products would round
after every operation: that decides what is left of a bfloat16 weight. With a tensor (for a learning
rate that is differentiated, captured in a graph or compiled) they are written out.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["Scalar", "add", "addcdiv", "addcmul", "lerp"]

Scalar = float | Tensor


def add(x: Tensor, y: Tensor, a: Scalar) -> Tensor:
    """x + a y."""
    return x + a * y if isinstance(a, Tensor) else x.add(y, alpha=a)


def addcmul(x: Tensor, y: Tensor, z: Tensor, a: Scalar) -> Tensor:
    """x + a y z."""
    return x + a * y * z if isinstance(a, Tensor) else x.addcmul(y, z, value=a)


def addcdiv(x: Tensor, y: Tensor, z: Tensor, a: Scalar) -> Tensor:
    """x + a y / z."""
    return x + a * y / z if isinstance(a, Tensor) else x.addcdiv(y, z, value=a)


def lerp(x: Tensor, y: Tensor, a: Scalar) -> Tensor:
    """(1 − a) x + a y, evaluated as x + a (y − x)."""
    return x.lerp(y, a.to(x) if isinstance(a, Tensor) else a)
