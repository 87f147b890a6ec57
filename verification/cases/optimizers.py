"""Optimizers: option values alone and in combination, run as whole trajectories.

Gradients span the decades, one decade per tensor, since ε bugs show at small ones and β₂ bugs over
many; some steps have gradients of zero, some none at all, and the two differ. The builtin is
torch's default implementation, which on a CPU is the loop over tensors (`foreach=None`).
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch

from refnet import optim
from verification.cases.pairs import Options, Values, combinations
from verification.oracles.adam import adam
from verification.oracles.adamw import adamw
from verification.oracles.momentum import momentum
from verification.oracles.rmsprop import rmsprop
from verification.oracles.sgd import sgd

Arguments = Mapping[str, Any]
GRADIENT_SCALES = tuple(10.0**k for k in range(-8, 5))


@dataclass(frozen=True)
class Case:
    """One way to use an optimizer.

    Attributes:
        arguments: of the constructor.
        group: what a second parameter group, which holds every other tensor, has of its own.
        closure: whether the gradients come from a closure that `step` calls.
        resumed: whether the run is stopped twice and goes on from the state dict, the second third
            of it in the builtin.
        values: by which values of the optimizer's options it counts for the coverage of pairs; of a
            case that `OptimizerTable.make` made of more parameters, all of them.
        shape: of every tensor.
        scales: the decades of the gradients, one tensor for each.
        steps: length of the trajectory, where it isn't chosen with the profile.
    """

    arguments: Arguments
    group: Arguments = field(default_factory=dict)
    closure: bool = False
    resumed: bool = False
    values: Values = field(default_factory=dict)
    shape: tuple[int, ...] = (3, 4)
    scales: tuple[float, ...] = GRADIENT_SCALES
    steps: int | None = None

    @property
    def name(self) -> str:
        """The case in words.

        Example:
            >>> Case({"lr": torch.tensor(0.5), "nesterov": True}, resumed=True).name
            'lr=tensor(0.5) nesterov=True, resumed'
        """
        parts = [" ".join(f"{name}={_word(value)}" for name, value in self.arguments.items())]
        parts += ["two groups"] if self.group else []
        parts += ["closure"] if self.closure else []
        parts += [f"shape {self.shape}"] if self.shape != Case.shape else []
        parts += [f"gradients {self.scales}"] if self.scales != GRADIENT_SCALES else []
        parts += [f"{self.steps} steps"] if self.steps else []
        return ", ".join(parts + (["resumed"] if self.resumed else []))


def _word(value: Any) -> str:
    return f"tensor({value.item():g})" if isinstance(value, torch.Tensor) else str(value)


@dataclass(frozen=True)
class OptimizerTable:
    """An optimizer, its two other parties, and the cases that they are run on.

    Attributes:
        name: of the optimizer.
        candidate: refnet's class.
        builtin: makes torch's from parameters and the same arguments, or returns None where torch
            has no such optimizer.
        oracle: runs a trajectory of one parameter in NumPy.
        cases: the table.
        pairs: which values the options have, for the coverage of pairs.
        space: all that a case can be made of, options and sizes, the simplest values first.
        make: makes a case of such values.
        own_state: names of state that the builtin doesn't keep; where there are any, the two
            cannot go on from each other's state dicts.
    """

    name: str
    candidate: Callable[..., torch.optim.Optimizer]
    builtin: Callable[..., torch.optim.Optimizer | None]
    oracle: Callable[..., Any]
    cases: tuple[Case, ...]
    pairs: Options
    space: Options
    make: Callable[[Values], Case]
    own_state: tuple[str, ...] = ()


def _sgd_as_momentum(
    params: Any,
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0,
    *,
    bias_correction: bool = False,
    **others: Any,
) -> torch.optim.Optimizer | None:
    """The lecture's rule from torch's SGD: dampening β, and zero buffers laid in beforehand."""
    if bias_correction:
        return None
    optimizer = torch.optim.SGD(params, lr, momentum, momentum, weight_decay, **others)
    _keep_the_rule(optimizer)
    optimizer.register_step_pre_hook(_keep_the_rule)  # somebody may change β, or add a group
    return optimizer


def _keep_the_rule(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        group["dampening"] = group["momentum"]
        for param in group["params"]:
            if not optimizer.state[param]:
                optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)


def _rmsprop(
    params: Any, *places: Any, eps_inside_root: bool = False, **arguments: Any
) -> torch.optim.Optimizer | None:
    return None if eps_inside_root else torch.optim.RMSprop(params, *places, **arguments)


def _each(base: Arguments, *changes: Arguments) -> tuple[Arguments, ...]:
    return tuple({**base, **change} for change in ({}, *changes))


def _table(
    name: str,
    builtin: Callable[..., torch.optim.Optimizer | None],
    oracle: Callable[..., Any],
    by_hand: tuple[Arguments, ...],
    values: Mapping[str, tuple[str, ...]],
    *,
    group: Arguments,
    impossible: tuple[tuple[str, Mapping[str, list[str]]], ...] = (),
    own_state: tuple[str, ...] = (),
) -> OptimizerTable:
    """Make a table of cases by hand and of all options in pairs; `group` is the second group's."""
    pairs = Options({**values, **_USES, "dtype": ("float64", "float32")}, impossible)
    single = [word for word in _SIZES["gradients"] if len(_decades(word)) == 1]
    alone = ("one tensor is one group", {"groups": ["two"], "gradients": single})
    more = {n: (*v, *(w for w in _MORE.get(n, ()) if w not in v)) for n, v in values.items()}
    space = Options({**_SIZES, **more, **_USES}, (*impossible, alone))
    make = partial(_pair, group=group)
    cases = tuple([*map(Case, by_hand), *map(make, combinations(pairs))])
    return OptimizerTable(
        name, getattr(optim, name), builtin, oracle, cases, pairs, space, make, own_state
    )


