"""The data's part of the suite: `python -m verification data`.

Splits, standardization, mini-batches and augmentation beside scikit-learn, torch's DataLoader and
NumPy. `verification` may not import what is checked here; it finds `suite` by its entry point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.augmentation import Augmentation
from lightning_modules.checks.rows import judged
from lightning_modules.data import ClassificationData, DigitsDataModule
from lightning_modules.data_preparation import (
    PARTS,
    Array,
    Part,
    Per,
    fractions_for,
    split,
    standardized,
)
from verification.report import ANOTHER, Row

SUBJECT = "data"
NAN = math.nan
EPS = float(np.finfo(np.float32).eps)  # what inputs are stored in
SEEDS = (0, 1, 5)


def suite(*, quick: bool = False, device: str = "cpu") -> Iterator[list[Row]]:
    """Yield the rows of the splits, of standardization, of mini-batches and of augmentation.

    Args:
        quick: has no effect: all of it takes a few seconds.
        device: has no effect: data is prepared on the CPU.

    Example:
        >>> rows = next(suite(quick=True))
        >>> rows[0].case, all(row.passed for row in rows)
        ('split, digits, seed 0', True)
    """
    for check in _CHECKS:
        try:
            yield list(check())
        except Exception as error:  # code that crashes gets a row
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            case = check.__name__.strip("_").replace("_", " ")
            yield [Row(SUBJECT, case, "-", "-", NAN, NAN, NAN, "runs", ANOTHER, note)]


_row = partial(judged, SUBJECT)


def _labels() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "digits": load_digits().target,
        "9 of 10 in one class": rng.permutation(np.repeat([0, 1, 2], [1800, 150, 50])),
        "names": np.array(["cat", "dog", "owl"])[rng.integers(0, 3, 1000)],
    }


# Row 1: train, dev and test sets.


def _splits() -> Iterator[Row]:
    for name, labels in _labels().items():
        m = len(labels)
        kinds, classes = np.unique(labels, return_counts=True)
        shares: dict[Part, float] = {"train": 0.7, "dev": 0.2, "test": 0.1}
        if name != "names":
            shares = fractions_for(m)
        for seed in SEEDS:
            case = f"split, {name}, seed {seed}"
            found = split(labels, shares, seed)
            right = _by_scikit_learn(labels, shares, seed)
            wrong = [len(np.setxor1d(found[part], right[part])) for part in PARTS]
            yield _row(case, "rows", sum(wrong), "scikit-learn's very rows")
            sizes = {part: len(rows) for part, rows in found.items()}
            off = max(abs(sizes[part] - shares[part] * m) for part in PARTS)
            note = ", ".join(f"{part} {size}" for part, size in sizes.items())
            yield _row(case, "sizes", off, "fraction · m, rounded", 1.0, note=note)
            every = np.concatenate(list(found.values()))
            repeated = len(every) - len(np.unique(every))
            yield _row(case, "in two sets", repeated, "disjoint")
            yield _row(case, "left out", m - len(np.unique(every)), "all are used")
            off, theirs = (
                max(
                    float(np.abs([(labels[rows] == kind).sum() for kind in kinds]
                                 - classes * len(rows) / m).max())
                    for rows in sets.values()
                )
                for sets in (found, right)
            )  # fmt: skip
            # the first split rounds each class, the second one rounds what that has left
            yield _row(case, "examples of a class", off, "stratified, to 2", 2.0, builtin=theirs)
            again = split(labels, shares, seed)
            changed = sum(not np.array_equal(found[part], again[part]) for part in PARTS)
            yield _row(case, "drawn again", changed, "seeded")
            other = split(labels, shares, seed + 1)
            same = float(np.mean(np.isin(other["test"], found["test"])))
            yield _row(case, "of another seed", same, "another draw", 0.5)
    rows = split(_labels()["digits"], {"train": 0.8, "dev": 0.2, "test": 0.0}, 0)
    yield _row("split, no test set", "sets", len(set(rows) ^ {"train", "dev"}), "train and dev")


def _by_scikit_learn(labels: Array, shares: dict[Part, float], seed: int) -> dict[Part, Array]:
    m, options = len(labels), {"random_state": seed}
    sizes = {part: round(shares[part] * m) for part in PARTS}
    test, rest = train_test_split(
        np.arange(m), train_size=sizes["test"], stratify=labels, **options
    )
    dev, train = train_test_split(rest, train_size=sizes["dev"], stratify=labels[rest], **options)
    return {"train": train, "dev": dev, "test": test}


def _advice() -> Iterator[Row]:
    for m, share in ((1000, 0.7), (10_000_000, 0.99)):
        found = fractions_for(m)
        off = abs(found["train"] - share) + abs(sum(found.values()) - 1)
        yield _row(f"{m:,} examples", "fractions", off, "the lecture's", 1e-12)


# Row 8: normalizing inputs. By σ, where the slide has σ².


def _standardization() -> Iterator[Row]:
    rng = np.random.default_rng(1)
    pixels = load_digits().images[:, None].astype(float)  # some are constant
    colours = rng.normal([[[5]], [[-1]], [[0]]], [[[2]], [[9]], [[1]]], (200, 3, 4, 4))
    arrays: list[tuple[str, Array, Per]] = [
        ("digits", pixels, "feature"),
        ("digits", pixels, "channel"),
        ("digits", pixels, "none"),
        ("columns of every size", rng.normal(3, 1, (500, 6)) * 10.0 ** np.arange(-3, 3), "feature"),
        ("offset 1e4", 1e4 + rng.normal(size=(500, 3)), "feature"),
        ("colours", colours, "channel"),
    ]
    for name, x, per in arrays:
        order = rng.permutation(len(x))
        # dev and test are of another kind: statistics that they have a part in are others
        x = x.copy()
        n = int(0.7 * len(x))
        rows: dict[Part, Array] = {
            "train": order[:n],
            "dev": order[n : n + n // 5],
            "test": order[n + n // 5 :],
        }
        x[rows["dev"]] = 2 * x[rows["dev"]] + 1
        found = standardized(x, rows, per)
        for part, chosen in rows.items():
            right = _scaled(x, rows["train"], chosen, per)
            theirs = _by_scaler(x, rows["train"], chosen, per)
            size = float(np.abs(right).max())
            error = float(np.abs(found[part].numpy() - right).max()) / size
            builtin = float(np.abs(theirs.astype(np.float32) - right).max()) / size
            case = f"standardized, {name}, per {per}, {part} set"
            yield _row(case, "inputs", error, "eps", EPS, builtin=builtin, dtype="float32")
    yield from _digits(pixels)


def _digits(pixels: Array) -> Iterator[Row]:
    """What a data module serves: each image with its own class, standardized."""
    labels = load_digits().target
    rows = split(labels, fractions_for(len(labels)), 4)
    data = DigitsDataModule(seed=4)
    for part in PARTS:
        inputs, classes = (tensor.numpy() for tensor in data.dataset(part).tensors)
        right = _by_scaler(pixels, rows["train"], rows[part], "feature").astype(np.float32)
        off = float(np.abs(inputs - right).max())
        yield _row(f"digits as served, {part} set", "inputs", off, "StandardScaler's, bitwise")
        wrong = int((classes != labels[rows[part]]).sum())
        yield _row(f"digits as served, {part} set", "classes", wrong, "their own")


def _columns(x: Array, per: str) -> Array:
    return (
        np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]) if per == "channel" else x.reshape(len(x), -1)
    )


def _back(columns: Array, x: Array, per: str) -> Array:
    if per != "channel":
        return columns.reshape(x.shape)
    return np.moveaxis(columns.reshape(len(x), *x.shape[2:], x.shape[1]), -1, 1)


def _scaled(x: Array, train: Array, chosen: Array, per: str) -> Array:
    """(x − μ) / σ in extended precision, μ and σ of the training set; constants are shifted."""
    if per == "none":
        return x[chosen].astype(np.longdouble)
    learned = _columns(x[train], per).astype(np.longdouble)
    mu = learned.mean(0)
    sigma = np.sqrt(((learned - mu) ** 2).mean(0))
    columns = _columns(x[chosen], per).astype(np.longdouble)
    return _back((columns - mu) / np.where(sigma == 0, 1, sigma), x[chosen], per)


def _by_scaler(x: Array, train: Array, chosen: Array, per: str) -> Array:
    if per == "none":
        return x[chosen]
    scaler = StandardScaler().fit(_columns(x[train], per))
    return _back(scaler.transform(_columns(x[chosen], per)), x[chosen], per)


# Row 13: mini-batches.


def _mini_batches() -> Iterator[Row]:
    for size in (1, 2, 64, 100, 1024, 1257, "all"):
        number = 1257 if size == "all" else int(size)
        case = f"mini-batches of {size}"
        data = DigitsDataModule(batch_size=size, seed=3)
        m = len(data.dataset("train"))
        one_left_over = number > 1 and m % number == 1
        expected = m // number if one_left_over else math.ceil(m / number)
        epochs = [list(data.train_dataloader()) for _ in range(2)]
        builtin = DataLoader(
            data.dataset("train"),
            batch_size=number,
            shuffle=True,
            generator=torch.Generator().manual_seed(3),
        )
        theirs = [list(builtin)[:expected] for _ in range(2)]
        off = abs(len(data.train_dataloader()) - expected) + abs(len(epochs[0]) - expected)
        yield _row(case, "T", off, "T = ⌈m / size⌉", note=f"{expected} of {m} examples")
        wrong = sum(
            not torch.equal(a, b)
            for ours, other in zip(epochs, theirs, strict=True)
            for (a, _), (b, _) in zip(ours, other, strict=True)
        )
        yield _row(case, "inputs of two epochs", wrong, "DataLoader's, bitwise")
        wrong = sum(
            not torch.equal(a, b)
            for ours, other in zip(epochs, theirs, strict=True)
            for (_, a), (_, b) in zip(ours, other, strict=True)
        )
        yield _row(case, "classes of two epochs", wrong, "DataLoader's, bitwise")
        first, second = (torch.cat([x for x, _ in batches]) for batches in epochs)
        yield _row(case, "in the same place", _alike(first, second), "shuffled each epoch", 0.05)
    big = DigitsDataModule(batch_size=1_000)
    column = torch.zeros(1).expand(5_000_000)
    big._parts = {"train": TensorDataset(column, column)}
    off = abs(len(big.train_dataloader()) - 5_000)
    yield _row("5,000,000 by 1,000", "T", off, "the lecture's 5,000")


# Row 6: data augmentation.

STRONG = Augmentation(flip=0.5, shift=2, rotate=20, zoom=0.2, distort=0.2, noise=0.3)


def _augmentation() -> Iterator[Row]:
    for name in ("flip", "shift", "rotate", "zoom", "distort", "noise", "all"):
        strength = getattr(STRONG, name, 0.0)
        augment = STRONG if name == "all" else Augmentation(**{name: strength})
        case = f"augmentation, {name}"
        varied, plain = (DigitsDataModule(seed=2, augment=a) for a in (augment, None))
        (x, y), (x_plain, y_plain) = _epoch(varied), _epoch(plain)
        wrong = int((y != y_plain).sum()) + int((_epoch(varied)[1] != _epoch(plain)[1]).sum())
        yield _row(case, "classes of two epochs", wrong, "kept")
        yield _row(case, "training images as they were", _alike(x, x_plain), "varied", 0.6)
        # an image is nearer to what it was made of than to any other one
        near = float((x - x_plain).square().mean())
        far = float((x - x_plain.roll(1, 0)).square().mean())
        yield _row(case, "distance from its image", near / far, "nearer than to others", 0.95)
        for part in PARTS[1:]:
            served = zip(varied.ordered(part), plain.ordered(part), strict=True)
            changed = sum(not torch.equal(a[0], b[0]) for a, b in served)
            yield _row(case, f"{part} set", changed, "not varied, bitwise")
        again = _epoch(DigitsDataModule(seed=2, augment=augment))[0]
        yield _row(case, "drawn again", float(not torch.equal(x, again)), "seeded")
        dataset: Any = varied.train_dataloader().dataset
        twice = [dataset.__getitems__(range(len(dataset)))[0] for _ in range(2)]
        yield _row(case, "images drawn twice", _alike(*twice), "varied anew", 0.6)
    images = torch.rand(6, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    mirrored = Augmentation(flip=1)(images, torch.Generator().manual_seed(0)).numpy()
    off = float(np.abs(mirrored - images.numpy()[..., ::-1]).max())
    yield _row("every image flipped", "pixels", off, "NumPy's, bitwise", dtype="float32")
    generator = torch.Generator().manual_seed(0)
    share = _alike(Augmentation(flip=0.3)(images[:1].repeat(400, 1, 1, 1), generator), images[:1])
    sigma = math.sqrt(0.3 * 0.7 / 400)
    yield _row("flip 0.3 in a mini-batch", "share", abs(share - 0.7), "5 sigma", 5 * sigma)
    yield from _noise()
    untouched = Augmentation()(images, torch.Generator().manual_seed(0))
    off = float((untouched - images).abs().max())
    yield _row("all strengths 0", "pixels", off, "the very image", dtype="float32")


def _noise() -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    noise = Augmentation(noise=0.3)(torch.zeros(400, 1, 8, 8), generator).numpy()
    spread = 5 / math.sqrt(2 * noise.size)  # of a right deviation, 5 sigma
    yield _row("noise 0.3", "deviation", abs(noise.std() / 0.3 - 1), "5 sigma", spread)
    yield _row("noise 0.3", "mean", abs(noise.mean() / 0.3), "5 sigma", math.sqrt(2) * spread)
    alike = len(noise) - len(np.unique(noise.reshape(400, -1), axis=0))
    yield _row("noise 0.3", "images alike", alike, "each its own")


def _alike(a: torch.Tensor, b: torch.Tensor) -> float:
    """The share of images that are the same, bit for bit."""
    return float((a == b).flatten(1).all(1).double().mean())


def _epoch(data: ClassificationData) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(data.train_dataloader())
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])


_CHECKS: tuple[Callable[[], Iterator[Row]], ...] = (
    _splits,
    _advice,
    _standardization,
    _mini_batches,
    _augmentation,
)
