"""Which examples go to the train, dev and test sets, and how their inputs are standardized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import gen_batches

Array = np.ndarray[Any, Any]
Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, ...] = ("train", "dev", "test")
Per = Literal["feature", "channel", "none"]

_NUMBERS = 2**23  # that are standardized at once, in float64: 64 MiB

# Dev and test sets have to be large enough to tell two nets apart, and need not be larger: the more
# data there is, the smaller a share does. The lecture has the first and the last row; where one
# ends, and the row in between, are ours.
_ADVICE = (
    (10_000, (0.70, 0.15, 0.15)),
    (999_999, (0.90, 0.05, 0.05)),
    (None, (0.99, 0.005, 0.005)),
)


def fractions_for(m: int) -> dict[Part, float]:
    """Return the lecture's advice for m examples: 70 % to learn from if they are few, 99 % if many.

    | examples           | train | dev   | test  |
    |--------------------|-------|-------|-------|
    | up to 10,000       | 70 %  | 15 %  | 15 %  |
    | in between         | 90 %  | 5 %   | 5 %   |
    | 1,000,000 and more | 99 %  | 0.5 % | 0.5 % |

    Args:
        m: number of examples, at least 1.

    Returns:
        Fractions that add up to 1.

    Raises:
        ValueError: m is less than 1.

    Example:
        >>> fractions_for(1797)
        {'train': 0.7, 'dev': 0.15, 'test': 0.15}
        >>> fractions_for(5_000_000)["train"]
        0.99

    Source: lecture, "Train/Dev/Test sets".
    """
    if m < 1:
        raise ValueError(f"m must be at least 1, got {m}")
    shares = next(shares for largest, shares in _ADVICE if largest is None or m <= largest)
    return dict(zip(PARTS, shares, strict=True))


def completed(given: Mapping[Part, float | None], m: int) -> dict[Part, float]:
    """Return the fractions that are given, and for the others the advice, or else what is left.

    Args:
        given: None where there is none; the others add up to at most 1.
        m: number of examples, at least 1.

    Returns:
        Fractions that add up to at most 1. If the advice does not fit beside the given ones, what
        they leave is shared out as the advice would have it.

    Raises:
        ValueError: nothing is left for a train or dev set.

    Example:
        >>> completed({"train": 0.8, "dev": None, "test": None}, 1797)
        {'train': 0.8, 'dev': 0.1, 'test': 0.1}
        >>> completed({"train": 0.5, "dev": None, "test": None}, 1797)
        {'train': 0.5, 'dev': 0.15, 'test': 0.15}
    """
    typed = {part: f for part, f in given.items() if f is not None}
    advised = {part: f for part, f in fractions_for(m).items() if part not in typed}
    left = max(0.0, round(1 - sum(typed.values()), 9))
    if advised and left < sum(advised.values()):
        share = left / sum(advised.values())
        advised = {part: round(f * share, 9) for part, f in advised.items()}
    for part, f in advised.items():
        if f == 0 and part != "test":
            total = ", ".join(f"{name}={value}" for name, value in typed.items())
            raise ValueError(f"{total} leaves nothing for the {part} set")
    return {part: {**advised, **typed}[part] for part in PARTS}


def split(labels: Array, fractions: Mapping[Part, float], seed: int) -> dict[Part, Array]:
    """Choose disjoint, stratified, shuffled rows for each set whose fraction is not 0.

    Args:
        labels: class of each example, (m,).
        fractions: share of the data for train, dev and test, together at most 1.
        seed: of scikit-learn's shuffling.

    Returns:
        Row numbers of each set.

    Raises:
        ValueError: if a set is too small to hold every class, or a class to be in every set.

    Example:
        >>> rows = split(np.arange(100) % 2, {"train": 0.7, "dev": 0.2, "test": 0.1}, seed=0)
        >>> {part: len(chosen) for part, chosen in rows.items()}
        {'train': 70, 'dev': 20, 'test': 10}

    Source: lecture, "Train/Dev/Test sets": all three from one distribution.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    m = len(labels)
    counts = {part: round(fraction * m) for part, fraction in fractions.items()}
    left_for_train = m - counts["dev"] - counts["test"]
    if left_for_train - counts["train"] < len(classes):  # what rounding left over, or took twice
        counts["train"] = left_for_train
    for part, count in counts.items():
        if count < len(classes) and fractions[part] > 0:
            raise ValueError(
                f"{part}={fractions[part]} leaves {count} of {m} examples: too few for "
                f"{len(classes)} classes"
            )
    wanted = [part for part, count in counts.items() if count]
    if sizes.min() < len(wanted):
        raise ValueError(
            f"class {classes[sizes.argmin()]} has {sizes.min()} of {m} examples: too few for "
            f"{', '.join(wanted)}"
        )
    left = np.arange(m)
    rows: dict[Part, Array] = {}
    for part in reversed(PARTS):
        if counts[part] == len(left):
            rows[part] = left
        elif counts[part] > 0:
            rows[part], left = train_test_split(
                left,
                train_size=counts[part],
                stratify=labels[left],
                random_state=seed,
            )
    return {part: rows[part] for part in PARTS if part in rows}


