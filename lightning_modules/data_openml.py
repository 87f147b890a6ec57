"""MNIST, Fashion-MNIST and CIFAR-10 by name, through scikit-learn's OpenML loader."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from sklearn.datasets import fetch_openml, get_data_home

from lightning_modules.data import ClassificationData
from lightning_modules.data_preparation import Array

Name = Literal["mnist", "fashion_mnist", "cifar10"]


@dataclass(frozen=True)
class Listed:
    """A data set as OpenML lists it."""

    data_id: int
    examples: int
    shape: tuple[int, int, int]  # C, H, W


LISTED: dict[str, Listed] = {
    "mnist": Listed(554, 70_000, (1, 28, 28)),
    "fashion_mnist": Listed(40996, 70_000, (1, 28, 28)),
    "cifar10": Listed(40927, 60_000, (3, 32, 32)),
}


class OpenMLDataModule(ClassificationData):
    """70,000 images of MNIST or Fashion-MNIST, or 60,000 of CIFAR-10, in 10 classes each.

    The first use downloads them; from then on they are read from `<folder>/<name>.npz`. Beside it
    stands the file's SHA-256 checksum, as `sha256sum --check` reads it; a file that doesn't agree
    is fetched again. The three sets are drawn from all images, the ones of the usual test set too:
    all from one distribution.

    Args:
        name: "mnist", "fashion_mnist" or "cifar10".
        folder: of the cache; None is `refnet` in scikit-learn's data folder, which the environment
            variable SCIKIT_LEARN_DATA moves.
        options: those of `ClassificationData`: batch_size, train, dev, test, seed, ...

    Raises:
        ValueError: for another name; or if there is no intact file and none can be downloaded: the
            message says where to put one.

    Example:
        >>> OpenMLDataModule("mnist").fractions
        {'train': 0.9, 'dev': 0.05, 'test': 0.05}
    """

    def __init__(self, name: Name, folder: str | None = None, **options: Any) -> None:
        if name not in LISTED:
            raise ValueError(f"name must be one of {', '.join(get_args(Name))}, got {name!r}")
        self.examples = LISTED[name].examples
        super().__init__(**options)
        self._name, self.folder = name, folder

    def prepare_data(self) -> None:
        """Download what is not there; one process does so for all."""
        file = self.file
        if not _intact(file):
            _fetch(self._name, file)

    @property
    def file(self) -> Path:
        """Where the images are kept."""
        folder = Path(self.folder) if self.folder else Path(get_data_home()) / "refnet"
        return folder / f"{self._name}.npz"

    def read(self) -> tuple[Array, Array]:
        """Return pixels from 0 to 255, (m, C, H, W) uint8, and the classes."""
        self.prepare_data()
        with np.load(self.file, allow_pickle=False) as arrays:
            return arrays["x"], arrays["y"]


def _checksum(file: Path) -> Path:
    return file.with_suffix(".npz.sha256")


def _line(file: Path) -> str:
    with file.open("rb") as opened:
        return f"{hashlib.file_digest(opened, 'sha256').hexdigest()}  {file.name}\n"


def _intact(file: Path) -> bool:
    there = file.is_file() and _checksum(file).is_file()
    return there and _checksum(file).read_text() == _line(file)


def _fetch(name: str, file: Path) -> None:
    """Download, check and store a data set."""
    listed = LISTED[name]
    had = "is damaged (its checksum differs)" if file.exists() else "is not there"
    print(f"{file} {had}: downloading {name} from OpenML, once", flush=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        x, labels = fetch_openml(
            data_id=listed.data_id, return_X_y=True, as_frame=False, data_home=str(file.parent)
        )
    except (OSError, ValueError) as error:  # of the network and of OpenML
        raise ValueError(
            f"{name}: {file} {had}, and it can't be downloaded ({error}). Connect to the network "
            f"once, or copy {file.name} and {_checksum(file).name} to {file.parent} from a machine "
            "that has them"
        ) from error
    pixels = x.astype(np.uint8)
    if x.shape[1:] != (np.prod(listed.shape),) or not np.array_equal(pixels, x):
        raise ValueError(f"{name}: OpenML sent other data than images of {listed.shape}: {x.shape}")
    unfinished = file.with_suffix(f".{os.getpid()}")  # several processes may fetch at once
    with unfinished.open("wb") as opened:
        np.savez(opened, x=pixels.reshape(-1, *listed.shape), y=labels.astype(np.int64))
    line = _line(unfinished).replace(unfinished.name, file.name)
    unfinished.replace(file)
    _checksum(file).write_text(line)