def _pair(values: Values, group: Arguments) -> Case:
    others = {*_USES, *_SIZES}
    sizes: dict[str, Any] = {}
    if "steps" in values:
        sizes = {
            "shape": (int(values["size"]),),
            "scales": _decades(values["gradients"]),
            "steps": int(values["steps"]),
        }
    return Case(
        {name: _value(word) for name, word in values.items() if name not in others},
        group if values["groups"] == "two" else {},
        values["closure"] == "yes",
        values["resumed"] == "yes",
        values,
        **sizes,
    )


def _decades(word: str) -> tuple[float, ...]:
    every = word == "every decade"
    return GRADIENT_SCALES if every else tuple(float(part) for part in word.split(" and "))


def _value(word: str) -> Any:
    """Read a value; a tensor is of float64, since torch computes a step's size in its dtype."""
    return torch.tensor(0.1, dtype=torch.float64) if word == "tensor" else literal_eval(word)


_USES = {"groups": ("one", "two"), "closure": ("no", "yes"), "resumed": ("no", "yes")}
# Of random cases, the simplest first; a run of three steps is the shortest that can be resumed.
_SIZES = {
    "steps": ("1", "2", "3", "8", "30"),
    "size": ("1", "12", "100"),
    "gradients": ("1", "1e-8", "1e-4", "1e4", "1 and 1e-3", "every decade"),
}
_MORE = {
    "lr": ("1e-4", "1"),
    "momentum": ("0.5",),
    "weight_decay": ("0.001",),
    "betas": ("(0.0, 0.99)", "(0.9, 0.9999)"),
    "alpha": ("0.5",),
    "eps": ("1e-12",),
}
_LR, _SWITCH, _EPS = ("0.01", "0.1", "tensor"), ("False", "True"), ("1e-8", "1e-4")

_DECAY, _UP = {"weight_decay": 0.1}, {"maximize": True}
_ADAM = _each(
    {"lr": 0.01},
    {"betas": (0.5, 0.9)},
    {"eps": 1e-4},
    {"eps": 0.0},
    _DECAY,
    {"amsgrad": True},
    _UP,
    {**_DECAY, "amsgrad": True},
    {**_UP, "amsgrad": True},
    {**_DECAY, **_UP, "amsgrad": True, "eps": 1e-6, "betas": (0.8, 0.95)},
)
_ADAM_VALUES = {
    "lr": _LR,
    "betas": ("(0.9, 0.999)", "(0.5, 0.9)"),
    "eps": _EPS,
    "weight_decay": ("0", "0.1"),
    "amsgrad": _SWITCH,
    "maximize": _SWITCH,
}
_ADAM_GROUP = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.2, "amsgrad": True}

