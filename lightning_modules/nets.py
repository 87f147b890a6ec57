"""Two nets for 8 x 8 images, built from refnet's layers or from torch's: same names, same weights.

Legend: N examples in rows, C channels, H and W height and width in pixels. A layer directly before
a batch norm has no bias: the mean that batch norm subtracts contains it, so it cancels (lecture,
"Batch normalization": z = W a, without b). Rates of dropout are 1 - keep_prob.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from lightning_modules.implementation import Implementation, layers
from refnet import init

Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid"]

_ACTIVATIONS = {
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}


def _activation(name: Activation, implementation: Implementation) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {sorted(_ACTIVATIONS)}, got {name!r}")
    module: nn.Module = getattr(layers(implementation), _ACTIVATIONS[name])()
    return module


def _check_sizes(**sizes: int | Sequence[int]) -> None:
    for name, value in sizes.items():
        numbers = [value] if isinstance(value, int) else value
        if any(number < 1 for number in numbers):
            raise ValueError(f"{name} must be at least 1, got {value}")


def _rates(dropout: float | Sequence[float], count: int, places: str) -> list[float]:
    """One rate for each place: the number that is given everywhere, or a list as it is."""
    rates = [dropout] * count if isinstance(dropout, int | float) else list(dropout)
    if len(rates) != count:
        raise ValueError(f"dropout must be a number or {count}, {places}, got {dropout}")
    if not all(0 <= rate <= 1 for rate in rates):
        raise ValueError(f"dropout must be between 0 and 1, but got {dropout}")
    return rates


def _initialize(net: nn.Module, initialization: str | None, activation: Activation) -> None:
    """Draw the weights again by a rule of the lecture; None leaves torch's own."""
    if initialization is None:
        return
    known = ["by_activation", *init.RULES]
    if initialization not in known:
        raise ValueError(f"initialization must be None or one of {known}, got {initialization!r}")
    by_activation = initialization == "by_activation"
    init.initialize(net, init.for_activation(activation) if by_activation else initialization)


class MLP(nn.Sequential):
    r"""A fully connected net: flatten, then [linear, batch norm, activation, dropout] per layer.

    $z^{[l]} = W^{[l]} a^{[l-1]}, \quad a^{[l]} = g(\mathrm{BN}(z^{[l]}))$, and a linear layer to
    the logits at the end.

    Args:
        in_features: numbers per example (pixels).
        hidden: units of each hidden layer.
        out_features: classes.
        activation: g, of every hidden layer.
        batch_norm: normalize z of every hidden layer (and drop its bias).
        dropout: share of a hidden layer's outputs set to zero in training, 1 - keep_prob, in
            [0, 1]: a number, or one for each hidden layer.
        initialization: how all weights are drawn: "by_activation", the lecture's variance for
            `activation` (2/n_in for ReLU, 1/n_in for tanh, 2/(n_in + n_out) for sigmoid), or a
            name of `refnet.init.RULES`, both with biases of 0; None for the layers' own,
            torch's default.
        implementation: "refnet" or "torch".

    Returns:
        On call: logits (N, out_features) for input (N, *) with in_features numbers per example.

    Raises:
        ValueError: for sizes below 1, dropout outside [0, 1] or not one for each hidden layer,
            unknown activation, initialization or implementation.

    Example:
        >>> import torch
        >>> MLP()(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        >>> MLP(dropout=[0.5, 0.2], initialization="by_activation").dropout2
        Dropout(p=0.2, inplace=False)
    """

    def __init__(
        self,
        in_features: int = 64,
        hidden: Sequence[int] = (256, 128),
        out_features: int = 10,
        activation: Activation = "relu",
        batch_norm: bool = True,
        dropout: float | Sequence[float] = 0.3,
        initialization: str | None = None,
        implementation: Implementation = "refnet",
    ) -> None:
        super().__init__()
        _check_sizes(in_features=in_features, hidden=hidden, out_features=out_features)
        rates = _rates(dropout, len(hidden), "one for each hidden layer")
        of = layers(implementation)
        self.add_module("flatten", nn.Flatten())
        width = in_features
        for i, units in enumerate(hidden, start=1):
            self.add_module(f"linear{i}", of.Linear(width, units, bias=not batch_norm))
            if batch_norm:
                self.add_module(f"norm{i}", of.BatchNorm1d(units))
            self.add_module(f"activation{i}", _activation(activation, implementation))
            self.add_module(f"dropout{i}", of.Dropout(rates[i - 1]))
            width = units
        self.add_module("logits", of.Linear(width, out_features))
        _initialize(self, initialization, activation)


