r"""Initial weights: the lecture's three variances, each as a normal and as a uniform distribution.

var(w) = 1/n_in (tanh), 2/n_in (ReLU), 2/(n_in + n_out); a uniform one on [−b, b] has var b²/3

Under the field's names (LeCun, Kaiming or He, Xavier or Glorot), with torch's signatures, and the
very draws of `torch.nn.init` where it has the rule. Legend: n_in and n_out, the numbers that a unit
takes in and gives out: of a convolution, channels × places of the kernel.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = [
    "RULES",
    "fans",
    "for_activation",
    "initialize",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "xavier_normal_",
    "xavier_uniform_",
]

Mode = Literal["fan_in", "fan_out"]


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return n_in and n_out of a weight.

    Args:
        tensor: (n_out, n_in), or (channels out, channels in per group, *kernel).

    Raises:
        ValueError: it has fewer than two dimensions.

    Example:
        >>> fans(torch.empty(6, 4)), fans(torch.empty(8, 3, 5, 5))
        ((4, 6), (75, 200))
    """
    if tensor.dim() < 2:
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions, got "
            f"shape {tuple(tensor.shape)}"
        )
    outputs, inputs, *kernel = tensor.shape
    places = math.prod(kernel)
    return inputs * places, outputs * places


def lecun_normal_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    r"""Fill a weight before a tanh: var(w) = 1/n_in, normal.

    Args:
        tensor: the weight, filled in place.
        generator: draws the numbers; by default torch's own.

    Returns:
        The tensor.

    Raises:
        ValueError: it has fewer than two dimensions.

    Example:
        >>> w = lecun_normal_(torch.empty(500, 400), torch.Generator().manual_seed(0))
        >>> round(400 * float(w.var()), 2)
        1.0

    Source: lecture, "Weight Initialization in a Deep Network". In torch it is
    `kaiming_normal_(tensor, nonlinearity="linear")`, with the same draws.
    """
    return _normal(tensor, _kaiming(tensor, 0, "fan_in", "linear"), generator)


