"""Options of layers (eps, p) and optimizers (lr, betas) that differ by less than numbers show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import nan
from typing import Any

from verification.models.findings import (
    ATTRIBUTE,
    OPTIMIZER,
    OPTION,
    PARAMETER,
    FirstDifference,
    ModelsReport,
    quantity,
)
from verification.models.matching import ROOT, Matching
from verification.models.recording import Party
from verification.report import INCONCLUSIVE, Row

# The mode is asked for, and what is written over is no part of what is computed.
ATTRIBUTES_LEFT_OUT = {"training", "inplace"}
# Which of its implementations an optimizer runs.
OPTIONS_LEFT_OUT = {"foreach", "fused", "capturable", "differentiable"}
PLAIN = (int, float, complex, str, type(None))

Differing = tuple[str, str, Any, Any]  # layer, name and the two values


def with_options(
    found: ModelsReport, candidate: Party, reference: Party, matching: Matching
) -> ModelsReport:
    """Add an inconclusive row for each option that differs, of matched layers or the optimizer.

    They are compared where they mean the same: in two layers of one class, or of a class and its
    subclass; in optimizers whose classes have one name.

    Args:
        found: what running them has shown.
        candidate: a model and its optimizer.
        reference: those that they should equal.
        matching: what answers to what.

    Returns:
        A report whose first difference is an option where the numbers have none; an optimizer's
        option is named beside the first tensor that its step moves elsewhere.
    """
    if not found.rows:
        return found
    rows, first = list(found.rows), found.first_difference
    for kind, differing in (
        (ATTRIBUTE, _attributes(candidate, reference, matching)),
        (OPTION, _options(candidate, reference, matching)),
    ):
        for layer, name, ours, theirs in differing:
            note = f"{ours!r}, the reference's {theirs!r}"
            if first is not None and kind == OPTION and first.kind in (OPTIMIZER, PARAMETER):
                named = f"{quantity((OPTION, '', name))} is {note}"
                first = replace(first, note="; ".join(filter(None, (first.note, named))))
            if found.first_difference is None:
                note += ": too small a difference to be seen in the numbers, or of no effect"
            rows.append(
                Row(found.title, layer, quantity((kind, "", name)), found.rows[0].dtype, nan, nan,
                    nan, "equal", INCONCLUSIVE, note)
            )  # fmt: skip
            first = first or FirstDifference(0, layer, name, kind, nan, nan, nan, note)
    return replace(found, rows=rows, first_difference=first)


def _attributes(candidate: Party, reference: Party, matching: Matching) -> Iterator[Differing]:
    for groups in matching.layers:
        if len(groups[0]) > 1 or len(groups[1]) > 1:
            continue
        ours, theirs = candidate.modules[groups[0][0]], reference.modules[groups[1][0]]
        if not (isinstance(ours, type(theirs)) or isinstance(theirs, type(ours))):
            continue
        public = {name: value for name, value in vars(theirs).items() if name[0] != "_"}
        for name, other, value in _differing(vars(ours), public, ATTRIBUTES_LEFT_OUT):
            yield groups[0][0] or ROOT, name, other, value


def _options(candidate: Party, reference: Party, matching: Matching) -> Iterator[Differing]:
    """Each once, with the first of the parameters that have it."""
    if type(candidate.optimizer).__name__ != type(reference.optimizer).__name__:
        return
    seen = set()
    for parameter in reference.parameters:
        ours, theirs = candidate.options(parameter), reference.options(parameter)
        for differing in _differing(ours, theirs, OPTIONS_LEFT_OUT):
            if repr(differing) not in seen:
                seen.add(repr(differing))
                yield matching.owner(parameter)[0], *differing


def _differing(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], left_out: set[str]
) -> Iterator[tuple[str, Any, Any]]:
    for name, value in theirs.items():
        other = ours.get(name, value)
        if name in left_out or not (_plain(value) and _plain(other)):
            continue
        if value != other and repr(value) != repr(other):
            yield name, other, value


def _plain(value: Any) -> bool:
    """Tell whether it is a number, a truth value, text, None, or a tuple of these."""
    if isinstance(value, tuple | list):
        return all(map(_plain, value))
    return isinstance(value, PLAIN)
