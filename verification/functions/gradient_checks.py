"""The lecture's gradient check, and beside it the slope of the Taylor remainder.

θ is all parameters as one vector, J(θ) the loss, dθ its gradient. The check costs two losses for
every element of θ: it is for finding bugs, not for training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verification.functions.differences import (
    Differences,
    chosen_of,
    differences_of,
    progress,
    together,
)
from verification.functions.frozen_loss import FrozenLoss
from verification.functions.quotients import bends
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, NULL, Report, Row
from verification.tensors import short
from verification.tolerance import FLOOR_64

BANDS = ((1e-7, "great"), (1e-5, "fine"), (1e-3, "look"), (math.inf, "bug"))  # of the ratio
STEPS = [0.1 * 2.0**-k for k in range(24)]  # of the Taylor remainder, down to 1e-8
SLOPE = 1.5  # right gradients have 2, wrong ones 1
NO_DERIVATIVE = "no derivative here"
EVERY = "all parameters"
SOME = 200  # elements of each parameter that are differenced unless told


@dataclass(frozen=True, repr=False)
class GradientReport(Report):
    """The rows of a gradient check: all parameters, each parameter, the Taylor slope.

    Attributes:
        ratio: that of all parameters together; NaN where no loss could be compared.
        ratios: that of each parameter.
        slope: of the Taylor remainder: 2, or 1 if the gradient is wrong; ∞ where the remainder is
            nothing but rounding.
    """

    ratio: float = math.nan
    ratios: dict[str, float] = field(default_factory=dict)
    slope: float = math.nan


def gradient_check(
    loss: Callable[[], Any],
    parameters: torch.nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]],
    *,
    gradients: Sequence[Tensor | None] | None = None,
    eps: float = 1e-7,
    threshold: float = 1e-3,
    elements: int | None = SOME,
    seed: int = 0,
    subject: str = "loss",
) -> GradientReport:
    """Compare a loss's gradient with difference quotients.

    dθ_approx[i] = (J(θ + ε e_i) − J(θ − ε e_i)) / 2ε
    ratio = ‖dθ_approx − dθ‖₂ / (‖dθ_approx‖₂ + ‖dθ‖₂) > 1e-3: a bug; 1e-5: look; 1e-7: great

    The random state, and a module's buffers, are the same before each evaluation of the loss, so
    that dropout's masks are frozen and batch norm may train. They and the parameters are afterwards
    what they were. Elements without a derivative (the two one-sided quotients differ) are left out
    and make a row inconclusive. A parameter whose gradient is nothing but rounding is a null
    direction.

    Args:
        loss: J, a function without arguments that returns a scalar of float64; penalties included.
        parameters: θ: a module, tensors, or pairs of name and tensor; of float64.
        gradients: dθ, one for each parameter, None for none; autograd's unless told.
        eps: ε.
        threshold: the largest ratio that passes.
        elements: so many of each parameter, drawn by `seed`; None for all. What is wrong in a few
            elements that are not drawn shows in the slope alone, which takes all of them. The
            rows' notes say how many of how many were differenced.
        seed: of the drawn elements and of the Taylor test's direction.
        subject: what to call the loss in the rows.

    Returns:
        A report with a row for θ, one for each parameter, and one for the slope of
        |J(θ + h d) − J(θ) − h⟨dθ, d⟩| over h, d a random direction.

    Raises:
        ValueError: there is no parameter, one is not of float64 or takes no gradient; the loss is
            no scalar of float64; an option is out of range. What the loss raises comes through.

    Example:
        >>> w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        >>> report = gradient_check(lambda: (w**3).sum(), [("w", w)])
        >>> report.passed, report.ratio < 1e-7, round(report.slope, 1)
        (True, True, 2.0)
        >>> wrong = gradient_check(lambda: (w**3).sum(), [w], gradients=[6 * w.detach() ** 2])
        >>> wrong.passed, round(wrong.ratio, 2), round(wrong.slope, 1)
        (False, 0.33, 1.0)

    Source: lecture, "Gradient check for a neural network"; float64 because ε = 1e-7 drowns in the
    rounding of float32.
    """
    for name, value in (("eps", eps), ("threshold", threshold)):
        if not 0 < value < 1:
            raise ValueError(f"{name} is {value}, must be between 0 and 1")
    if elements is not None and elements < 1:
        raise ValueError(f"elements is {elements}, must be positive or None")
    named = _named(parameters, given=gradients is not None)
    module = parameters if isinstance(parameters, torch.nn.Module) else None
    title = f"gradient check of {subject}"
    with FrozenLoss(loss, list(named.values()), module) as frozen:
        dtheta = _full(frozen.gradients() if gradients is None else gradients, named)
        reason = frozen.unusable()
        if reason:
            nan = math.nan
            row = Row(subject, EVERY, "gradient", "float64", nan, nan, threshold, "ratio",
                      INCONCLUSIVE, reason, seed=seed)  # fmt: skip
            return GradientReport([row], title)
        chosen = {name: chosen_of(p.numel(), elements, seed) for name, p in named.items()}
        with progress(sum(map(len, chosen.values()))) as step:
            parts = {
                name: differences_of(frozen, named[name], dtheta[name], eps, threshold, which, step)
                for name, which in chosen.items()
            }
        slope, kink = _taylor(frozen, list(dtheta.values()), seed)
    parts = {EVERY: together(list(parts.values())), **parts}
    noise = frozen.noise / eps + eps**2  # of a quotient: rounding, and what is left of curvature
    rows = [
        _judge(subject, name, part, noise, parts[EVERY], threshold, seed)
        for name, part in parts.items()
    ]
    if slope == math.inf and not parts[EVERY].ratio()[2]:
        note = "the loss does not depend on the parameters"
        rows[0] = replace(rows[0], verdict=INCONCLUSIVE, note=note)
    ratios = {row.case: row.error for row in rows[1:]}
    rows.append(_judge_slope(subject, slope, kink, seed))
    return GradientReport(rows, title, ratio=rows[0].error, ratios=ratios, slope=slope)


def _named(parameters: Any, given: bool) -> dict[str, Tensor]:
    """Return the parameters by name, each once, or say what is wrong with them."""
    if isinstance(parameters, Tensor):
        raise ValueError("parameters is a tensor: a module or a list of tensors is needed")
    if isinstance(parameters, torch.nn.Module):
        listed = [(n, p) for n, p in parameters.named_parameters() if given or p.requires_grad]
    else:
        listed = [
            item if isinstance(item, tuple) else (f"parameter {i}", item)
            for i, item in enumerate(parameters)
        ]
    named: dict[str, Tensor] = {}
    for name, tensor in listed:
        if any(tensor is other for other in named.values()):
            continue
        if tensor.dtype != torch.float64:
            raise ValueError(
                f"{name!r} is {short(tensor.dtype)}: ε = 1e-7 is meaningful in float64 only, "
                "call .double() on the model and its inputs first"
            )
        if not (given or tensor.requires_grad):
            raise ValueError(f"{name!r} does not require a gradient")
        named[name] = tensor
    if not named:
        raise ValueError("parameters holds none that requires a gradient")
    return named


def _full(gradients: Sequence[Tensor | None], named: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a gradient for each parameter, zeros where there is none."""
    if len(gradients) != len(named):
        raise ValueError(f"gradients has {len(gradients)} entries for {len(named)} parameters")
    full = {}
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        if gradient is not None and gradient.shape != parameter.shape:
            shapes = f"{tuple(gradient.shape)}, must be {tuple(parameter.shape)}"
            raise ValueError(f"the gradient of {name!r} has the shape {shapes}")
        full[name] = torch.zeros_like(parameter) if gradient is None else gradient.detach()
    return full


