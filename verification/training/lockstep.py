"""Compare whole training runs: a candidate's, the builtins', and the builtins' perturbed by 1 ulp.

Two right implementations round differently, and training amplifies that. How much, the perturbed
run shows: a candidate may be ten times as far from the builtin run as that one is, or closer than
1e-10 in every loss and 1e-8 in every final weight.

A weight whose gradient is nothing but rounding, such as a bias before a batch norm, is a null
direction: Adam turns its rounding into full steps. Such weights are listed apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

import refnet.nn
from refnet import functional
from verification.cases.dropout import next_mask
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, NULL, Row

LOSS, WEIGHT = 1e-10, 1e-8
TIMES = 10  # the distance of the perturbed run
NOISE = 1.0  # a bound as large as the values lets everything pass
ROUNDING = 1e-12  # of the largest gradient: what is below is rounding

Floats = npt.NDArray[np.float64]
_Root = TypeVar("_Root", bound=torch.nn.Module)
_DROPOUTS: dict[type, str] = {
    getattr(refnet.nn, name): name.lower()
    for name in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d")
}


@dataclass(frozen=True)
class Recording:
    """A training run.

    Attributes:
        losses: the loss of every step.
        state: the state dict at the end, as arrays.
        gradients: for each parameter the largest absolute gradient that each element had.
    """

    losses: Floats
    state: dict[str, npt.NDArray[Any]]
    gradients: dict[str, Floats]


def perturb(module: torch.nn.Module, seed: int = 0) -> None:
    """Change every parameter by −1 or +1 unit in the last place, in place.

    Example:
        >>> layer = torch.nn.Linear(2, 2)
        >>> before = layer.weight.detach().clone()
        >>> perturb(layer)
        >>> bool((layer.weight != before).all())
        True
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            up = torch.empty(parameter.shape).bernoulli_(0.5, generator=generator).bool()
            towards = torch.where(up, torch.inf, -torch.inf).to(parameter)
            parameter.copy_(torch.nextafter(parameter, towards))


def builtin_masks(module: _Root) -> _Root:
    """Hand the masks that torch's dropout would draw to every dropout of refnet's, in place.

    On CUDA refnet's own draws are others.

    Example:
        >>> net, x = torch.nn.Sequential(refnet.nn.Dropout(0.5)), torch.ones(9)
        >>> _ = torch.manual_seed(0); ours = builtin_masks(net)(x)
        >>> _ = torch.manual_seed(0); torch.equal(ours, torch.nn.Dropout(0.5)(x))
        True
    """
    for part in module.modules():
        if type(part) in _DROPOUTS:
            part.forward = MethodType(_with_builtin_mask, part)
    return module


def _with_builtin_mask(module: Any, input: torch.Tensor) -> torch.Tensor:
    name = _DROPOUTS[type(module)]
    mask = next_mask(input.detach(), module.p, name) if module.training else None
    apply: Callable[..., torch.Tensor] = getattr(functional, name)
    return apply(input, module.p, module.training, module.inplace, mask=mask)


def compare(
    subject: str, case: str, candidate: Recording, builtin: Recording, perturbed: Recording
) -> list[Row]:
    """Judge a candidate's run: all losses, then every tensor of the final state.

    Args:
        subject: what was trained.
        case: how.
        candidate: the run in question.
        builtin: the same run on torch's builtins.
        perturbed: that run again, from initial weights changed by `perturb`.

    Returns:
        A row for the losses, one for each tensor, and one for each tensor with null directions.

    Raises:
        ValueError: the runs have different lengths or names.
    """
    if not (len(candidate.losses) == len(builtin.losses) == len(perturbed.losses) > 0):
        lengths = [len(r.losses) for r in (candidate, builtin, perturbed)]
        raise ValueError(f"the runs must have the same number of steps, but have {lengths}")
    if not candidate.state.keys() == builtin.state.keys() == perturbed.state.keys():
        raise ValueError(f"states differ: {sorted(candidate.state)} and {sorted(builtin.state)}")
    rows = [_losses(subject, case, candidate, builtin, perturbed)]
    for name in builtin.state:
        rows += _tensor(subject, case, name, candidate, builtin, perturbed)
    return rows


def _losses(
    subject: str, case: str, candidate: Recording, builtin: Recording, perturbed: Recording
) -> Row:
    scale = np.where(builtin.losses == 0, 1, np.abs(builtin.losses))
    error = _distance(candidate.losses, builtin.losses, scale)
    response = np.maximum.accumulate(_distance(perturbed.losses, builtin.losses, scale))
    bound = np.maximum(LOSS, TIMES * response)
    wrong = (error > bound) | (bound >= NOISE)
    step = int(np.argmax(wrong if wrong.any() else error / bound))
    note = f"{'first' if wrong.any() else 'worst'} at step {step}"
    return _row(
        subject, case, f"loss, {len(error)} steps", error[step], response[step], LOSS, note
    )  # fmt: skip


def _distance(values: Floats, reference: Floats, scale: npt.ArrayLike) -> Floats:
    """Return |values − reference| / scale, infinite where it isn't a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(values - reference) / scale
    return np.where(np.isfinite(gap), gap, np.inf)


def _tensor(
    subject: str,
    case: str,
    name: str,
    candidate: Recording,
    builtin: Recording,
    perturbed: Recording,
) -> list[Row]:
    ours, theirs, moved = (r.state[name] for r in (candidate, builtin, perturbed))
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        note = f"{ours.dtype} {ours.shape}, the builtin's {theirs.dtype} {theirs.shape}"
        return [_row(subject, case, name, np.inf, 0.0, WEIGHT, note)]
    if theirs.dtype.kind != "f":  # counters
        return [_row(subject, case, name, float(not np.array_equal(ours, theirs)), 0.0, WEIGHT)]
    null = _null(name, candidate, builtin)
    scale = np.abs(theirs).max(initial=0) or 1.0
    gap, response = (_distance(other, theirs, scale) for other in (ours, moved))
    rows = []
    if not null.all():
        rows.append(
            _row(subject, case, name, gap[~null].max(), response[~null].max(), WEIGHT)
        )  # fmt: skip
    if null.any():
        rows.append(
            Row(subject, case, name, str(theirs.dtype), gap[null].max(), response[null].max(),
                np.inf, "not judged", NULL, f"{null.sum()} of {null.size} elements")
        )  # fmt: skip
    return rows


def _null(name: str, *runs: Recording) -> npt.NDArray[np.bool_]:
    """Which elements had gradients of rounding alone in all runs, and not exact zeros in all."""
    if any(name not in run.gradients for run in runs):  # a buffer
        return np.zeros(runs[0].state[name].shape, dtype=bool)
    sizes = [run.gradients[name] for run in runs]
    largest = [max(g.max(initial=0) for g in run.gradients.values()) for run in runs]
    rounding = np.all([s <= ROUNDING * m for s, m in zip(sizes, largest, strict=True)], axis=0)
    return np.asarray(rounding & np.any([s > 0 for s in sizes], axis=0))


def _row(
    subject: str, case: str, quantity: str, error: float, response: float, floor: float,
    note: str = "",
) -> Row:  # fmt: skip
    bound = max(floor, TIMES * float(response))
    rule = f"{floor:.0e}" if bound == floor else f"{TIMES}·(1 ulp run)"
    verdict = INCONCLUSIVE if bound >= NOISE else AS_GOOD if error <= bound else ANOTHER
    return Row(subject, case, quantity, "float64", float(error), float(response), bound, rule,
               verdict, note)  # fmt: skip
