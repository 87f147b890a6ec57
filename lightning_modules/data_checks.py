"""Options and data that nothing can be learned from, refused in words."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import numpy as np

from lightning_modules.augmentation import Augmentation
from lightning_modules.data_preparation import Array, Part

_LARGEST = {True: 3e38, False: 1e150}  # inputs that are not standardized, and that are


def check_options(
    batch_size: int | str,
    num_workers: int,
    seed: int,
    standardize: str | None,
    subset: float,
    sampling_seed: int,
) -> None:
    """Refuse options of `ClassificationData` that make no sense.

    Raises:
        ValueError: naming the option and its value.
    """
    whole = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if batch_size != "all" and not whole:
        raise ValueError(f"batch_size must be a whole number or 'all', got {batch_size!r}")
    if standardize not in (None, "feature", "channel", "none"):
        raise ValueError(f"standardize must be 'feature', 'channel' or 'none', got {standardize!r}")
    if not 0 < subset <= 1:
        raise ValueError(f"subset must be a fraction in (0, 1], got {subset}")
    numbers = {"batch_size": (batch_size, 1), "num_workers": (num_workers, 0), "seed": (seed, 0)}
    numbers["sampling_seed"] = (sampling_seed, 0)
    for name, (value, least) in numbers.items():
        if not isinstance(value, str) and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")


def check_fractions(fractions: Mapping[Part, float]) -> None:
    """Refuse fractions outside of [0, 1], together more than 1, or no train or dev set.

    Raises:
        ValueError: naming the set and its fraction.
    """
    for part, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise ValueError(f"{part} must be a fraction in [0, 1], got {fraction}")
        if fraction == 0 and part != "test":
            raise ValueError(f"{part} must not be 0: only the test set may be absent")
    if sum(fractions.values()) > 1 + 1e-9:
        total = " + ".join(f"{part}={fraction}" for part, fraction in fractions.items())
        raise ValueError(f"the fractions must add up to at most 1, got {total}")


def check_data(
    x: Array, labels: Array, augment: Augmentation | None, standardize: str | None
) -> Array:
    """Refuse inputs and classes that can't be learned from.

    Returns:
        The inputs, with the axis of channels that images may lack.

    Raises:
        ValueError: saying what is wrong, and in which example.
    """
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim not in (2, 4) or not x.size:
        raise ValueError(
            "the inputs must be images (m, C, H, W) or (m, H, W), or features (m, n), got shape "
            f"{x.shape}"
        )
    if x.dtype.kind not in "biuf":
        raise ValueError(f"the inputs must be real numbers, got {x.dtype}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row = int(np.argwhere(~np.isfinite(x))[0][0])
        raise ValueError(f"the inputs must be finite, got NaN or infinity in example {row}")
    # float32 is what the net gets; standardizing sums up squares in float64
    largest, most = max(abs(float(x.max())), abs(float(x.min()))), _LARGEST[standardize == "none"]
    if largest > most:
        raise ValueError(f"the inputs must be at most {most:.0e} in size, got {largest:.3g}")
    if labels.shape != (len(x),):
        raise ValueError(
            f"there must be one class for each of {len(x)} examples, got shape {labels.shape}"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"class of example {int(np.isnan(labels).argmax())} is missing (NaN)")
    if labels.dtype.kind == "O" and len(kinds := {type(label).__name__ for label in labels}) > 1:
        raise ValueError(f"the classes must be of one type, got {', '.join(sorted(kinds))}")
    if len(np.unique(labels)) < 2:
        raise ValueError(f"there must be two classes or more, got {labels[0]} alone")
    if x.ndim == 2 and standardize == "channel":
        raise ValueError("standardize='channel' is for images, and the inputs are features")
    if x.ndim == 2 and augment and augment.moves_pixels:
        strong = [k for k, v in augment.strengths().items() if v and k != "noise"]
        raise ValueError(f"augment.{strong[0]} is for images, and the inputs are features")
    return x