def lecun_uniform_(tensor: Tensor, generator: Generator | None = None) -> Tensor:
    r"""Fill a weight before a tanh: var(w) = 1/n_in, uniform.

    As `lecun_normal_`, with w on [−√(3/n_in), √(3/n_in)].

    Example:
        >>> w = lecun_uniform_(torch.empty(500, 300), torch.Generator().manual_seed(0))
        >>> round(300 * float(w.var()), 2), float(w.abs().max()) <= 0.1
        (1.0, True)
    """
    return _uniform(tensor, _kaiming(tensor, 0, "fan_in", "linear"), generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    r"""Fill a weight before a ReLU: var(w) = 2/n_in, normal; gain²/n for other activations.

    Args:
        tensor: the weight, filled in place.
        a: the negative slope of a leaky ReLU, whose gain² is 2/(1 + a²).
        mode: "fan_in" for n = n_in, which keeps the size of activations; "fan_out" for n_out,
            which keeps that of gradients.
        nonlinearity: "relu", "leaky_relu", "linear", "sigmoid", "tanh", …, as in torch.
        generator: draws the numbers; by default torch's own.

    Returns:
        The tensor.

    Raises:
        ValueError: fewer than two dimensions, an unknown mode or nonlinearity.

    Example:
        >>> w = kaiming_normal_(torch.empty(500, 400), generator=torch.Generator().manual_seed(0))
        >>> round(400 * float(w.var()), 2)
        2.0

    Source: lecture, "Weight Initialization in a Deep Network".
    """
    return _normal(tensor, _kaiming(tensor, a, mode, nonlinearity), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: Mode = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    r"""Fill a weight before a ReLU: var(w) = 2/n_in, uniform.

    As `kaiming_normal_`, with w on [−√3·s, √3·s] for a standard deviation s.

    Example:
        >>> w = kaiming_uniform_(torch.empty(500, 400), generator=torch.Generator().manual_seed(0))
        >>> round(400 * float(w.var()), 2)
        2.0
    """
    return _uniform(tensor, _kaiming(tensor, a, mode, nonlinearity), generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    r"""Fill a weight by what goes in and out: var(w) = gain² · 2/(n_in + n_out), normal.

    Args:
        tensor: the weight, filled in place.
        gain: a factor for the standard deviation.
        generator: draws the numbers; by default torch's own.

    Returns:
        The tensor.

    Raises:
        ValueError: it has fewer than two dimensions.

    Example:
        >>> w = xavier_normal_(torch.empty(500, 300), generator=torch.Generator().manual_seed(0))
        >>> round(400 * float(w.var()), 2)
        1.0

    Source: lecture, "Weight Initialization in a Deep Network".
    """
    return _normal(tensor, _xavier(tensor, gain), generator)


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    r"""Fill a weight by what goes in and out: var(w) = gain² · 2/(n_in + n_out), uniform.

    As `xavier_normal_`.

    Example:
        >>> w = xavier_uniform_(torch.empty(500, 300), generator=torch.Generator().manual_seed(0))
        >>> round(400 * float(w.var()), 2)
        1.0
    """
    return _uniform(tensor, _xavier(tensor, gain), generator)


def _relu(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def fill(tensor: Tensor, generator: Generator | None = None) -> Tensor:
        return draw(tensor, nonlinearity="relu", generator=generator)

    return fill


RULES: Mapping[str, Callable[..., Tensor]] = {
    "lecun_normal": lecun_normal_,
    "lecun_uniform": lecun_uniform_,
    "kaiming_normal": _relu(kaiming_normal_),
    "kaiming_uniform": _relu(kaiming_uniform_),
    "xavier_normal": xavier_normal_,
    "xavier_uniform": xavier_uniform_,
}
_BY_ACTIVATION = {
    "relu": "kaiming_normal",
    "leaky_relu": "kaiming_normal",
    "tanh": "lecun_normal",
    "sigmoid": "xavier_normal",  # σ'(0) = 1/4 lets no rule keep the gradient's size
}


def for_activation(activation: str) -> str:
    """Return the name of the lecture's rule for the layers before an activation.

    Args:
        activation: "relu", "leaky_relu", "tanh" or "sigmoid".

    Raises:
        ValueError: it is another.

    Example:
        >>> for_activation("tanh"), for_activation("relu")
        ('lecun_normal', 'kaiming_normal')

    Source: lecture, "Weight Initialization in a Deep Network".
    """
    if activation not in _BY_ACTIVATION:
        raise ValueError(f"activation must be one of {sorted(_BY_ACTIVATION)}, got {activation!r}")
    return _BY_ACTIVATION[activation]


_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def initialize(
    module: nn.Module, rule: str, *, zero_bias: bool = True, generator: Generator | None = None
) -> nn.Module:
    """Fill the weights of all linear and convolutional layers by one rule, their biases with 0.

    A transposed convolution's weight, (channels in, channels out per group, *kernel), is filled by
    what its units take in, as if it were a convolution's: n_in is channels in per group × places of
    the kernel. (A stride of s lets a unit meet one place in s along each dimension, which n_in
    leaves out.)

    Args:
        module: a layer or a net, of torch or of refnet.
        rule: one of `RULES`.
        zero_bias: False leaves the biases as they are.
        generator: draws the numbers; by default torch's own.

    Returns:
        The module.

    Raises:
        ValueError: an unknown rule, a layer without a shape yet (a lazy one), or one that computes
            its weight or bias from other parameters (weight norm, pruning, any parametrization).

    Example:
        >>> net = nn.Sequential(nn.Linear(400, 300), nn.Tanh(), nn.Linear(300, 10))
        >>> seeded = torch.Generator().manual_seed(0)
        >>> net = initialize(net, for_activation("tanh"), generator=seeded)
        >>> round(400 * float(net[0].weight.detach().var()), 2), net[2].bias.tolist() == [0.0] * 10
        (1.0, True)

    Source: lecture, "Weight Initialization in a Deep Network".

    Differs from torch: its rules, as ours alone, see a tensor without its layer, and take n_out for
    n_in in a transposed convolution.
    """
    if rule not in RULES:
        raise ValueError(f"rule must be one of {sorted(RULES)}, got {rule!r}")
    layers = [(n, m) for n, m in module.named_modules() if isinstance(m, _LAYERS)]
    for name, layer in layers:  # before anything is filled
        for part in ("weight", "bias") if zero_bias else ("weight",):
            if part not in layer._parameters:  # where one that is None stands, too
                raise ValueError(
                    f"module: {part} of {name!r} is computed from other parameters; initialize the "
                    "layer before that is set up (weight norm, pruning, another parametrization)"
                )
        if is_lazy(layer.weight):
            raise ValueError(f"module: {name!r} has no shape yet; run a batch through it first")
    for _, layer in layers:
        for weight in _as_seen_by_units(layer):
            RULES[rule](weight, generator=generator)
        if zero_bias and layer.bias is not None:
            with torch.no_grad():
                layer.bias.zero_()
    return module


def _as_seen_by_units(layer: nn.Module) -> list[Tensor]:
    """Return views of the weight whose first dimensions are (out, in)."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    if not isinstance(layer, _TRANSPOSED):
        return [weight]
    return [group.transpose(0, 1) for group in weight.chunk(layer.groups)]


# torch's gains, of the standard deviation
_GAINS: Mapping[str, float] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "sigmoid"), 1.0),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), 1.0),
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


def _kaiming(tensor: Tensor, a: Any, mode: str, nonlinearity: str) -> float:
    """Return the standard deviation gain/√n; 0 where there is nothing to fill."""
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return 0.0
    if mode.lower() not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    n = fans(tensor)[mode.lower() == "fan_out"]
    if nonlinearity == "leaky_relu":
        if isinstance(a, bool) or not isinstance(a, int | float):
            raise ValueError(f"negative_slope {a} not a valid number")
        return math.sqrt(2 / (1 + a**2)) / math.sqrt(n)
    if nonlinearity not in _GAINS:
        raise ValueError(f"Unsupported nonlinearity {nonlinearity}")
    return _GAINS[nonlinearity] / math.sqrt(n)


def _xavier(tensor: Tensor, gain: float) -> float:
    n = sum(fans(tensor))
    return gain * math.sqrt(2 / n) if n else 0.0


def _normal(tensor: Tensor, std: float, generator: Generator | None) -> Tensor:
    with torch.no_grad():
        return tensor.normal_(0, std, generator=generator)


def _uniform(tensor: Tensor, std: float, generator: Generator | None) -> Tensor:
    b = math.sqrt(3) * std
    with torch.no_grad():
        return tensor.uniform_(-b, b, generator=generator)
