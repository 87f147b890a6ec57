"""A loss differenced by the elements of a parameter, beside its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from verification.functions.frozen_loss import FrozenLoss
from verification.functions.quotients import bends, two_sided

LONG = 2000  # elements whose differences take long enough for a progress bar


@dataclass(frozen=True)
class Differences:
    """The elements of a parameter: dθ_approx, dθ, and which have no derivative."""

    approx: list[float]
    exact: list[float]
    kinks: list[bool]
    total: int  # elements that the parameter has

    def ratio(self) -> tuple[float, float, float, int]:
        """Return ratio, ‖dθ_approx − dθ‖₂ and ‖dθ_approx‖₂ + ‖dθ‖₂ where there is a derivative.

        And the number of elements that have one.
        """
        smooth = ~np.array(self.kinks, dtype=bool)
        approx, exact = np.array(self.approx)[smooth], np.array(self.exact)[smooth]
        gap = float(np.linalg.norm(approx - exact))
        size = float(np.linalg.norm(approx) + np.linalg.norm(exact))
        return gap / size if size else 0.0, gap, size, int(smooth.sum())


def together(parts: list[Differences]) -> Differences:
    """Return those of several parameters as of one."""
    return Differences(
        [a for part in parts for a in part.approx], [e for part in parts for e in part.exact],
        [k for part in parts for k in part.kinks], sum(part.total for part in parts),
    )  # fmt: skip


def chosen_of(total: int, elements: int | None, seed: int) -> Sequence[int]:
    """Return which elements are differenced, all of them where `elements` is None."""
    if elements is None or elements >= total:
        return range(total)
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return sorted(order[:elements].tolist())


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """Count elements in a bar on a terminal, where they are many."""
    console = Console(stderr=True)
    shown = total > LONG and console.is_terminal
    columns = (TextColumn("gradient check"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def differences_of(
    frozen: FrozenLoss,
    parameter: Tensor,
    gradient: Tensor,
    eps: float,
    threshold: float,
    chosen: Sequence[int],
    step: Callable[[], None],
) -> Differences:
    """Difference the loss by some elements of a parameter."""
    indices = [np.unravel_index(position, parameter.shape) for position in chosen]
    points = [
        (_along(frozen, parameter, index), parameter.detach()[index].item()) for index in indices
    ]
    approx = []
    for J, x in points:
        approx.append(two_sided(J, x, eps))
        step()
    typical = math.sqrt(sum(a * a for a in approx) / max(len(approx), 1))
    kinks = [
        bends(J, x, eps, threshold * max(typical, abs(a)), frozen.noise / eps)
        for (J, x), a in zip(points, approx, strict=True)
    ]
    return Differences(
        approx, [gradient[index].item() for index in indices], kinks, parameter.numel()
    )


def _along(frozen: FrozenLoss, parameter: Tensor, index: Any) -> Callable[[float], float]:
    """Return the loss as a function of one element, each value evaluated once."""
    element = parameter.detach()[index]
    before = element.item()

    @cache
    def at(value: float) -> float:
        if value == before:
            return frozen.value
        element.fill_(value)
        result = frozen()
        element.fill_(before)
        return result

    return at
