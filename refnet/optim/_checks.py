"""Checks of options that all optimizers share, with torch's errors."""

from __future__ import annotations

from torch import Tensor

__all__ = ["require_non_negative", "require_one_element"]

_TORCH_NAMES = {"lr": "learning rate", "eps": "epsilon value"}


def require_one_element(**options: float | Tensor) -> None:
    """Raise torch's ValueError for a tensor that is not a single number.

    Example:
        >>> import torch
        >>> require_one_element(lr=torch.ones(2))
        Traceback (most recent call last):
        ValueError: Tensor lr must be 1-element, but got shape [2]
    """
    for name, value in options.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            shape = list(value.shape)
            raise ValueError(f"Tensor {name} must be 1-element, but got shape {shape}")


def require_non_negative(*, nan: bool = False, **options: float | Tensor) -> None:
    """Raise torch's ValueError for an option that is negative, or NaN unless that is allowed.

    Example:
        >>> require_non_negative(lr=-1.0)
        Traceback (most recent call last):
        ValueError: Invalid learning rate: -1.0
    """
    for name, value in options.items():
        if value < 0 or (value != value and not nan):
            raise ValueError(f"Invalid {_TORCH_NAMES.get(name, f'{name} value')}: {value}")
