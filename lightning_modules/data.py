"""scikit-learn's handwritten digits, split, standardized and served in mini-batches."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset

Part = Literal["train", "dev", "test"]
Batches = DataLoader[tuple[torch.Tensor, ...]]

CLASSES = 10


class DigitsDataModule(LightningDataModule):
    r"""1797 images of 8 x 8 pixels in 10 classes: stratified train, dev and test sets.

    Every pixel is standardized with mean and standard deviation of the *training* set, which are
    used on dev and test unchanged: $x \leftarrow (x - \mu) / \sigma$. A pixel that is constant over
    the training set has $\sigma = 0$: it is only shifted by its mean ($\sigma$ counts as 1).

    The order of the training set is drawn anew each epoch by a generator of this module's own:
    whatever else draws random numbers (dropout, initial weights) leaves it alone. If the last
    mini-batch of an epoch would hold one single example, for which batch norm has no variance, that
    example sits out the epoch; which one it is changes with the order. Everything else is used:
    $T = \lceil m / \mathrm{batch\_size} \rceil$ mini-batches.

    Args:
        batch_size: examples per mini-batch, at least 1. Batch norm needs 2 or more.
        train: fraction of the data to learn from, in (0, 1]; all three together at most 1.
        dev: fraction to choose by, in (0, 1).
        test: fraction to report on, in [0, 1); 0 for no test set.
        seed: of the split and of the order; a run is reproducible from it.
        num_workers: processes that load data. The data is in memory, so 0 is the fastest.

    Raises:
        ValueError: naming the argument and its value, if one of them makes no sense.

    Example:
        >>> data = DigitsDataModule(batch_size=100)
        >>> data.setup()
        >>> [len(data.dataset(part)) for part in ("train", "dev", "test")]
        [1257, 270, 270]
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([100, 1, 8, 8]), torch.Size([100]))

    Source: lecture, "Train/Dev/Test sets", "Normalizing inputs", "Mini-batch gradient descent"
    (where the slide divides by σ², dividing by σ is meant).
    """

    def __init__(
        self,
        batch_size: int = 64,
        train: float = 0.70,
        dev: float = 0.15,
        test: float = 0.15,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.fractions: dict[Part, float] = {"train": train, "dev": dev, "test": test}
        _check(self.fractions, batch_size, num_workers, seed)
        self.save_hyperparameters()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._parts: dict[Part, TensorDataset] = {}
        self._order = torch.Generator().manual_seed(seed)

    def setup(self, stage: str | None = None) -> None:
        """Split and standardize; the second call and later ones change nothing."""
        if self._parts:
            return
        pixels, labels = load_digits(return_X_y=True)  # (1797, 64) from 0 to 16, (1797,)
        rows = split(labels, self.fractions, self.seed)
        scaler = StandardScaler().fit(pixels[rows["train"]])
        for part, chosen in rows.items():
            images = scaler.transform(pixels[chosen]).reshape(-1, 1, 8, 8)
            self._parts[part] = TensorDataset(
                torch.tensor(images, dtype=torch.float32), torch.tensor(labels[chosen])
            )

    def dataset(self, part: Part) -> TensorDataset:
        """Return one of the three sets: images (n, 1, 8, 8) float32 and labels (n,) int64."""
        self.setup()
        if part not in self._parts:
            raise ValueError(f"there is no {part} set: {part}={self.fractions[part]}")
        return self._parts[part]

    def ordered(self, part: Part) -> Batches:
        """Serve a set in its stored order, for measuring."""
        return self._loader(part, shuffle=False)

    def train_dataloader(self) -> Batches:
        """Serve the training set, in a new order each epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> Batches:
        """Serve the dev set."""
        return self.ordered("dev")

    def test_dataloader(self) -> Batches:
        """Serve the test set."""
        return self.ordered("test")

    def _loader(self, part: Part, shuffle: bool) -> Batches:
        dataset = self.dataset(part)
        one_left_over = self.batch_size > 1 and len(dataset) % self.batch_size == 1
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=shuffle,
            generator=self._order if shuffle else None,
            drop_last=shuffle and one_left_over,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the split, and where the order of the epochs stands."""
        return {"split": self._split_key(), "order": self._order.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the order of the epochs; refuse a checkpoint that was trained on another split.

        Raises:
            ValueError: its training images could be among the dev or test images here.
        """
        if state_dict["split"] != self._split_key():
            raise ValueError(
                f"the checkpoint was trained on the split {state_dict['split']}, this is "
                f"{self._split_key()}: give the same data.seed and fractions"
            )
        self._order.set_state(state_dict["order"].cpu())

    def _split_key(self) -> dict[str, float]:
        split: dict[str, float] = dict(self.fractions.items())
        return {**split, "seed": self.seed}


def split(
    labels: np.ndarray[Any, Any], fractions: dict[Part, float], seed: int
) -> dict[Part, np.ndarray[Any, Any]]:
    """Choose disjoint, stratified, shuffled rows for each set whose fraction is not 0.

    Args:
        labels: class of each example, (m,).
        fractions: share of the data for train, dev and test, together at most 1.
        seed: of scikit-learn's shuffling.

    Returns:
        Row numbers of each set.

    Raises:
        ValueError: if a set is too small to hold every class.

    Example:
        >>> rows = split(np.arange(100) % 2, {"train": 0.7, "dev": 0.2, "test": 0.1}, seed=0)
        >>> {part: len(chosen) for part, chosen in rows.items()}
        {'train': 70, 'dev': 20, 'test': 10}

    Source: lecture, "Train/Dev/Test sets": all three from one distribution.
    """
    m, classes = len(labels), len(np.unique(labels))
    counts = {part: round(fraction * m) for part, fraction in fractions.items()}
    counts["train"] = min(counts["train"], m - counts["dev"] - counts["test"])  # 0.70 rounds up
    for part, count in counts.items():
        if count < classes and fractions[part] > 0:
            raise ValueError(
                f"{part}={fractions[part]} leaves {count} of {m} examples: too few for "
                f"{classes} classes"
            )
    left = np.arange(m)
    rows: dict[Part, np.ndarray[Any, Any]] = {}
    for part in ("test", "dev", "train"):
        if counts[part] == len(left):
            rows[part] = left
        elif counts[part] > 0:
            rows[part], left = train_test_split(
                left,
                train_size=counts[part],
                stratify=labels[left],
                random_state=seed,
            )
    return {part: rows[part] for part in ("train", "dev", "test") if part in rows}


def _check(fractions: dict[Part, float], batch_size: int, num_workers: int, seed: int) -> None:
    for part, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise ValueError(f"{part} must be a fraction in [0, 1], got {fraction}")
        if fraction == 0 and part != "test":
            raise ValueError(f"{part} must not be 0: only the test set may be absent")
    if sum(fractions.values()) > 1 + 1e-9:
        total = " + ".join(f"{part}={fraction}" for part, fraction in fractions.items())
        raise ValueError(f"the fractions must add up to at most 1, got {total}")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("num_workers", num_workers, 0),
        ("seed", seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
