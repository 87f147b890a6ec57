"""Parameter groups for the lecture's weight decay: λ/m on weights, nothing on the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from refnet.optim._base import require_one_element

__all__ = ["DecayGroups", "DecayRow", "decay_groups"]

Choose = Callable[[str, Tensor], bool | None]

_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)  # _NormBase: of batch and instance
_CALLED_NORM = re.compile(r"Norm(\dd)?$")  # other people's: LlamaRMSNorm, LayerNorm2d


class DecayRow(NamedTuple):
    """Where a parameter went: its names (several if it is shared), shape, the verdict, and why."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    verdict: str  # decay, no decay, frozen
    reason: str


class DecayGroups(list[dict[str, Any]]):
    """Two parameter groups, decayed and spared, for any optimizer; `str()` of them is a table.

    Attributes:
        rows: a `DecayRow` for each parameter of the module, frozen ones too.
    """

    def __init__(self, groups: list[dict[str, Any]], rows: list[DecayRow]) -> None:
        super().__init__(groups)
        self.rows = rows

    def __str__(self) -> str:
        width = max(len(" = ".join(row.names)) for row in self.rows)
        return "\n".join(
            f"{row.verdict:<8}  {' = '.join(row.names):<{width}}  "
            f"{'×'.join(map(str, row.shape)) or 'number'}, {row.reason}"
            for verdict in ("decay", "no decay", "frozen")
            for row in self.rows
            if row.verdict == verdict
        )


def decay_groups(
    module: nn.Module,
    weight_decay: float | Tensor,
    *,
    named: bool = False,
    choose: Choose | None = None,
) -> DecayGroups:
    r"""Sort a module's parameters into those that weight decay shrinks and those that it spares.

    J = 1/m Σ L + λ/(2m) Σ_l ‖W^[l]‖²,  so dW ← dW + λ/m W, for weights W alone

    A weight has two dimensions or more (of Linear, Conv, Embedding, attention, or a parameter that
    a module of your own holds), isn't called a bias and isn't a norm's: batch, instance, layer,
    group, RMS norm, and classes whose name ends in Norm. A shared parameter is one parameter, and
    decays if it would in each of its places. Of a parametrized weight, those tensors decay that it
    is computed from. Frozen parameters are left out.

    Args:
        module: whose parameters they are, for one a LightningModule in its `configure_optimizers`.
        weight_decay: λ/m ≥ 0, with m the number of training examples.
        named: put (name, parameter) into the groups, so that the optimizer's state dict has names.
        choose: called with each name and its parameter: True (decay) and False decide, None leaves
            it to the rule above.

    Returns:
        A list of two groups, for any optimizer of refnet or torch. One of them may be empty. The
        state dict of an optimizer on `module.parameters()` doesn't fit: the order is another.

    Raises:
        TypeError: `module` is none.
        ValueError: `weight_decay` is negative, infinite or NaN; no parameter is trainable, or one
            has no shape yet (of a lazy layer).

    Example:
        >>> import torch
        >>> from refnet import nn, optim
        >>> net = torch.nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> groups = decay_groups(net, weight_decay=0.5 / 1000)  # λ = 0.5, m = 1000
        >>> print(groups)
        decay     0.weight  3×4, of Linear
        no decay  0.bias    3, a bias
        no decay  1.weight  3, of BatchNorm1d
        no decay  1.bias    3, of BatchNorm1d
        >>> optimizer = optim.SGD(groups, lr=0.1, momentum=0.9)
        >>> [group["weight_decay"] for group in optimizer.param_groups]
        [0.0005, 0.0]

    Source: lecture, "Regularization for logistic regression" (where the b² term is struck out),
    "Regularization for Neural network".
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    require_one_element(weight_decay=weight_decay)
    if not 0 <= weight_decay < math.inf:  # NaN, too
        raise ValueError(f"weight_decay must be finite and at least 0, got {weight_decay}")
    places: dict[Tensor, dict[str, tuple[str, str]]] = {}  # a shared parameter has several
    for name, layer, attribute, param in _places(module):
        places.setdefault(param, {})[name] = _judge(name, layer, attribute, param, choose)
    if not any(param.requires_grad for param in places):
        raise ValueError(f"module has no trainable parameter: {type(module).__name__}")
    members: dict[str, list[Any]] = {"decay": [], "no decay": [], "frozen": []}
    rows = []
    for param, found in places.items():
        places_found = list(found.values())
        spared = (place for place in places_found if place[0] != "decay")
        verdict, reason = next(spared, places_found[0])
        members[verdict].append((next(iter(found)), param) if named else param)
        rows.append(DecayRow(tuple(found), tuple(param.shape), verdict, reason))
    return DecayGroups(
        [
            {"params": members["decay"], "weight_decay": weight_decay},
            {"params": members["no decay"], "weight_decay": 0.0},
        ],
        rows,
    )


def _places(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield each name that a parameter has, the layer there, what the layer calls it, and it."""
    for path, owner in module.named_modules(remove_duplicate=False):
        layer, attribute = owner, ""
        if isinstance(owner, ParametrizationList):  # at layer.parametrizations.weight
            *above, attribute = str(path).split(".")
            layer = module.get_submodule(".".join(above[:-1]))
        for leaf, param in owner.named_parameters(recurse=False, remove_duplicate=False):
            yield f"{path}.{leaf}" if path else leaf, layer, attribute or leaf, param


def _judge(
    name: str, layer: nn.Module, attribute: str, param: Tensor, choose: Choose | None
) -> tuple[str, str]:
    """Return the verdict on a parameter in one of its places, and the reason."""
    if not param.requires_grad:
        return "frozen", "requires no gradient"
    if is_lazy(param):
        raise ValueError(f"module: {name!r} has no shape yet; run a batch through it first")
    chosen = None if choose is None else choose(name, param)
    kind = type(layer).__name__
    if chosen is not None:
        return "decay" if chosen else "no decay", "chosen"
    if isinstance(layer, _NORMS) or _CALLED_NORM.search(kind):
        return "no decay", f"of {kind}"
    if "bias" in attribute.split("_"):  # bias, bias_ih_l0, in_proj_bias
        return "no decay", "a bias"
    if param.dim() < 2:
        return "no decay", "fewer than 2 dimensions"
    return "decay", f"of {kind}"
