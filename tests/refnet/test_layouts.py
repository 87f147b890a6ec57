"""Results lie in memory as the builtins' do: whoever calls `view` on one may go on doing so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from refnet import functional

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda t: t,
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "sliced": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:1].expand(t.shape),
}
OPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "batch_norm": lambda f, x: f.batch_norm(x, None, None, training=True),
    "batch_norm eval": lambda f, x: f.batch_norm(x, torch.zeros(5), torch.ones(5)),
    "dropout": lambda f, x: f.dropout(x, 0.5),
    "dropout1d": lambda f, x: f.dropout1d(x, 0.5) if x.dim() < 4 else x * 1,
    "softmax": lambda f, x: f.softmax(x, 1),
    "log_softmax": lambda f, x: f.log_softmax(x, -1),
    "linear": lambda f, x: f.linear(x, torch.ones(3, x.shape[-1])),
    "relu": lambda f, x: f.relu(x),
    "leaky_relu": lambda f, x: f.leaky_relu(x),
    "tanh": lambda f, x: f.tanh(x),
    "sigmoid": lambda f, x: f.sigmoid(x),
}


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 3, 2), (2, 5, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPS)
def test_strides_of_results(name: str, layout: str, shape: tuple[int, ...]) -> None:
    outputs = [OPS[name](f, LAYOUTS[layout](torch.randn(shape))) for f in (functional, F)]
    assert outputs[0].stride() == outputs[1].stride()


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (4, 5, 3, 2), (2, 5, 3, 2, 2)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "transposed", "sliced"])
@pytest.mark.parametrize("name", [name for name in OPS if name != "linear"])
def test_strides_of_gradients(name: str, layout: str, shape: tuple[int, ...]) -> None:
    gradients = []
    for f in (functional, F):
        x = LAYOUTS[layout](torch.randn(shape)).requires_grad_()
        y = OPS[name](f, x)
        gradients += torch.autograd.grad(y, x, torch.randn_like(y))
    assert gradients[0].stride() == gradients[1].stride()


@pytest.mark.filterwarnings("ignore:.* should not be instantiated")  # torch, of its own compiler
@pytest.mark.parametrize("training", [True, False])
def test_compiled_batch_norm_too(training: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(functional.batch_norm, backend="aot_eager", fullgraph=True)
    for x in (
        torch.randn(4, 5, 3, 2).to(memory_format=torch.channels_last),
        torch.randn(4, 3, 5).transpose(1, 2),
    ):
        arguments = (torch.zeros(5), torch.ones(5), None, None, training)
        assert compiled(x, *arguments).stride() == F.batch_norm(x, *arguments).stride()
