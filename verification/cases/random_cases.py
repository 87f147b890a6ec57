"""Cases at random, and from a line of text: options, sizes, scales and layouts of a table's space.

A case that is made of values is called by them, and its numbers are drawn by its name and a seed,
so that the line repeats it: `n=2 channels=1 training=True 'weight=no weight'`.
"""

from __future__ import annotations

import shlex
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import torch
from hypothesis import strategies

from verification.cases import Case, OpTable
from verification.cases.optimizers import Case as OptimizerCase
from verification.cases.optimizers import OptimizerTable
from verification.cases.pairs import Options, Values
from verification.ops.rows import op_rows
from verification.optimizers.rows import optimizer_rows
from verification.report import Row

STEPS = 30  # of an optimizer's case that doesn't say
Table = OpTable | OptimizerTable
AnyCase = Case | OptimizerCase


def random_case(table: Table, seed: int) -> AnyCase:
    """Return a case of random values; the same seed gives the same case.

    Args:
        table: of an op or an optimizer.
        seed: any number that isn't negative.

    Returns:
        A case that is possible.

    Example:
        >>> from verification.cases import op_tables
        >>> random_case(op_tables()["tanh"], 3).name
        'dims=4 layout=transposed n=40 channels=2 side=3 scale=3e3 offset=-40'
    """
    rng = np.random.default_rng([seed, zlib.crc32(table.name.encode())])
    space = space_of(table)
    while True:
        values = {n: words[int(rng.integers(len(words)))] for n, words in space.values.items()}
        if not space.reason(values):
            return case_of(table, values)


def rows_of(
    table: Table,
    case: AnyCase,
    candidate: Callable[..., Any] | None,
    dtype: torch.dtype,
    *,
    seeds: int = 3,
    device: str = "cpu",
) -> list[Row]:
    """Return the rows of one case in one dtype, judged as any candidate's are.

    Example:
        >>> from verification.cases import op_tables
        >>> tanh = op_tables()["tanh"]
        >>> rows = rows_of(tanh, random_case(tanh, 0), torch.tanh, torch.float64)
        >>> [(row.quantity, row.passed) for row in rows]
        [('output', True), ('grad input', True), ('other calls', True)]
    """
    asked: dict[str, Any] = {"dtypes": [dtype], "seeds": seeds, "device": device}
    alone: Any = only(table, case)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of edge cases, which are meant
        if isinstance(case, OptimizerCase):
            parts = optimizer_rows(alone, candidate, **asked, steps=case.steps or STEPS)
            name = as_text(case.values) if case.steps else case.name
        else:
            parts, name = op_rows(alone, candidate, **asked), case.name
        return [replace(row, case=name) for rows in parts for row in rows]


def only(table: Table, case: AnyCase) -> Table:
    """Return a table with one case and no other."""
    cases: Any = (case,)
    return replace(table, cases=cases)


def values_strategy(table: Table) -> strategies.SearchStrategy[dict[str, str]]:
    """Return hypothesis' strategy for the values of a possible case; shrinks to simple ones.

    Example:
        >>> import hypothesis
        >>> from verification.cases import op_tables
        >>> tanh = op_tables()["tanh"]
        >>> as_text(hypothesis.find(values_strategy(tanh), lambda values: True))
        'dims=1 layout=contiguous n=2 channels=1 side=1 scale=1 offset=0'
    """
    return among(space_of(table))


def among(space: Options) -> strategies.SearchStrategy[dict[str, str]]:
    """Return hypothesis' strategy for the possible values of a space."""
    each = (strategies.sampled_from(words) for words in space.values.values())
    named = strategies.tuples(*each).map(lambda words: dict(zip(space.values, words, strict=True)))
    return named.filter(lambda values: not space.reason(values))


def case_from_values(table: Table, text: str) -> AnyCase:
    """Return the case that a line such as `n=2 channels=1` stands for.

    Args:
        table: of an op or an optimizer.
        text: words `name=value`, quoted as in a shell where they have spaces; names that are left
            out have the simplest value.

    Returns:
        The case; its numbers are those of the case that the line was printed for.

    Raises:
        ValueError: a name or a value that the table hasn't, or a combination that cannot be.

    Example:
        >>> from verification.cases import op_tables
        >>> case_from_values(op_tables()["linear"], "dims=2 n=7 bias=False").name
        'dims=2 bias=False weight=matrix layout=contiguous n=7 channels=1 side=1 inputs=1 outputs=1 scale=1 offset=0'
    """  # noqa: E501
    space = space_of(table)
    values = {name: words[0] for name, words in space.values.items()}
    for word in shlex.split(text):
        name, _, value = word.partition("=")
        if name not in values:
            raise ValueError(f"values: {table.name} has no {name!r}; it has {', '.join(values)}")
        if value not in space.values[name]:
            allowed = ", ".join(map(repr, space.values[name]))
            raise ValueError(f"values: {name}={value!r}; {table.name} has {allowed}")
        values[name] = value
    if reason := space.reason(values):
        raise ValueError(f"values: {as_text(values)}: {reason}")
    return case_of(table, values)


def case_of(table: Table, values: Values) -> AnyCase:
    """Return the case of complete values, called by them."""
    if isinstance(table, OptimizerTable):
        return table.make(values)
    make: Callable[[Values], Case] = table.make or _no_space(table)
    return replace(make(values), name=as_text(values), values=values)


def as_text(values: Values) -> str:
    """Return values as a line that `case_from_values` reads.

    Example:
        >>> as_text({"n": "2", "weight": "no weight"})
        "n=2 'weight=no weight'"
    """
    return shlex.join(f"{name}={value}" for name, value in values.items())


def space_of(table: Table) -> Options:
    """Return the values that a table's cases can be made of.

    Raises:
        ValueError: it has none.
    """
    return table.space or _no_space(table)


def _no_space(table: Table) -> NoReturn:
    raise ValueError(f"{table.name}: the table has no space of random cases")
