"""Second derivatives, forward mode, vmap, compile: what follows from differentiable references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from refnet import functional as R

# What torch says of its own forward mode and of its own compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated"),
]

double = {"dtype": torch.float64}
x = torch.randn(5, 3, **double, requires_grad=True)
gamma, beta = (torch.randn(3, **double, requires_grad=True) for _ in range(2))
weight, bias = (torch.randn(*shape, **double, requires_grad=True) for shape in ((4, 3), (4,)))
soft = torch.rand(5, 3, **double, requires_grad=True)
y, of_class = torch.tensor([0, 2, 1, 1, 0]), torch.rand(3, **double)
mean, var = torch.randn(3, **double), torch.rand(3, **double) + 0.5
mask = torch.tensor([[True, False, True]]).expand(5, 3)

CASES: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "batch_norm": (lambda x, w, b: R.batch_norm(x, None, None, w, b, True), (x, gamma, beta)),
    "batch_norm eval": (lambda x, w, b: R.batch_norm(x, mean, var, w, b), (x, gamma, beta)),
    "dropout": (lambda x: R.dropout(x, 0.3, mask=mask), (x,)),
    "softmax": (lambda x: R.softmax(x, 1), (x,)),
    "log_softmax": (lambda x: R.log_softmax(x, 0), (x,)),
    "cross_entropy": (
        lambda x: R.cross_entropy(x, y, of_class, ignore_index=1, label_smoothing=0.1),
        (x,),
    ),
    "cross_entropy per row": (lambda x: R.cross_entropy(x, y, reduction="none"), (x,)),
    "cross_entropy of probabilities": (
        lambda x, q: R.cross_entropy(x, q, of_class, label_smoothing=0.1),
        (x, soft),
    ),
    "linear": (R.linear, (x, weight, bias)),
    "relu": (R.relu, (x,)),
    "leaky_relu": (lambda x: R.leaky_relu(x, 0.2), (x,)),
    "leaky_relu, negative slope": (lambda x: R.leaky_relu(x, -0.2), (x,)),
    "tanh": (R.tanh, (x,)),
    "sigmoid": (R.sigmoid, (x,)),
    "sigmoid at 0": (R.sigmoid, (torch.zeros(3, **double, requires_grad=True),)),
}
every = pytest.mark.parametrize(("function", "inputs"), CASES.values(), ids=CASES)


@every
def test_gradcheck(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    assert gradcheck(
        function,
        inputs,
        check_batched_grad=True,
        check_forward_ad=True,
        check_batched_forward_grad=True,
    )


@every
def test_gradgradcheck(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    assert gradgradcheck(function, inputs, check_batched_grad=True, check_fwd_over_rev=True)


@every
def test_vmap(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> None:
    first, *others = (t.detach() for t in inputs)
    stacked = torch.stack([first, first + 1])
    in_dims = (0, *[None] * len(others))
    result = torch.func.vmap(function, in_dims)(stacked, *others)
    torch.testing.assert_close(result[1], function(first + 1, *others))


@every
def test_compile_without_graph_breaks(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    result, expected = compiled(*inputs), function(*inputs)
    torch.testing.assert_close(result, expected)
    cotangent = torch.randn_like(expected)
    ours: Any = torch.autograd.grad(result, inputs, cotangent)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, inputs, cotangent))


def test_constant_statistics_would_show() -> None:
    """The second derivative of batch norm goes through its statistics."""
    function, inputs = CASES["batch_norm"]
    z = inputs[0]
    (first,) = torch.autograd.grad(function(*inputs).pow(3).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.pow(2).sum(), z)
    torch_first = torch.nn.functional.batch_norm(z, None, None, gamma, beta, True).pow(3).sum()
    (expected,) = torch.autograd.grad(torch_first, z, create_graph=True)
    (expected,) = torch.autograd.grad(expected.pow(2).sum(), z)
    torch.testing.assert_close(second, expected)
    assert second.abs().max() > 1e-6
