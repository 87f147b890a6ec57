"""Cross-entropy: every combination of its options, since some bugs show under two of them only."""

from __future__ import annotations

from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import (
    DTYPES,
    LAYOUTS,
    MANY,
    NO_LAYOUTS,
    OFFSETS,
    Arrays,
    Case,
    OpTable,
    holding,
    normal,
    shape_of,
    space,
    spread,
)
from verification.cases.pairs import Options, Values, combinations
from verification.oracles.cross_entropy import cross_entropy as oracle

# 1 is in range, so that a row which is not ignored after all would count.
IGNORED = {"ignored rows": 1, "rows of -1": -1}


def _case(
    *shape: int,
    target: str = "indices",
    weight: str = "no weight",
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    ignore: str = "",
    scale: float = 1.0,
    offset: float = 0.0,
    forbidden: bool = False,
    up: float = 1.0,
    name: str = "",
    layout: str = "contiguous",
    values: Values = MappingProxyType({}),
) -> Case:
    classes = shape[1] if len(shape) > 1 else shape[0]
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()

    def draw(rng: np.random.Generator) -> Arrays:
        weights = {"no weight": None, "weight": rng.uniform(0.2, 2, classes)}
        with_zero = rng.uniform(0.2, 2, classes) * (np.arange(classes) != classes - 1)
        input = normal(rng, *shape, scale=scale, offset=offset)
        labels = _target(rng, target, ignore, rows, shape)
        if weight == "weight with a zero" and labels.size and labels.flat[-1] == classes - 1:
            labels.flat[-1] = 0  # or nothing is left to divide by, which torch makes NaN of
        if forbidden:  # one score of −∞ in each row, never that of the true class
            input[np.arange(len(input)), (labels + 1) % classes] = -np.inf
        return {
            "input": input,
            "target": labels,
            "weight": {**weights, "weight with a zero": with_zero}[weight],
            "cotangent": normal(rng, *(rows if reduction == "none" else ()), scale=up),
        }

    smoothed = f"smoothing {label_smoothing:g}" if label_smoothing else ""
    laid_out = layout if layout != "contiguous" else ""
    parts = (name, "×".join(map(str, shape)), target, weight, smoothed, ignore, reduction, laid_out)
    options: dict[str, Any] = {"reduction": reduction, "label_smoothing": label_smoothing}
    if ignore:
        options["ignore_index"] = IGNORED.get(ignore, -100)
    return Case(
        ", ".join(p for p in parts if p and p != "no weight"),
        draw,
        options,
        layout=layout,
        dtypes=holding(max(scale, up), offset, largest=offset + 3 * scale),
        terms=classes if classes >= MANY else 0,
        values=values,
    )


def _target(
    rng: np.random.Generator, kind: str, ignore: str, rows: tuple[int, ...], shape: tuple[int, ...]
) -> Any:
    if kind == "probabilities":
        scores = rng.random(shape)
        return scores / scores.sum(1 if len(shape) > 1 else 0, keepdims=True)
    classes = shape[1] if len(shape) > 1 else shape[0]
    labels = rng.integers(0, classes, rows)
    if ignore == "all rows ignored":
        labels = np.full(rows, -100)
    elif ignore and rows:
        labels.flat[:3] = IGNORED.get(ignore, -100)
    return labels


