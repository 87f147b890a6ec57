"""Statistics of what goes through the layers of a module, forward and back, by hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

SATURATED = 0.95  # |tanh z| above it, where tanh' is below 0.1; of a sigmoid likewise

Values = dict[str, float]


class Watch:
    """Hooks on the layers of a module, from now until `remove`.

    A layer is a module without modules in it, or with parameters of its own. Layers that are not
    called are not there; neither are losses (of classes named …Loss), whatever their reduction, nor
    what a layer gives that is no tensor of real numbers, or a single number. A layer that is called
    several times has the statistics of all its calls. The values stay as they are.

    Args:
        module: whose layers; it is not a layer itself.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> watch = Watch(net)
        >>> net(torch.ones(5, 2)).sum().backward()
        >>> watch.remove()
        >>> found = watch.statistics()
        >>> list(found), list(found["1"])
        (['0', '1'], ['activation_rms', 'activation_std', 'idle', 'gradient_rms', 'gradient_norm'])
    """

    def __init__(self, module: nn.Module) -> None:
        self._forward: dict[str, list[Tensor]] = {}  # of each call: n, Σa, Σa², number of idle
        self._backward: dict[str, list[Tensor]] = {}  # n, Σg²
        self._handles: list[Any] = [
            layer.register_forward_hook(self._hook(name))
            for name, layer in module.named_modules()
            if name and _is_layer(layer)
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def statistics(self, scale: float = 1.0) -> dict[str, Values]:
        """Return, by layer in the order of their calls, what went through it.

        Args:
            scale: the factor that the loss had; gradients are divided by it.

        Returns:
            For each layer `activation_rms`, `activation_std`, `idle` (the share of outputs that
            are 0, or in the saturated ends of a sigmoid or tanh), and, if a gradient came by,
            `gradient_rms` and `gradient_norm`, of the loss with respect to the outputs.
        """
        found = {}
        for name, calls in self._forward.items():
            n, total, squares, idle = torch.stack(calls).sum(0).tolist()
            variance = max(0.0, squares / n - (total / n) ** 2)
            found[name] = {
                "activation_rms": math.sqrt(squares / n),
                "activation_std": math.sqrt(variance) if math.isfinite(squares) else math.nan,
                "idle": idle / n,
            }
            if calls := self._backward.get(name, []):
                n, squares = torch.stack(calls).sum(0).tolist()
                norm = math.sqrt(squares) / scale
                found[name] |= {"gradient_rms": norm / math.sqrt(n), "gradient_norm": norm}
        return found

    def _hook(self, name: str) -> Callable[..., None]:
        # A plain function, which a copy of the module takes along without copying this object.
        def forward(layer: nn.Module, inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                a = _wide(tensor)
                shut = _idle(layer, a).sum()
                numbers = [a.new_tensor(a.numel()), a.sum(), a.square().sum(), shut.to(a)]
                self._forward.setdefault(name, []).append(torch.stack(numbers))
                if tensor.requires_grad:
                    handle: Any = tensor.register_hook(backward)  # type: ignore[no-untyped-call]
                    self._handles.append(handle)

        def backward(gradient: Tensor) -> None:
            g = _wide(gradient)
            numbers = torch.stack([g.new_tensor(g.numel()), g.square().sum()])
            self._backward.setdefault(name, []).append(numbers)

        return forward


def _is_layer(module: nn.Module) -> bool:
    if any(kind.__name__.endswith("Loss") for kind in type(module).__mro__):
        return False
    leaf = next(module.children(), None) is None
    return leaf or next(module.parameters(recurse=False), None) is not None


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of real numbers, but single ones, in an output or one level below it."""
    inside = output.values() if isinstance(output, dict) else output
    for item in inside if isinstance(output, dict | list | tuple) else [output]:
        if isinstance(item, Tensor) and item.is_floating_point() and item.dim() and item.numel():
            yield item


def _wide(tensor: Tensor) -> Tensor:
    """In float64, so that squares don't overflow; some devices lack it."""
    tensor = tensor.detach()
    return tensor.float() if tensor.device.type == "mps" else tensor.double()


def _idle(layer: nn.Module, a: Tensor) -> Tensor:
    if isinstance(layer, nn.Sigmoid):
        a = 2 * a - 1  # from -1 to 1, as tanh
    return a.abs() > SATURATED if isinstance(layer, nn.Sigmoid | nn.Tanh) else a == 0
