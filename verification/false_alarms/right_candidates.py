"""Implementations that are right: refnet's, torch's in all its ways, and the rewrites."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from torch.nn import functional

from verification.cases import op_tables
from verification.cases.optimizers import Case as OptimizerCase
from verification.cases.optimizers import OptimizerTable, optimizer_tables
from verification.cases.random_cases import AnyCase, Table
from verification.false_alarms.rewrites import rewrites
from verification.report import Row

COMPILED_OPS, COMPILED_OPTIMIZERS = 40, 100  # one seed in so many: seconds to compile each


@dataclass(frozen=True)
class Finding:
    """What a check is right to flag in an implementation that is right otherwise.

    Attributes:
        quantities: of the rows.
        note: a part of theirs.
        why: they are flagged.
    """

    quantities: tuple[str, ...]
    note: str
    why: str

    def is_of(self, row: Row) -> bool:
        """Tell whether this is what a row says."""
        return row.quantity in self.quantities and self.note in row.note


@dataclass(frozen=True)
class Right:
    """A right implementation.

    Attributes:
        table: what it implements.
        name: which it is.
        function: a function or a factory of optimizers.
        every: only one seed in so many is asked, where one takes seconds.
        takes: whether it can serve a case.
        findings: what may be flagged in it.
    """

    table: Table
    name: str
    function: Callable[..., Any]
    every: int = 1
    takes: Callable[[AnyCase], bool] = lambda case: True
    findings: tuple[Finding, ...] = ()


def subjects() -> list[str]:
    """Return the names of all ops and optimizers."""
    return [*op_tables(), *optimizer_tables()]


def right_candidates(chosen: Iterable[str]) -> list[Right]:
    """Return the right implementations of ops and optimizers.

    Example:
        >>> [right.name for right in right_candidates(["tanh"])][:3]
        ['refnet', 'torch', 'torch compiled']
    """
    ops, optimizers, rewritten = op_tables(), optimizer_tables(), rewrites()
    found: list[Right] = []
    for name in chosen:
        table: Table = ops[name] if name in ops else optimizers[name]
        found.append(Right(table, "refnet", table.candidate))
        if isinstance(table, OptimizerTable):
            found += _torchs_optimizers(table)
        elif name == "BatchNorm":  # built anew in every call: there is nothing to compile
            found.append(Right(table, "torch", table.builtin))
        else:
            op = getattr(functional, name)
            compiled = Right(table, "torch compiled", _compiled(op), COMPILED_OPS)
            found += [Right(table, "torch", op), compiled]
        for words, function in rewritten.get(name, {}).items():
            found.append(Right(table, f"rewrite: {words}", function))
    return found


def _torchs_optimizers(table: OptimizerTable) -> Iterable[Right]:
    ways = {"loop": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    if table.name == "RMSprop":
        del ways["fused"]  # there is none
    for name, options in ways.items():
        make = partial(table.builtin, **options)
        yield Right(
            table,
            f"torch {name}",
            make,
            takes=partial(_can_be, make),
            findings=_FINDINGS.get((table.name, name), ()),
        )
    yield Right(
        table,
        "torch compiled",
        partial(_compiled_step, table.builtin),
        COMPILED_OPTIMIZERS,
        partial(_can_be, table.builtin),
        _FINDINGS.get((table.name, "compiled"), ()),
    )


# There the step is a tensor of float32, and so is 1 - beta^step: at first off by 2^-24 / (1 - beta)
# of itself, for parameters of float64 too.
_IN_FLOAT32 = Finding(
    ("param", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"), "",
    "compiled, torch takes the bias corrections in float32",
)  # fmt: skip
_OVERWRITTEN = Finding(
    ("-",), "a gradient was changed", "torch's foreach adds Nesterov's term to the gradient itself"
)  # fmt: skip
_FINDINGS: dict[tuple[str, str], tuple[Finding, ...]] = {
    ("SGD", "foreach"): (_OVERWRITTEN,),
    ("Adam", "compiled"): (_IN_FLOAT32,),
    ("AdamW", "compiled"): (_IN_FLOAT32,),
}


def _can_be(make: Callable[..., Any], case: AnyCase) -> bool:
    """Tell whether torch makes such an optimizer; foreach refuses learning rates of a tensor."""
    if not isinstance(case, OptimizerCase):
        return False
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    try:
        optimizer = make([weight], **case.arguments)
        if optimizer is not None:
            optimizer.step()
    except (ValueError, RuntimeError):
        return False
    return optimizer is not None


def _compiled(op: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is called, for the shapes and options that it is called with."""

    @wraps(op)
    def call(*args: Any, **options: Any) -> Any:
        _quiet()
        return torch.compile(op, fullgraph=True)(*args, **options)

    return call


def _compiled_step(make: Callable[..., Any], params: Any, **options: Any) -> Any:
    """An optimizer whose step is compiled, all but the closure."""
    _quiet()
    optimizer = make(params, **options)
    compiled: Callable[[], Any] = torch.compile(optimizer.step)

    def step(closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        compiled()
        return loss

    optimizer.step = step
    return optimizer


def _quiet() -> None:
    import torch._inductor.config as inductor

    inductor.compile_threads = 1
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