INDICES = [
    _case(12, 5, weight=w, reduction=r, label_smoothing=s, ignore=i)
    for w, r, s, i in product(
        ("no weight", "weight", "weight with a zero"),
        ("mean", "sum", "none"),
        (0.0, 0.1),
        ("", "ignored rows"),
    )
]
PROBABILITIES = [
    _case(12, 5, target="probabilities", weight=w, reduction=r, label_smoothing=s)
    for w, r, s in product(("no weight", "weight"), ("mean", "sum", "none"), (0.0, 0.1))
]
SPECIAL = [
    _case(5, weight="weight", label_smoothing=0.1),
    _case(5, target="probabilities", weight="weight"),
    _case(3, 4, 5, weight="weight", label_smoothing=0.1, ignore="ignored rows"),
    _case(2, 4, 3, 2, weight="weight", reduction="none"),
    _case(2, 4, 3, 2, target="probabilities", weight="weight", label_smoothing=0.1),
    _case(12, 5, label_smoothing=1.0),
    _case(9, 67, weight="weight"),
    _case(257, 3, reduction="none"),
    _case(8, 1000, weight="weight"),
    _case(3, 4097, weight="weight", label_smoothing=0.1),
    _case(3, 4097, reduction="none"),
    _case(3, 4097, target="probabilities"),
    _case(1, 4097, 2, weight="weight"),
    _case(12, 5, ignore="all rows ignored"),
    _case(12, 5, ignore="all rows ignored", reduction="sum", label_smoothing=0.1),
    _case(12, 5, ignore="rows of -1"),
    _case(12, 5, ignore="rows of -1", weight="weight", label_smoothing=0.1, reduction="none"),
    _case(12, 5, scale=3e3, name="scores to 1e4"),
    _case(12, 5, scale=3e3, name="scores to 1e4", label_smoothing=0.1, weight="weight"),
    _case(12, 5, scale=3e5, name="scores to 1e6"),
    _case(12, 5, scale=3e5, name="scores to 1e6", reduction="none", weight="weight"),
    _case(12, 5, scale=3e29, name="scores to 1e30", reduction="sum"),
    _case(12, 5, scale=3e5, target="probabilities", name="scores to 1e6"),
    _case(12, 5, scale=30.0, name="scores to 90", reduction="none"),
    _case(3, 4, 5, scale=3e3, name="scores to 1e4"),
    _case(12, 5, scale=1e-6, name="scores near 1e-6"),
    _case(12, 5, layout="sliced", name="in slices", reduction="none"),
    _case(12, 5, forbidden=True, name="scores of -inf"),
    _case(12, 5, forbidden=True, name="scores of -inf", weight="weight", reduction="sum"),
    _case(12, 5, forbidden=True, up=1e30, name="scores of -inf, cotangent 1e30"),
    _case(12, 5, layout="transposed", name="transposed", weight="weight"),
    _case(3, 4, 5, weight="weight", label_smoothing=0.1, reduction="sum"),
    _case(3, 4, 5, target="probabilities", weight="weight", reduction="none"),
    _case(2, 4, 3, 2, weight="weight", reduction="sum", ignore="ignored rows"),
    _case(12, 2, name="two classes"),
    _case(1, 5, name="one row"),
]

OPTIONS = Options(
    {
        "target": ("indices", "probabilities"),
        "weight": ("no weight", "weight", "weight with a zero"),
        "ignore_index": ("", "rows of -100", "ignored rows", "all rows ignored"),
        "label_smoothing": ("0", "0.1", "1"),
        "reduction": ("mean", "sum", "none"),
        "dims": ("1", "2", "3", "4", "5"),
        "layout": LAYOUTS,
        "dtype": DTYPES,
    },
    (
        ("torch ignores class indices only", {
            "target": ["probabilities"],
            "ignore_index": ["rows of -100", "ignored rows", "all rows ignored"]}),
        ("the one row is all rows", {
            "dims": ["1"], "ignore_index": ["rows of -100", "ignored rows"]}),
        *NO_LAYOUTS,
    ),
)  # fmt: skip
SHAPES = {"1": (5,), "2": (7, 4), "3": (4, 3, 2), "4": (2, 3, 2, 2), "5": (2, 3, 1, 2, 2)}


def _pair(values: Values) -> Case:
    shape = shape_of(values, SHAPES)
    if "n" in values and len(shape) == 1:  # one row of scores
        shape = (int(values["channels"]),)
    return _case(
        *shape,
        **spread(values),
        target=values["target"],
        weight=values["weight"],
        reduction=values["reduction"],
        label_smoothing=float(values["label_smoothing"]),
        ignore=values["ignore_index"],
        layout=values["layout"],
        name="pairs",
        values={name: value for name, value in values.items() if name != "dtype"},
    )


LARGE = [
    _case(12, 5, scale=scale, name=f"scores to {3 * scale:g}", label_smoothing=s, weight="weight")
    for scale in (1e-6, 1e-3, 30.0, 3e3)
    for s in (0.0, 0.1)
]

TABLES = (
    OpTable(
        name="cross_entropy",
        candidate=functional.cross_entropy,
        builtin=builtin.cross_entropy,
        oracle=oracle,
        differentiable=("input", "target"),
        zeros=("grad input",),
        cases=tuple(INDICES + PROBABILITIES + SPECIAL + LARGE)
        + tuple(map(_pair, combinations(OPTIONS))),
        options=OPTIONS,
        space=space(OPTIONS, scale=("1", "1e-6", "30", "3e3"), **OFFSETS),
        make=_pair,
    ),
)
