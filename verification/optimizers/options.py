"""Which options an optimizer takes in which situation: works, or is refused, as the builtin?

Every value of every option, alone in all situations and in pairs in the plain ones, goes through
both parties. A party works, and then values, dtypes, names and layouts of parameters and state are
compared; or it refuses, and then the types and the texts of the errors are.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from verification.cases.optimizers import OptimizerTable
from verification.optimizers.option_values import (
    Options,
    describe_all,
    option_pairs,
    option_values,
)
from verification.optimizers.situations import PLAIN, SITUATIONS, Make, Situation, Wrong
from verification.report import ANOTHER, AS_GOOD, BETTER, WORSE, Row

QUANTITY = "options"
SYMBOLS = {
    "✓": "both work, to the same values",
    "·": "both refuse, with the same error",
    "≈": "meant: both refuse, ours with a clearer error, or work, to other values",
    "+": "ours works, the builtin refuses, or differs from its own loop",
    "−": "the builtin works, ours refuses",
    "✗": "both work, to other values, or refuse, with other errors, or it is half done",
}
_VERDICTS = {"✓": AS_GOOD, "·": AS_GOOD, "≈": AS_GOOD, "+": BETTER, "−": WORSE, "✗": ANOTHER}
_LISTED = "✗−+≈"
_BOUND = 1e-12  # relative to the largest element of a tensor
_EPS = 8  # of the dtype: a bfloat16 is rounded after every operation, or once
# With `differentiable` torch corrects Adam's bias in float32, whatever the parameters are:
# 1 − β₂ᵗ of 1e-3 is then off by 1e-4 of itself.
_DIFFERENTIABLE = 1e-4

MEANT = {
    (optimizer, options, "complex"): "complex numbers are pairs of reals: ∞·i is not NaN + ∞·i"
    for optimizer, options in (("SGD", "momentum=inf"), ("AdamW", "weight_decay=inf"))
}

# Tensors of several elements as options: torch fails somewhere inside.
CLEARER = ("lr=Tensor[0.1, 0.2]", "betas=(Tensor[0.8, 0.8], Tensor(0.9,))")


@dataclass(frozen=True)
class Cell:
    """What became of a set of options in a situation.

    Attributes:
        optimizer: its name.
        options: the set, as text.
        situation: one of `SITUATIONS`.
        ours: "works", or the error.
        builtin: likewise.
        symbol: one of `SYMBOLS`.
        error: the largest relative difference, where both work.
    """

    optimizer: str
    options: str
    situation: str
    ours: str
    builtin: str
    symbol: str
    error: float


def verify_options(
    table: OptimizerTable, candidate: Make | None = None, *, pairs: bool = True
) -> Iterator[list[Row]]:
    """Yield a row for each value of each option, and one for all pairs.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.
        pairs: whether options are combined, too.

    Returns:
        An iterator over lists of rows; "error" is the largest difference where both work.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(verify_options(optimizer_tables()["SGD"], pairs=False))
        >>> rows[0].case, rows[0].verdict
        ('defaults', 'as good')
    """
    for options in option_values(table.name):
        yield [_row(option_cells(table, [options], SITUATIONS, candidate), describe_all(options))]
    if pairs:
        yield [_row(option_cells(table, option_pairs(table.name), PLAIN, candidate), "pairs")]


def option_cells(
    table: OptimizerTable,
    options: Sequence[Options],
    situations: Mapping[str, Situation] | None = None,
    candidate: Make | None = None,
) -> list[Cell]:
    """Put both parties into situations.

    Args:
        table: the optimizer.
        options: sets of options, such as `option_values` and `option_pairs` return.
        situations: all of them by default.
        candidate: as in `verify_options`.

    Returns:
        A cell for each set in each situation.
    """
    make = candidate or table.candidate
    return [
        _cell(table.name, chosen, name, situation, make, table.builtin)
        for chosen in options
        for name, situation in (SITUATIONS if situations is None else situations).items()
    ]


def print_options(console: Console, cells: Sequence[Cell]) -> None:
    """Print a table: sets of options down, situations across, and what differs below."""
    for optimizer in dict.fromkeys(cell.optimizer for cell in cells):
        found = {(c.options, c.situation): c for c in cells if c.optimizer == optimizer}
        situations = list(dict.fromkeys(situation for _, situation in found))
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        table.add_column(optimizer)
        for number in range(1, len(situations) + 1):
            table.add_column(str(number), justify="center")
        for options in dict.fromkeys(options for options, _ in found):
            marks = [found[options, s].symbol if (options, s) in found else "" for s in situations]
            table.add_row(escape(options), *marks)
        console.print(table)
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(situations, 1))
        console.print(f"Situations: {listed}", markup=False, highlight=False)
        for cell in found.values():
            if cell.symbol in _LISTED:
                console.print(f"{cell.symbol} {_sentence(cell)}", markup=False, highlight=False)
    console.print(", ".join(f"{key} {text}" for key, text in SYMBOLS.items()), markup=False)


def _cell(
    optimizer: str, options: Options, name: str, situation: Situation, make: Make, builtin: Make
) -> Cell:
    ours, theirs = _run(situation, make, builtin, options), _run(situation, builtin, make, options)
    bound = _DIFFERENTIABLE if options.get("differentiable") else _BOUND
    error = math.nan
    if isinstance(ours, Wrong):
        symbol = "✗"
    elif isinstance(ours, Exception) and isinstance(theirs, Exception):
        text = _first_line(theirs).partition(": [")[0]  # before a list of devices
        same = type(ours) is type(theirs) and (text in str(ours) if text else True)
        clearer = any(odd in describe_all(options) for odd in CLEARER)
        symbol = "·" if same else "≈" if clearer else "✗"
    elif isinstance(ours, Exception):
        symbol = "−"
    elif isinstance(theirs, Exception):
        symbol = "+"
    else:
        error = _distance(ours, theirs, bound)
        symbol = "✓" if error <= 1 else "✗"
    if symbol == "✗" and (options.get("fused") or options.get("foreach")):
        loop = {**options, "fused": False, "foreach": False}
        if _distance(ours, _run(situation, builtin, make, loop), bound) <= 1:
            symbol = "+"
    if symbol in "✗−" and (optimizer, describe_all(options), name) in MEANT:
        symbol = "≈"
    texts = [
        f"{type(r).__name__}: {_first_line(r)}" if isinstance(r, Exception) else "works"
        for r in (ours, theirs)
    ]
    return Cell(optimizer, describe_all(options), name, texts[0], texts[1], symbol, error)


def _run(situation: Situation, make: Make, other: Make, options: Options) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return situation(make, other, copy.deepcopy(options))
        except Exception as error:
            return error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _distance(ours: Any, theirs: Any, bound: float) -> float:
    """Return the largest difference of two results in units of the bound; infinite if of a kind."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return _tensor_distance(ours.detach(), theirs.detach(), bound)
    if type(ours) is not type(theirs):
        return math.inf
    if isinstance(ours, Mapping):
        if sorted(ours) != sorted(theirs):
            return math.inf
        return max((_distance(ours[name], theirs[name], bound) for name in ours), default=0.0)
    if isinstance(ours, tuple | list):
        if len(ours) != len(theirs):
            return math.inf
        return max(
            (_distance(*pair, bound) for pair in zip(ours, theirs, strict=True)), default=0.0
        )
    return 0.0 if ours == theirs else math.inf