def _judge(
    subject: str,
    case: str,
    part: Differences,
    noise: float,
    every: Differences,
    threshold: float,
    seed: int,
) -> Row:
    """Judge the ratio of a parameter; `noise` is what a quotient may be off by anyway."""
    ratio, gap, size, count = part.ratio()
    lost = noise * math.sqrt(count)
    band = next(name for limit, name in BANDS if ratio <= limit)
    notes = [band] if ratio <= threshold or gap > lost else []
    if ratio <= threshold:
        verdict = AS_GOOD
    elif gap > lost:
        verdict = ANOTHER
    elif lost <= threshold * every.ratio()[2]:
        verdict, notes = NULL, ["the gradient is nothing but rounding"]
    else:
        verdict, notes = INCONCLUSIVE, ["the loss hardly differs: rounding is as large"]
    if any(part.kinks):
        verdict = ANOTHER if verdict == ANOTHER else INCONCLUSIVE
        notes.append(f"{NO_DERIVATIVE}: {sum(part.kinks)} elements")
    if len(part.approx) < part.total:
        notes.append(f"{len(part.approx)} of {part.total} elements, seed {seed}")
    floor = lost / size if size else math.nan
    return Row(subject, case, "gradient", "float64", ratio, math.nan, threshold, "ratio", verdict,
               ", ".join(notes), floor=floor, seed=seed)  # fmt: skip


def _judge_slope(subject: str, slope: float, kink: bool, seed: int) -> Row:
    verdict, note = AS_GOOD, f"slope {slope:.2f}"
    if slope == math.inf:
        note = "the remainder is nothing but rounding"
    elif slope < SLOPE:
        verdict = INCONCLUSIVE if kink else ANOTHER
        note += f", {NO_DERIVATIVE}" * kink
    return Row(subject, EVERY, "Taylor slope", "float64", max(0.0, 2 - slope), math.nan, 2 - SLOPE,
               f"slope ≥ {SLOPE}", verdict, note, seed=seed)  # fmt: skip


def _taylor(frozen: FrozenLoss, dtheta: list[Tensor], seed: int) -> tuple[float, bool]:
    """Return the slope of the Taylor remainder where it is smallest above rounding.

    And whether it is so because J has a kink in this direction.
    """
    generator = torch.Generator().manual_seed(seed)
    d = [torch.randn(g.shape, generator=generator, dtype=torch.float64).to(g) for g in dtheta]
    length = _norm(d) or 1.0
    values = frozen.kept[: len(dtheta)]
    along = sum((x * g).sum().item() for x, g in zip(d, dtheta, strict=True)) / length

    def at(h: float) -> float:
        return frozen.moved([v + h / length * x for v, x in zip(values, d, strict=True)])

    above: list[tuple[float, float]] = []
    drop = -math.inf
    for h in STEPS:
        remainder = abs(at(h) - frozen.value - h * along)
        floor = frozen.noise + h * FLOOR_64 * _norm(dtheta)
        if remainder > floor:
            above.append((h, remainder))
        elif above:  # at least as steep as from the last one down to the floor
            drop = math.log2(above[-1][1] / floor) if floor else math.inf
            break
    if len(above) < 2:
        return math.inf, False
    h, remainder = above[-1]
    x, y = np.log(above[-3:]).T
    slope = max(float(np.polyfit(x, y, 1)[0]), drop)
    return slope, slope < SLOPE and bends(at, 0.0, h, remainder / h / 2, frozen.noise / h)


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum((t * t).sum().item() for t in tensors))
