"""The lecture's "Learning rate decay", on torch's `LRScheduler`.

Each class is one formula for the factor on the initial learning rate α₀. Legend: epoch =
`last_epoch`, from 0.

By epoch or by step: the schedule counts the calls of `step()`. Called after each mini-batch, its
epoch is the lecture's t. In Lightning, "interval" says which of the two:

    def configure_optimizers(self):
        optimizer = Adam(self.parameters())
        schedule = InverseSqrtDecay(optimizer)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

They equal torch's `LambdaLR` with the same formula bit for bit. As there, the rate follows from the
epoch alone, whatever it was before: in a `ChainedScheduler` such a schedule comes first, and in a
`SequentialLR` its epochs are counted from its milestone. Unlike there, the state dict has the
option (`decay_rate`, `gamma`, `k`), which a loaded checkpoint thus brings along.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["ExponentialDecay", "InverseSqrtDecay", "InverseTimeDecay"]


class _Decay(LRScheduler):
    """A schedule in closed form: α = factor(epoch) · α₀."""

    option: ClassVar[str]  # the name of its number

    def factor(self, epoch: int) -> float:
        raise NotImplementedError

    def get_lr(self) -> list[float | Tensor]:
        if not self._get_lr_called_within_step:
            message = "To get the last learning rate computed by the scheduler, "
            warnings.warn(message + "please use `get_last_lr()`.", UserWarning, stacklevel=2)
        return [base * self.factor(self.last_epoch) for base in self.base_lrs]

    def __repr__(self) -> str:
        value = getattr(self, self.option)
        return f"{type(self).__name__}({self.option}={value}, last_epoch={self.last_epoch})"


class InverseTimeDecay(_Decay):
    """α = α₀ / (1 + decay_rate · epoch).

    Args:
        optimizer: whose learning rates are scheduled.
        decay_rate: ≥ 0; after 1 / decay_rate epochs the rate is half of α₀.
        last_epoch: −1 to start; else the epoch to resume from.

    Raises:
        ValueError: `decay_rate` is negative, infinite or NaN.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
        >>> schedule = InverseTimeDecay(optimizer, decay_rate=1.0)
        >>> for _ in range(4):
        ...     optimizer.step()
        ...     schedule.step()
        ...     print(f"{schedule.get_last_lr()[0]:.3f}")
        0.100
        0.067
        0.050
        0.040

    Source: lecture, "Learning rate decay".
    """

    option = "decay_rate"

    def __init__(self, optimizer: Optimizer, decay_rate: float, last_epoch: int = -1) -> None:
        self.decay_rate = _require("decay_rate", decay_rate, 0 <= decay_rate < math.inf)
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """1 / (1 + decay_rate · epoch)."""
        return float(1 / (1 + self.decay_rate * epoch))


class ExponentialDecay(_Decay):
    """α = gamma^epoch · α₀.

    Args:
        optimizer: whose learning rates are scheduled.
        gamma: the factor of one epoch, > 0; the lecture's is 0.95.
        last_epoch: −1 to start; else the epoch to resume from.

    Raises:
        ValueError: `gamma` is not positive and finite.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = ExponentialDecay(optimizer)
        >>> optimizer.step(); schedule.step(); schedule.get_last_lr()
        [0.95]

    Source: lecture, "Learning rate decay".

    Differs from torch: `ExponentialLR` multiplies epoch by epoch; this is the closed form, equal to
    it but for rounding.
    """

    option = "gamma"

    def __init__(self, optimizer: Optimizer, gamma: float = 0.95, last_epoch: int = -1) -> None:
        self.gamma = _require("gamma", gamma, 0 < gamma < math.inf)
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """gamma^epoch."""
        return float(self.gamma**epoch)


class InverseSqrtDecay(_Decay):
    """α = k / √epoch · α₀, with epochs counted from 1; or k / √t, called once per mini-batch.

    Args:
        optimizer: whose learning rates are scheduled.
        k: > 0.
        last_epoch: −1 to start; else the epoch to resume from, counted from 0 as torch does.

    Raises:
        ValueError: `k` is not positive and finite.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> schedule = InverseSqrtDecay(optimizer)
        >>> for _ in range(3):
        ...     optimizer.step()
        ...     schedule.step()
        >>> schedule.get_last_lr()  # of the fourth epoch
        [0.5]
        >>> schedule
        InverseSqrtDecay(k=1.0, last_epoch=3)

    Source: lecture, "Learning rate decay"; the root needs a first epoch of 1, torch counts from 0.
    """

    option = "k"

    def __init__(self, optimizer: Optimizer, k: float = 1.0, last_epoch: int = -1) -> None:
        self.k = _require("k", k, 0 < k < math.inf)
        super().__init__(optimizer, last_epoch)

    def factor(self, epoch: int) -> float:
        """k / √(epoch + 1)."""
        return float(self.k / math.sqrt(epoch + 1))


def _require(name: str, value: Any, holds: bool) -> Any:
    if not holds:  # NaN, too
        raise ValueError(f"Invalid {name}: {value}")
    return value