class ConvNet(nn.Sequential):
    """A small convolutional net: blocks of two 3 x 3 convolutions and a halving, one hidden layer.

    Each convolution is followed by batch norm and activation; the hidden layer too. `torch.nn`
    gives the convolution and the pooling in both implementations, all else follows
    `implementation`.

    Args:
        in_channels: channels of the image.
        image_size: height and width in pixels, one number for both or two, divisible by 2 to the
            number of blocks.
        channels: channels of each block.
        hidden: units of the hidden layer.
        out_features: classes.
        activation: after every batch norm.
        batch_norm: normalize each convolution and the hidden layer (and drop their biases).
        dropout: share of outputs set to zero in training, 1 - keep_prob, in [0, 1]: a number, or
            two, before and after the hidden layer.
        initialization: how all weights are drawn: "by_activation", the lecture's variance for
            `activation` (2/n_in for ReLU, 1/n_in for tanh, 2/(n_in + n_out) for sigmoid), or a
            name of `refnet.init.RULES`, both with biases of 0; None for the layers' own,
            torch's default.
        implementation: "refnet" or "torch".

    Returns:
        On call: logits (N, out_features) for input (N, in_channels, height, width).

    Raises:
        ValueError: for sizes below 1, an image that cannot be halved so often, dropout outside
            [0, 1] or of another length than 2, unknown activation, initialization or
            implementation.

    Example:
        >>> import torch
        >>> ConvNet(channels=[4, 8], hidden=16)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: int | tuple[int, int] = 8,
        channels: Sequence[int] = (32, 64),
        hidden: int = 128,
        out_features: int = 10,
        activation: Activation = "relu",
        batch_norm: bool = True,
        dropout: float | Sequence[float] = 0.5,
        initialization: str | None = None,
        implementation: Implementation = "refnet",
    ) -> None:
        super().__init__()
        height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
        _check_sizes(in_channels=in_channels, image_size=(height, width), channels=channels)
        _check_sizes(hidden=hidden, out_features=out_features)
        halvings = 2 ** len(channels)
        if height % halvings or width % halvings:
            raise ValueError(
                f"image_size must be divisible by 2**{len(channels)} for {len(channels)} blocks of "
                f"channels, got {image_size}"
            )
        rates = _rates(dropout, 2, "before and after the hidden layer")
        of = layers(implementation)
        depth, pixels = in_channels, height * width // halvings**2
        for i, width in enumerate(channels, start=1):
            for part in "ab":
                conv = nn.Conv2d(depth, width, kernel_size=3, padding=1, bias=not batch_norm)
                self.add_module(f"conv{i}{part}", conv)  # (N, width, H, W)
                if batch_norm:
                    self.add_module(f"norm{i}{part}", of.BatchNorm2d(width))
                self.add_module(f"activation{i}{part}", _activation(activation, implementation))
                depth = width
            self.add_module(f"pool{i}", nn.MaxPool2d(2))  # (N, width, H / 2, W / 2)
        self.add_module("flatten", nn.Flatten())
        self.add_module("dropout1", of.Dropout(rates[0]))
        self.add_module("linear", of.Linear(depth * pixels, hidden, bias=not batch_norm))
        if batch_norm:
            self.add_module("norm", of.BatchNorm1d(hidden))
        self.add_module("activation", _activation(activation, implementation))
        self.add_module("dropout2", of.Dropout(rates[1]))
        self.add_module("logits", of.Linear(hidden, out_features))
        _initialize(self, initialization, activation)