def _tensor_distance(ours: Tensor, theirs: Tensor, bound: float) -> float:
    for attribute in ("dtype", "shape", "device", "layout"):
        if getattr(ours, attribute) != getattr(theirs, attribute):
            return math.inf
    if ours.stride() != theirs.stride() or torch.equal(ours, theirs):
        return 0.0 if torch.equal(ours, theirs) else math.inf
    if ours.is_complex():
        ours, theirs = torch.view_as_real(ours), torch.view_as_real(theirs)
    eps = torch.finfo(theirs.dtype).eps
    odd = ~theirs.isfinite()
    if not torch.equal(odd, ~ours.isfinite()):
        return math.inf
    if not torch.equal(ours[odd].nan_to_num(0.0), theirs[odd].nan_to_num(0.0)):
        return math.inf
    ours, theirs = ours[~odd].double(), theirs[~odd].double()
    if not ours.numel():
        return 0.0
    bound = max(_EPS * eps, bound)
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300)).item() / bound


def _row(cells: Sequence[Cell], case: str) -> Row:
    symbols = [cell.symbol for cell in cells]
    worst = next(s for s in "✗−+≈✓·" if s in symbols)
    errors = [cell.error for cell in cells if not math.isnan(cell.error)]
    note = f"{symbols.count('✓')} work, {symbols.count('·')} refused alike"
    others = [_sentence(cell) for cell in cells if cell.symbol in _LISTED]
    return Row(
        cells[0].optimizer, case, QUANTITY, "-", max(errors, default=math.nan), math.nan, 1.0,
        "like torch", _VERDICTS[worst], "; ".join([note, *others]),
    )  # fmt: skip


def _sentence(cell: Cell) -> str:
    where = f"{cell.options}, {cell.situation}"
    meant = MEANT.get((cell.optimizer, cell.options, cell.situation))
    if meant:
        return f"{where}: {meant}"
    if cell.ours == cell.builtin == "works":
        return f"{where}: {cell.error:.1e} of the bound apart"
    return f"{where}: ours {cell.ours}; builtin {cell.builtin}"