TABLES = (
    _table(
        "SGD",
        torch.optim.SGD,
        sgd,
        (
            {"lr": 0.1},
            {"lr": 0.1, **_DECAY},
            {"lr": 0.1, **_DECAY, **_UP},
            *(
                {"lr": 0.1, "momentum": 0.9, "dampening": d, "weight_decay": w, "maximize": m}
                for d, w, m in product((0.0, 0.4), (0.0, 0.1), (False, True))
            ),
            {"lr": 0.1, "momentum": 0.9, "nesterov": True},
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, **_DECAY},
            {"lr": 0.1, "momentum": 0.9, "nesterov": True, **_DECAY, **_UP},
        ),
        {
            "lr": _LR,
            "momentum": ("0", "0.9"),
            "dampening": ("0", "0.3"),
            "nesterov": _SWITCH,
            "weight_decay": ("0", "0.1"),
            "maximize": _SWITCH,
        },
        group={"lr": 0.03, "momentum": 0.5, "weight_decay": 0.2},
        impossible=(
            ("Nesterov needs a momentum", {"nesterov": ["True"], "momentum": ["0"]}),
            ("Nesterov takes no dampening", {"nesterov": ["True"], "dampening": ["0.3"]}),
        ),
    ),
    _table(
        "Momentum",
        _sgd_as_momentum,
        momentum,
        _each(
            {"lr": 0.1},
            {"momentum": 0.5},
            {"momentum": 0.98},
            _DECAY,
            _UP,
            {**_DECAY, **_UP},
            {"bias_correction": True},
            {"bias_correction": True, "momentum": 0.98, **_DECAY, **_UP},
        ),
        {
            "lr": _LR,
            "momentum": ("0.5", "0.9", "0.98"),
            "bias_correction": _SWITCH,
            "weight_decay": ("0", "0.1"),
            "maximize": _SWITCH,
        },
        group={"lr": 0.03, "momentum": 0.8, "weight_decay": 0.2},
        own_state=("step",),
    ),
    _table(
        "RMSprop",
        _rmsprop,
        rmsprop,
        _each(
            {"lr": 0.01},
            {"alpha": 0.9},
            {"eps": 1e-4},
            _DECAY,
            {"momentum": 0.9},
            {"centered": True},
            _UP,
            {**_DECAY, **_UP, "momentum": 0.5, "centered": True, "alpha": 0.9, "eps": 1e-6},
            {"eps_inside_root": True},
            {"eps_inside_root": True, "eps": 1e-4, "alpha": 0.9},
            {"eps_inside_root": True, "momentum": 0.5},
            {"momentum": 0.9, **_DECAY},
            {"eps_inside_root": True, **_DECAY, **_UP, "momentum": 0.5, "centered": True},
        ),
        {
            "lr": _LR,
            "alpha": ("0.99", "0.9"),
            "eps": _EPS,
            "weight_decay": ("0", "0.1"),
            "momentum": ("0", "0.9"),
            "centered": _SWITCH,
            "maximize": _SWITCH,
            "eps_inside_root": _SWITCH,
        },
        # slow: where decay has brought W to zero, steps of a set length only multiply rounding
        group={"lr": 0.001, "alpha": 0.8, "eps": 1e-6, "weight_decay": 0.2, "momentum": 0.5},
    ),
    _table(
        "Adam",
        torch.optim.Adam,
        adam,
        (
            *_ADAM,
            *_each({"lr": 0.01, **_DECAY, "decoupled_weight_decay": True}, {"amsgrad": True}, _UP),
        ),
        {**_ADAM_VALUES, "decoupled_weight_decay": _SWITCH},
        group=_ADAM_GROUP,
    ),
    _table("AdamW", torch.optim.AdamW, adamw, _ADAM, _ADAM_VALUES, group=_ADAM_GROUP),
)


def optimizer_tables() -> dict[str, OptimizerTable]:
    """Return all optimizer tables by name."""
    return {table.name: table for table in TABLES}
