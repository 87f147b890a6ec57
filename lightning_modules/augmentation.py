"""Images varied at random in ways that keep their class: mirrored, shifted, turned, zoomed, noisy.

Legend: N images, C channels, H and W height and width in pixels; x to the right, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import Dataset, TensorDataset, get_worker_info

_LARGEST = {"flip": 1.0, "rotate": 180.0}  # the others have no end


@dataclass(frozen=True)
class Augmentation:
    """How strongly training images are varied; 0 leaves that variation out.

    Each image of each mini-batch gets numbers of its own, drawn from [-strength, strength]; what
    comes in at an edge is the edge's own pixel. Strengths that change the class are a mistake that
    only people can see (a 6 turned by 180° is a 9): look at
    `python -m lightning_modules.data_samples`.

    Args:
        flip: share of the images that are mirrored left to right, in [0, 1]. Not for digits.
        shift: pixels, to the sides and up or down, each.
        rotate: degrees, at most 180.
        zoom: larger or smaller by up to this share: 0.1 is a factor from 1/1.1 to 1.1.
        distort: how far a slant moves a pixel sideways, per pixel of height.
        noise: standard deviation of what is added to each pixel, whose own is about 1.

    Raises:
        ValueError: naming the argument, if it is negative, too large or not finite.

    Example:
        >>> images, generator = torch.rand(5, 1, 8, 8), torch.Generator().manual_seed(0)
        >>> Augmentation(rotate=10, noise=0.1)(images, generator).shape
        torch.Size([5, 1, 8, 8])
        >>> torch.equal(Augmentation()(images, generator), images)
        True

    Source: lecture, "Other regularization methods (data augmentation)".
    """

    flip: float = 0.0
    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    distort: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, strength in self.strengths().items():
            largest = _LARGEST.get(name, math.inf)
            if not 0 <= strength <= largest or math.isinf(strength):
                wanted = f"in [0, {largest:g}]" if name in _LARGEST else "0 or more"
                raise ValueError(f"augment.{name} must be {wanted}, got {strength}")

    def strengths(self) -> dict[str, float]:
        """Return the six strengths by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def moves_pixels(self) -> bool:
        """Tell whether this is for images alone; noise is for any numbers."""
        return any(strength for name, strength in self.strengths().items() if name != "noise")

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return a batch varied at random; x itself if every strength is 0.

        Args:
            x: images (N, C, H, W), or any (N, ...) where there is noise alone.
            generator: on the CPU; gives the same numbers whichever strengths are 0.
        """
        n = len(x)
        draws = torch.rand(6, n, generator=generator)  # before the ifs: see generator
        noise = torch.randn(x.shape, generator=generator)
        mirrored, (right, down, angle, size, slant) = draws[0], 2 * draws[1:] - 1  # (n,) each
        if self.flip:
            x = torch.where((mirrored < self.flip).view(n, 1, 1, 1), x.flip(-1), x)
        if self.shift or self.rotate or self.zoom or self.distort:
            x = affine(
                x,
                shift=self.shift * torch.stack([right, down], dim=1),
                rotate=self.rotate * angle,
                zoom=(1 + self.zoom) ** size,
                slant=self.distort * slant,
            )
        return x + self.noise * noise if self.noise else x


def affine(x: Tensor, *, shift: Tensor, rotate: Tensor, zoom: Tensor, slant: Tensor) -> Tensor:
    r"""Slant, zoom, turn (about the middle) and shift each image, in this order.

    A pixel at $p$ from the middle moves to $A p + t$ with
    $A = s \begin{pmatrix} \cos\varphi & -\sin\varphi \\ \sin\varphi & \cos\varphi \end{pmatrix}
    \begin{pmatrix} 1 & k \\ 0 & 1 \end{pmatrix}$; between pixels the values are interpolated.

    Args:
        x: images, (N, C, H, W).
        shift: t, pixels to the right and down, (N, 2).
        rotate: φ, degrees clockwise, (N,).
        zoom: s, factor, above 0, (N,).
        slant: k, (N,).

    Returns:
        Images, (N, C, H, W).

    Example:
        >>> image = torch.arange(3.0).expand(1, 1, 3, 3)
        >>> still = torch.zeros(1)
        >>> one_right = torch.tensor([[1.0, 0.0]])
        >>> affine(image, shift=one_right, rotate=still, zoom=still + 1, slant=still)[0, 0, 0]
        tensor([0., 0., 1.])
    """
    height, width = x.shape[-2:]
    cos, sin = torch.cos(rotate.deg2rad()), torch.sin(rotate.deg2rad())
    # grid_sample asks where each pixel of the result comes from: q = A⁻¹ (p - t), (N, 2, 2).
    inverse = torch.stack(
        [cos + slant * sin, sin - slant * cos, -sin, cos], dim=1
    ).view(-1, 2, 2) / zoom.view(-1, 1, 1)  # fmt: skip
    # It measures from the middle in halves of the width and of the height.
    half = torch.tensor([width / 2, height / 2])
    matrix = inverse * half / half.view(2, 1)
    origin = -(inverse @ shift.unsqueeze(2)) / half.view(2, 1)  # (N, 2, 1)
    theta = torch.cat([matrix, origin], dim=2).to(x)  # (N, 2, 3)
    grid = affine_grid(theta, list(x.shape), align_corners=False)
    return grid_sample(x, grid, padding_mode="border", align_corners=False)


class Augmented(Dataset[tuple[Tensor, ...]]):
    """A training set whose inputs are varied anew each time that they are asked for.

    Args:
        data: inputs (m, ...) and labels (m,).
        augmentation: what is done to the inputs.
        generator: draws what is random. A worker process has a copy, seeded by `seed_worker`.
    """

    def __init__(
        self, data: TensorDataset, augmentation: Augmentation, generator: torch.Generator
    ) -> None:
        self.data, self.augmentation, self.generator = data, augmentation, generator

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        x, label = self.__getitems__([index])
        return x[0], label[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, ...]:
        """Return a whole mini-batch, which is what a DataLoader asks for if it can."""
        x, labels = self.data[list(indices)]
        return self.augmentation(x, self.generator), labels


def seed_worker(worker: int) -> None:
    """Seed a worker's copy of the generator; the seed is drawn each epoch, by the order's."""
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, Augmented):
        info.dataset.generator.manual_seed(info.seed)
