"""Look at the data: `python -m lightning_modules.data_samples --data.augment.rotate 10`.

Draws some training images, each beside variations of it, as the net is given them, and counts the
classes in each set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lightning_modules.data import ClassificationData
from lightning_modules.data_openml import OpenMLDataModule  # noqa: F401 (--data knows it by name)
from lightning_modules.data_sources import CSVDataModule  # noqa: F401
from lightning_modules.errors import Parser, explained
from lightning_modules.files import check_folder
from lightning_modules.quiet import quiet

ROWS, VARIATIONS = 8, 9


def draw(data: ClassificationData, path: Path, seed: int = 0) -> Path:
    """Draw training images, one in a row, each followed by variations (none without augmentation).

    Args:
        data: images, (C, H, W) with one channel or three.
        path: the file to write; its folder is made.
        seed: of the choice of images and of what is varied.

    Returns:
        The path.

    Raises:
        ValueError: the data are no images that can be drawn.

    Example:
        >>> import tempfile
        >>> from lightning_modules.augmentation import Augmentation
        >>> from lightning_modules.data import DigitsDataModule
        >>> data = DigitsDataModule(augment=Augmentation(rotate=10))
        >>> draw(data, Path(tempfile.mkdtemp()) / "samples.png").stat().st_size > 5000
        True
    """
    if len(data.shape) != 3 or data.shape[0] not in (1, 3):
        raise ValueError(f"images of one channel or three can be drawn, not inputs {data.shape}")
    images, labels = data.dataset("train").tensors
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[: ROWS * (1 + VARIATIONS)]
    if data.augment:
        chosen = chosen[:ROWS].repeat_interleave(1 + VARIATIONS)
    shown = images[chosen]
    if data.augment:
        varied = torch.arange(len(shown)) % (1 + VARIATIONS) > 0
        shown[varied] = data.augment(shown[varied], generator)
    figure = Figure(figsize=(1 + VARIATIONS, 1.15 * ROWS), layout="constrained")
    cells = list(figure.subplots(ROWS, 1 + VARIATIONS, squeeze=False).flat)
    for axes in cells:
        axes.set_axis_off()
    low, high = np.percentile(shown, (0.5, 99.5))  # of standardized pixels
    scaled = ((shown - low) / max(high - low, 1e-9)).clamp(0, 1).movedim(1, -1)
    for i, (axes, image) in enumerate(zip(cells, scaled.numpy(), strict=False)):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
        if not data.augment or i % (1 + VARIATIONS) == 0:
            axes.set_title(data.classes[int(labels[chosen[i]])], fontsize="small")
    title = "training images, as the net is given them"
    if data.augment:
        on = [f"{name} {value:g}" for name, value in data.augment.strengths().items() if value]
        title += f"; right of the first column: {', '.join(on)}"
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    return path


def counts(data: ClassificationData) -> Table:
    """Return a table of how many examples of each class each set holds."""
    parts = [part for part, fraction in data.fractions.items() if fraction]
    shape = " x ".join(map(str, data.shape))
    table = Table(title=f"{data.examples:,} examples: {shape}")
    for column in ("class", *parts):
        table.add_column(column, justify="left" if column == "class" else "right")
    labels = [data.dataset(part).tensors[1].numpy() for part in parts]
    columns = [np.bincount(y, minlength=data.num_classes) for y in labels]
    for name, *numbers in zip(data.classes, *columns, strict=True):
        table.add_row(str(name), *map(str, numbers))
    table.add_section()
    table.add_row("all", *(str(len(y)) for y in labels))
    return table


def main(args: list[str] | None = None) -> None:
    """Print the counts, and draw if the data are images.

    Raises:
        SystemExit: code 2 and a line or two on stderr, for a mistake in args.
    """
    quiet()
    parser = Parser(prog="python -m lightning_modules.data_samples", description=__doc__)
    parser.add_subclass_arguments(ClassificationData, "data")
    parser.set_defaults({"data": {"class_path": "lightning_modules.DigitsDataModule"}})
    parser.add_argument("--out", type=str, default="runs/data_samples", help="folder to write to")
    config = parser.parse_args(args)
    with explained():
        check_folder("--out", config.out)
        data: ClassificationData = parser.instantiate(config).data
        data.setup()
    Console().print(counts(data))
    if len(data.shape) == 3:
        with explained():
            print(f"written to {draw(data, Path(config.out) / 'samples.png')}")


if __name__ == "__main__":
    main()
