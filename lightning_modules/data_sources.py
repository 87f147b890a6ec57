"""Data of one's own: arrays, a table in a CSV file, folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.progress import track

from lightning_modules.data import ClassificationData
from lightning_modules.data_preparation import Array

MANY = 500  # images, from which on there is a bar of progress


class ArraysDataModule(ClassificationData):
    """Arrays in memory, or in an .npz file as `numpy.savez(path, x=..., y=...)` writes it.

    Args:
        x: inputs, (m, C, H, W), (m, H, W) or (m, n); with a path the name of the array in the file.
        y: classes, (m,), numbers or names; with a path the name of the array in the file.
        path: the file. Nothing in it is unpickled.
        options: those of `ClassificationData`: batch_size, train, dev, test, seed, ...

    Raises:
        ValueError: naming what is missing, or what is wrong with the arrays.

    Example:
        >>> x, y = np.random.default_rng(0).normal(size=(100, 4)), np.arange(100) % 2
        >>> data = ArraysDataModule(x, y, batch_size="all")
        >>> [tuple(x.shape) for x, y in data.train_dataloader()]
        [(70, 4)]
    """

    def __init__(self, x: Any = "x", y: Any = "y", path: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y, self.path = x, y, path

    def read(self) -> tuple[Array, Array]:
        """Return the two arrays."""
        if self.path is None:
            if isinstance(self.x, str) or isinstance(self.y, str):
                raise ValueError("ArraysDataModule needs x and y, or the path of an .npz file")
            return _array("x", self.x), _array("y", self.y)
        file = _file(self.path)
        if not is_zipfile(file):
            raise ValueError(f"path: {self.path} is no .npz file, as numpy.savez writes it")
        try:
            with np.load(file, allow_pickle=False) as arrays:
                names = list(arrays)
                missing = [(o, n) for o, n in (("x", self.x), ("y", self.y)) if n not in names]
                if not missing:
                    return arrays[self.x], arrays[self.y]
        except Exception as error:  # a file of anything can raise anything
            raise ValueError(f"path: can't read {self.path}: {error}") from error
        option, name = missing[0]
        raise ValueError(f"{option}: no array {name!r} in {self.path}, only {', '.join(names)}")


class CSVDataModule(ClassificationData):
    r"""A table with a header: one column is the class, all others are numbers.

    Args:
        path: the file, or an address, as pandas reads it; compressed, if its name ends in .gz or
            .zip.
        target: the column of the classes, numbers or names.
        options: those of `ClassificationData`: batch_size, train, dev, test, seed, ...

    Raises:
        ValueError: naming the column, if one is not there, holds no numbers, or lacks values.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "flowers.csv"
        >>> _ = file.write_text("length,width,kind\n" + "1,2,rose\n3,5,tulip\n" * 20)
        >>> data = CSVDataModule(str(file), target="kind")
        >>> data.shape, data.classes
        ((2,), ['rose', 'tulip'])
    """

    def __init__(self, path: str, target: str, **options: Any) -> None:
        super().__init__(**options)
        self.path, self.target = path, target

    def read(self) -> tuple[Array, Array]:
        """Return the columns of numbers, (m, n) float64, and the classes."""
        try:
            table = pd.read_csv(self.path)
        except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
            raise ValueError(f"path: can't read {self.path}: {error}") from error
        columns = ", ".join(map(repr, table.columns))  # a blank in a name shows
        if self.target not in table:
            raise ValueError(f"target: no column {self.target!r} in {self.path}, only {columns}")
        if table.empty:
            raise ValueError(f"path: {self.path} has a header and no rows")
        for name, column in table.items():
            if lacking := int(column.isna().sum()):
                row = int(column.isna().to_numpy().argmax())
                raise ValueError(
                    f"path: {self.path}: column {name!r} lacks {lacking} of {len(table)} values, "
                    f"the first in row {row + 1}: fill them in or leave these rows out"
                )
            if name != self.target and not pd.api.types.is_numeric_dtype(column):
                numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
                if not (wrong := column[np.isnan(numbers)].tolist()):
                    continue  # whole numbers that are too large for a type of NumPy's
                raise ValueError(
                    f"path: {self.path}: column {name!r} holds no numbers, but {wrong[0]!r}: leave "
                    "it out or encode it"
                )
        inputs = table.drop(columns=self.target).to_numpy(dtype=np.float64)
        # Names are strings of NumPy's own, which sort and print plainly.
        classes = table[self.target]
        return inputs, classes.to_numpy(None if pd.api.types.is_numeric_dtype(classes) else str)


class ImageFolderDataModule(ClassificationData):
    """A folder for each class, with its images inside, in any format that Pillow reads.

    Args:
        path: the folder of the classes' folders; its layout is that of torchvision's ImageFolder.
            Names that begin with a dot are passed over.
        size: height and width that images are scaled to; None takes them as they are.
        grayscale: one channel in place of three.
        options: those of `ClassificationData`: batch_size, train, dev, test, seed, ...

    Raises:
        ValueError: naming the folder or the file, if one is empty, no image, or of another size.
    """

    def __init__(
        self, path: str, size: int | None = None, grayscale: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.path, self.size, self.grayscale = path, size, grayscale

    def read(self) -> tuple[Array, Array]:
        """Return pixels from 0 to 255, (m, C, H, W) uint8, and the names of the folders."""
        root = Path(self.path)
        folders = [f for f in _visible(root) if f.is_dir()] if root.is_dir() else []
        if not folders:
            raise ValueError(f"path: {self.path} is no folder with a folder for each class inside")
        files = [(file, folder.name) for folder in folders for file in _visible(folder)]
        if empty := [f for f in folders if not _visible(f)]:
            raise ValueError(f"path: the folder {empty[0]} has no images")
        bar = {"description": "reading images", "transient": True, "disable": len(files) < MANY}
        images: list[Array] = []
        for file, _ in track(files, **bar):  # type: ignore[arg-type]
            images.append(self._image(file))
            if images[-1].shape != images[0].shape:
                sizes = [f"{w} x {h}" for _, h, w in (images[-1].shape, images[0].shape)]
                raise ValueError(
                    f"size: {file} has {sizes[0]} pixels and {files[0][0]} {sizes[1]}: give a size "
                    "to scale them to"
                )
        return np.stack(images), np.array([name for _, name in files])

    def _image(self, file: Path) -> Array:
        try:
            with Image.open(file) as opened:
                upright = ImageOps.exif_transpose(opened)  # cameras note how they were held
                image = upright.convert("L" if self.grayscale else "RGB")
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ValueError(f"path: {file} is no image that can be read: {error}") from error
        if self.size is not None:
            image = image.resize((self.size, self.size))
        pixels = np.asarray(image)
        return pixels[None] if self.grayscale else np.moveaxis(pixels, -1, 0)


def _visible(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if not f.name.startswith("."))


def _array(name: str, given: Any) -> Array:
    if isinstance(given, torch.Tensor):
        given = given.detach().cpu()
        given = given.float() if given.dtype == torch.bfloat16 else given  # NumPy has none
    try:
        return np.asarray(given)
    except ValueError as error:
        raise ValueError(f"{name} is no array: {error}") from error


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise ValueError(f"path: no file at {path!r}")
    return Path(path)