def nested(labels: Array, share: float, seed: int) -> Array:
    """Choose a stratified share of the examples, which is part of every larger one.

    Each class is shuffled, and its r-th of n examples gets the place (r + 1/2)/n in one order of
    all: however much of that is taken from the front, the classes have their shares of it.

    Args:
        labels: class of each example, (m,).
        share: in (0, 1].
        seed: of the shuffling.

    Returns:
        Positions of round(share · m) examples, in their order in labels.

    Raises:
        ValueError: naming a class that the share has no example of.

    Example:
        >>> labels = np.arange(20) % 2
        >>> nested(labels, 0.2, seed=0), nested(labels, 0.4, seed=0)
        (array([ 5,  8, 12, 19]), array([ 4,  5,  7,  8, 12, 13, 14, 19]))
    """
    generator = np.random.default_rng(seed)
    places = np.empty(len(labels))
    for name in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == name))
        places[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    chosen = np.sort(np.argsort(places, kind="stable")[: round(share * len(labels))])
    if missing := sorted(set(labels.tolist()) - set(labels[chosen].tolist())):
        raise ValueError(
            f"subset={share} leaves {len(chosen)} of {len(labels)} training examples, and none of "
            f"class {missing[0]}"
        )
    return chosen


def standardized(x: Array, rows: dict[Part, Array], per: Per) -> dict[Part, torch.Tensor]:
    """Standardize every set with mean and standard deviation of the training set.

    Args:
        x: inputs, (m, C, H, W) or (m, n), of any real type.
        rows: of each set.
        per: what has a μ and σ of its own.

    Returns:
        For each set (n, ...) float32. In pieces, so that float64 never holds all of it.

    Example:
        >>> x, rows = np.array([[1.0], [3.0], [4.0]]), {"train": np.arange(2), "dev": np.array([2])}
        >>> standardized(x, rows, "feature")["dev"]
        tensor([[2.]])
    """
    on = per != "none"
    scaler = StandardScaler(with_mean=on, with_std=on)
    if per == "channel":
        x = np.moveaxis(x, 1, -1)  # (m, H, W, C)
    width = x.shape[-1] if per == "channel" else x[0].size
    step = max(1, _NUMBERS // x[0].size)

    def pieces(part: Part) -> Any:
        for piece in gen_batches(len(rows[part]), step):
            yield piece, x[rows[part][piece]].astype(np.float64).reshape(-1, width)

    for _, columns in pieces("train"):
        scaler.partial_fit(columns)
    inputs = {}
    for part, chosen in rows.items():
        inputs[part] = torch.empty(len(chosen), *x.shape[1:], dtype=torch.float32)
        for piece, columns in pieces(part):
            values = scaler.transform(columns).reshape(-1, *x.shape[1:])
            inputs[part][piece] = torch.from_numpy(values)
        if per == "channel":
            inputs[part] = inputs[part].movedim(-1, 1).contiguous()
    return inputs
