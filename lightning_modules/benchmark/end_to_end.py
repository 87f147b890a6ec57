"""Training steps per second of the shipped nets: forward, loss, backward, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch

import refnet.optim
from lightning_modules.implementation import Implementation, layers
from lightning_modules.nets import MLP, ConvNet

BATCH = 64
NETS: dict[str, Callable[..., torch.nn.Module]] = {"MLP": MLP, "ConvNet": ConvNet}


def training_steps(net: str, device: str = "cpu") -> dict[str, Callable[[], object]]:
    """Return for each implementation a function that trains a net by one step.

    Args:
        net: "MLP" or "ConvNet", at its default size.
        device: "cpu", in float32; or "cuda", under autocast to bfloat16.

    Example:
        >>> [float(step().detach()) > 0 for step in training_steps("MLP").values()]
        [True, True]
    """
    return {name: _step(net, name, device) for name in get_args(Implementation)}


def _step(net: str, implementation: Implementation, device: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 1, 8, 8, generator=generator).to(device)
    y = torch.randint(10, (BATCH,), generator=generator).to(device)
    model = NETS[net](implementation=implementation).to(device)
    lower = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    criterion = layers(implementation).CrossEntropyLoss()
    optimizers: Any = refnet.optim if implementation == "refnet" else torch.optim
    # What torch itself calls its fastest.
    options = {} if implementation == "refnet" else {"fused": True}
    optimizer = optimizers.Adam(model.parameters(), lr=1e-4, **options)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with lower:
            loss: torch.Tensor = criterion(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step
