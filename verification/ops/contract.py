"""All that an op of refnet is held to: values, memory, derivatives, and the coverage of options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from verification.cases import OpTable
from verification.cases.pairs import coverage
from verification.ops.gradients import verify_gradients
from verification.ops.memory import KEPT, verify_memory
from verification.ops.rows import op_rows
from verification.report import AS_GOOD, INCONCLUSIVE, Row

MISSING = "pairs missing"
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def verify_contract(
    table: OpTable, *, seeds: int = 5, quick: bool = False, device: str = "cpu"
) -> Iterator[list[Row]]:
    """Yield the rows of refnet's own op, held to refnet's own targets.

    Args:
        table: the op.
        seeds: how many draws of each case.
        quick: without the derivatives, which take longest.
        device: where candidate and builtin compute.

    Returns:
        An iterator over `parts(table)` lists of rows.

    Example:
        >>> from verification.cases import op_tables
        >>> lists = list(verify_contract(op_tables()["relu"], seeds=1, quick=True))
        >>> len(lists) == parts(op_tables()["relu"], quick=True), lists[-1][0].rule
        (True, '89 pairs')
    """
    yield from op_rows(table, dtypes=DTYPES, seeds=seeds, device=device, own=True)
    yield from verify_memory(table, dtypes=DTYPES, device=device)
    if not quick:
        yield from verify_gradients(table, device=device, own=True)
    if table.options is not None:
        yield [coverage_row(table)]


def parts(table: OpTable, *, quick: bool = False) -> int:
    """Return how many lists `verify_contract` yields."""
    pairs = sum(bool(case.values) and "float64" in case.dtypes for case in table.cases)
    return len(table.cases) + len(DTYPES) + (0 if quick else pairs) + (table.options is not None)


def coverage_row(table: OpTable) -> Row:
    """Count the pairs of option values that the cases of a table hold.

    Returns:
        A row whose error is the number of pairs that could be called, and which no case calls.

    Raises:
        ValueError: the table has no options.
    """
    if table.options is None:
        raise ValueError(f"{table.name}: the table has no options")
    held = [{**case.values, "dtype": d} for case in table.cases if case.values for d in case.dtypes]
    found = coverage(table.options, held)
    missing, nan = len(found.missing), float("nan")
    reasons = sorted(set(found.impossible.values()))
    impossible = f"{len(found.impossible)} impossible: {'; '.join(reasons)}" if reasons else ""
    verdict, note = (AS_GOOD, impossible) if not missing else (INCONCLUSIVE, str(found.missing))
    return Row(table.name, "options", MISSING, "all", missing, nan, 0.0,
               f"{len(found.covered)} pairs", verdict, note)  # fmt: skip


def contract_markdown(rows: Sequence[Row]) -> str:
    """Return tables of the pairs of options, and of the memory kept for the backward.

    Example:
        >>> from verification.cases import op_tables
        >>> print(contract_markdown([coverage_row(op_tables()["tanh"])]))
        <BLANKLINE>
        ## Options in pairs
        <BLANKLINE>
        | op | pairs of option values | held by no case | impossible |
        |---|---|---|---|
        | tanh | 62 | 0 | 3 impossible: few dimensions have few layouts |
        <BLANKLINE>
    """
    pairs = [
        (row.subject, row.rule.split()[0], f"{row.error:.0f}", row.note)
        for row in rows
        if row.quantity == MISSING
    ]
    kept = [
        (row.subject, row.dtype, f"{row.error:.0f} of {row.bound:.0f}", row.case, row.note)
        for row in rows
        if row.quantity == KEPT
    ]
    tables: dict[str, list[tuple[str, ...]]] = {
        "Options in pairs": [
            ("op", "pairs of option values", "held by no case", "impossible"), *pairs,
        ],
        "Memory kept for the backward": [
            ("op", "dtype", "bytes kept of the builtin's", "in the worst case", "all together"),
            *kept,
        ],
    }  # fmt: skip
    return "".join(_markdown(title, *lines) for title, lines in tables.items() if len(lines) > 1)


def _markdown(title: str, head: tuple[str, ...], *lines: tuple[str, ...]) -> str:
    first, *others = ("| " + " | ".join(line) + " |" for line in [head, *lines])
    return "\n".join(["", f"## {title}", "", first, "|" + "---|" * len(head), *others, ""])
