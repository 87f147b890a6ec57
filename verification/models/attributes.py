"""Options of matched layers, eps, p, momentum, …, that differ by less than the numbers show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import nan
from typing import Any

from torch import nn

from verification.models.findings import FirstDifference, ModelsReport
from verification.models.matching import ROOT, Matching
from verification.report import INCONCLUSIVE, Row

ATTRIBUTE = "attribute"
# The mode is asked for, and what is written over is no part of what is computed.
LEFT_OUT = {"training", "inplace"}
PLAIN = (int, float, complex, str, type(None))


def with_attributes(
    found: ModelsReport, candidate: nn.Module, reference: nn.Module, matching: Matching
) -> ModelsReport:
    """Add an inconclusive row for each attribute of matched layers that differs.

    Attributes are compared where they mean the same: in two layers of one class, or of a class and
    its subclass.

    Args:
        found: what running them has shown.
        candidate: a model.
        reference: the model that it should equal.
        matching: what answers to what.

    Returns:
        A report whose first difference is an attribute where the numbers have none.
    """
    if not found.rows:
        return found
    rows, first = list(found.rows), found.first_difference
    for layer, name, ours, theirs in _different(candidate, reference, matching):
        note = f"{ours!r}, the reference's {theirs!r}"
        if found.first_difference is None:
            note += ": too small a difference to be seen in the numbers, or of no effect on them"
        rows.append(
            Row(found.title, layer, f"{ATTRIBUTE} {name}", found.rows[0].dtype, nan, nan, nan,
                "equal", INCONCLUSIVE, note)
        )  # fmt: skip
        first = first or FirstDifference(0, layer, name, ATTRIBUTE, nan, nan, nan, note)
    return replace(found, rows=rows, first_difference=first)


def _different(
    candidate: nn.Module, reference: nn.Module, matching: Matching
) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield layer, name and the two values."""
    modules = dict(candidate.named_modules()), dict(reference.named_modules())
    for groups in matching.layers:
        if len(groups[0]) > 1 or len(groups[1]) > 1:
            continue
        ours, theirs = (known[group[0]] for known, group in zip(modules, groups, strict=True))
        if not (isinstance(ours, type(theirs)) or isinstance(theirs, type(ours))):
            continue
        for name, value in vars(theirs).items():
            other = vars(ours).get(name, value)
            if name.startswith("_") or name in LEFT_OUT:
                continue
            if _plain(value) and _plain(other) and value != other and repr(value) != repr(other):
                yield groups[0][0] or ROOT, name, other, value


def _plain(value: Any) -> bool:
    """Tell whether it is a number, a truth value, text, None, or a tuple of these."""
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return isinstance(value, PLAIN)
