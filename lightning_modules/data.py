"""Arrays and labels, split, standardized and served in mini-batches; scikit-learn's digits."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule

# The one private name of Lightning here: tells whether the command line builds this module.
from pytorch_lightning.core.mixins.hparams_mixin import _given_hyperparameters
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.augmentation import Augmentation, Augmented, seed_worker
from lightning_modules.data_checks import check_data, check_fractions, check_options
from lightning_modules.data_preparation import (
    Array,
    Part,
    Per,
    completed,
    fractions_for,
    nested,
    split,
    standardized,
)

__all__ = ["ClassificationData", "DigitsDataModule", "Part", "fractions_for", "split"]

Batches = DataLoader[tuple[torch.Tensor, ...]]

_LIVE = ("augment", "path", "folder", "x", "y")  # not plain types: left out of checkpoints


class ClassificationData(LightningDataModule):
    r"""Inputs and their classes: stratified train, dev and test sets, in mini-batches.

    A subclass says in `read` where the data comes from; the rest is here.

    Inputs are standardized with mean and standard deviation of the *training* set, which are used
    on dev and test unchanged: $x \leftarrow (x - \mu) / \sigma$. A feature that is constant over
    the training set has $\sigma = 0$: it is only shifted by its mean ($\sigma$ counts as 1).

    The order of the training set is drawn anew each epoch by a generator of this module's own:
    whatever else draws random numbers (dropout, initial weights) leaves it alone. If the last
    mini-batch of an epoch would hold one single example, for which batch norm has no variance, that
    example sits out the epoch; which one it is changes with the order. Everything else is used:
    $T = \lceil m / \mathrm{batch\_size} \rceil$ mini-batches for m training examples.

    Args:
        batch_size: examples per mini-batch, at least 1 (stochastic gradient descent); "all" is the
            whole training set (batch gradient descent). Batch norm needs 2 or more.
        train: fraction of the data to learn from, in (0, 1]; all three together at most 1. None,
            here and below, is the lecture's advice for so much data, see `fractions_for`, or what
            the others leave, if that is less.
        dev: fraction to choose by, in (0, 1).
        test: fraction to report on, in [0, 1); 0 for no test set.
        seed: of the split, the order and the augmentation; a run is reproducible from it.
        subset: share of the training set that is learned from, in (0, 1]; what a smaller share has
            is part of a larger one, and dev and test set stay as they are. For learning curves.
        sampling_seed: of the order, the subset and the augmentation, if not `seed`.
        num_workers: processes that load data. The data is in memory, so 0 is the fastest.
        standardize: one μ and σ per "feature" (each pixel of an image is one), per "channel" of
            images, or "none". By default per channel for images, else per feature.
        augment: how the images of the training set are varied; None leaves them as they are. What
            is varied is the standardized image.

    Raises:
        ValueError: naming the argument and its value, if one of them makes no sense.

    Source: lecture, "Train/Dev/Test sets", "Normalizing inputs", "Mini-batch gradient descent"
    (where the slide divides by σ², dividing by σ is meant).
    """

    examples: int | None = None  # in all sets together; known when the data is read
    human_error: ClassVar[float | None] = None  # share of labels that people get wrong, if known
    images_per: ClassVar[Per] = "channel"  # how images are standardized by default

    def __init__(
        self,
        batch_size: int | Literal["all"] = 64,
        train: float | None = None,
        dev: float | None = None,
        test: float | None = None,
        seed: int = 0,
        num_workers: int = 0,
        standardize: Per | None = None,
        augment: Augmentation | None = None,
        subset: float = 1.0,
        sampling_seed: int | None = None,
    ) -> None:
        super().__init__()
        self._given: dict[Part, float | None] = {"train": train, "dev": dev, "test": test}
        check_fractions({part: f for part, f in self._given.items() if f is not None})
        sampling_seed = seed if sampling_seed is None else sampling_seed
        check_options(batch_size, num_workers, seed, standardize, subset, sampling_seed)
        # A checkpoint holds plain types only, so that it loads with weights_only=True. The command
        # line hands over its configuration, which is plain.
        self.save_hyperparameters(ignore=() if _given_hyperparameters.get() else _LIVE)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.subset, self.sampling_seed = subset, sampling_seed
        self.standardize = standardize
        self.augment = augment if augment != Augmentation() else None
        self._parts: dict[Part, TensorDataset] = {}
        self._order = torch.Generator().manual_seed(sampling_seed)
        if self.augment:
            # not the order's numbers
            self._variation = torch.Generator().manual_seed(sampling_seed + 1)
        if self.examples:
            completed(self._given, self.examples)  # refuses what makes no sense before any reading

    @abstractmethod
    def read(self) -> tuple[Array, Array]:
        """Return inputs, (m, C, H, W) or (m, n), and classes, (m,): numbers or names."""

    @property
    def fractions(self) -> dict[Part, float]:
        """Share of the data of each set, as given or else as advised: see `completed`."""
        if self.examples is None:
            self.setup()
        return completed(self._given, self.examples or 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, (C, H, W) or (n,)."""
        return tuple(self.dataset("train").tensors[0].shape[1:])

    @property
    def classes(self) -> list[Any]:
        """The classes in the order of their numbers in a mini-batch, as they were read."""
        self.setup()
        return self._classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def setup(self, stage: str | None = None) -> None:
        """Read, split and standardize; the second call and later ones change nothing."""
        if self._parts:
            return
        x, labels = self.read()
        x = check_data(x, labels, self.augment, self.standardize)
        names, y = np.unique(labels, return_inverse=True)
        self.examples = len(y)
        rows = split(names[y], self.fractions, self.seed)
        if self.subset < 1:
            learned = nested(y[rows["train"]], self.subset, self.sampling_seed)
            rows["train"] = rows["train"][learned]
        per = self.standardize or (self.images_per if x.ndim == 4 else "feature")
        inputs = standardized(x, rows, per)
        self._classes: list[Any] = names.tolist()
        digest = hashlib.sha256(repr((x.shape, str(x.dtype), self._classes)).encode())
        digest.update(np.ascontiguousarray(x).data)
        digest.update(y.data)
        self._digest = digest.hexdigest()
        self._parts = {
            part: TensorDataset(inputs[part], torch.tensor(y[chosen]))
            for part, chosen in rows.items()
        }

    def take(self, other: ClassificationData) -> None:
        """Spare reading what another module with the same arguments has read."""
        for name in ("_parts", "_classes", "_digest", "examples"):
            setattr(self, name, getattr(other, name))

    def dataset(self, part: Part) -> TensorDataset:
        """Return one of the three sets: inputs (n, ...) float32 and classes (n,) int64."""
        self.setup()
        if part not in self._parts:
            raise ValueError(f"there is no {part} set: {part}={self.fractions[part]}")
        return self._parts[part]

    def ordered(self, part: Part) -> Batches:
        """Serve a set in its stored order, for measuring."""
        return self._loader(part, shuffle=False)

    def train_dataloader(self) -> Batches:
        """Serve the training set, in a new order and newly varied each epoch."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> Batches:
        """Serve the dev set."""
        return self.ordered("dev")

    def test_dataloader(self) -> Batches:
        """Serve the test set."""
        return self.ordered("test")

    def _loader(self, part: Part, shuffle: bool) -> Batches:
        dataset: TensorDataset | Augmented = self.dataset(part)
        size = len(dataset) if self.batch_size == "all" else self.batch_size
        one_left_over = size > 1 and len(dataset) % size == 1
        options: dict[str, Any] = {"persistent_workers": self.num_workers > 0}
        if shuffle and self.augment:
            dataset = Augmented(self._parts[part], self.augment, self._variation)
            # It hands out whole mini-batches. New workers each epoch get new seeds.
            options = {"collate_fn": list, "worker_init_fn": seed_worker}
        return DataLoader(
            dataset,
            batch_size=size,
            shuffle=shuffle,
            generator=self._order if shuffle else None,
            drop_last=shuffle and one_left_over,
            num_workers=self.num_workers,
            **options,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the split, and where order and augmentation stand."""
        split, digest = self._split_key()
        state = {"split": split, "data": digest, "order": self._order.get_state()}
        return {**state, "variation": self._variation.get_state()} if self.augment else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the order of the epochs; refuse a checkpoint that was trained on another split.

        Raises:
            ValueError: its training examples could be among the dev or test examples here.
        """
        split, digest = self._split_key()
        if state_dict["split"] != split:
            raise ValueError(
                f"the checkpoint was trained on the split {state_dict['split']}, this is "
                f"{split}: give the same data.seed and fractions"
            )
        if state_dict.get("data", digest) != digest:
            raise ValueError("the checkpoint was trained on other data than what was read here")
        self._order.set_state(state_dict["order"].cpu())
        if self.augment and "variation" in state_dict:
            self._variation.set_state(state_dict["variation"].cpu())

    def _split_key(self) -> tuple[dict[str, float], str]:
        self.setup()
        key: dict[str, float] = {**self.fractions, "seed": self.seed}  # type: ignore[dict-item]
        if self.subset < 1:
            key |= {"subset": self.subset, "sampling_seed": self.sampling_seed}
        return key, self._digest


class DigitsDataModule(ClassificationData):
    """scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels in 10 classes, offline.

    Every pixel is standardized by itself. The arguments are those of `ClassificationData`; the
    advice for so many is 70 % to train, 15 % each for dev and test.

    Example:
        >>> data = DigitsDataModule(batch_size=100)
        >>> data.setup()
        >>> [len(data.dataset(part)) for part in ("train", "dev", "test")]
        [1257, 270, 270]
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, labels.shape
        (torch.Size([100, 1, 8, 8]), torch.Size([100]))
    """

    examples = 1797
    human_error = 0.0  # people read them almost without error (lecture, "Bias and variance")
    images_per = "feature"

    def read(self) -> tuple[Array, Array]:
        """Return pixels from 0 to 16, (1797, 1, 8, 8), and digits."""
        pixels, labels = load_digits(return_X_y=True)
        return pixels.reshape(-1, 1, 8, 8), labels
