"""What a graph keeps, and what may be changed before it is walked: as with the builtins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import refnet
from refnet import functional

BOTH = pytest.mark.parametrize("f", [functional, F], ids=["refnet", "torch"])


@BOTH
def test_the_output_of_leaky_relu_may_be_changed(f: Any) -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    h = f.leaky_relu(x * 1)
    h += 1
    h.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.01, 1.0]))


@BOTH
@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_a_second_derivative_of_zero_is_there(f: Any, name: str) -> None:
    x = torch.tensor([-1.0, 2.0, float("inf")], requires_grad=True)
    (gradient,) = torch.autograd.grad(getattr(f, name)(x).sum(), x, create_graph=True)
    assert gradient.requires_grad
    (gradient**2).sum().backward()
    assert x.grad.tolist() == [0, 0, 0]


def bytes_kept(call: Callable[[], Tensor], held: list[Tensor]) -> int:
    """Bytes that a graph keeps beside the tensors that the caller holds."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = call()
    for tensor in (*held, output):
        kept.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(kept.values())


@pytest.mark.parametrize(("needs_input", "needs_weight"), [(True, False), (False, True)])
def test_linear_keeps_only_what_a_gradient_needs(needs_input: bool, needs_weight: bool) -> None:
    a = torch.randn(50, 4, requires_grad=needs_input)
    w = torch.randn(3, 4, requires_grad=needs_weight)
    b = torch.randn(3, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        functional.linear(a, w, b)
    assert [t.shape for t in kept] == [w.shape if needs_input else a.shape]


@pytest.mark.parametrize("changed", ["bias", "weight", "input"])
def test_what_a_gradient_does_not_need_may_be_changed(changed: str) -> None:
    a = torch.ones(5, 4, requires_grad=changed == "input")
    w = torch.ones(3, 4, requires_grad=changed != "input")
    b = torch.ones(3, requires_grad=True)
    z = a * 1
    y = functional.linear(z, w, b)
    with torch.no_grad():
        {"bias": b, "weight": w, "input": z}[changed].mul_(2)
    y.sum().backward()
    assert b.grad.tolist() == [5, 5, 5]


MEMORY: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "batch_norm": lambda f, x: f.batch_norm(x, None, None, training=True),
    "dropout": lambda f, x: f.dropout(x, 0.5),
    "softmax": lambda f, x: f.softmax(x, 1),
    "log_softmax": lambda f, x: f.log_softmax(x, 1),
    "cross_entropy": lambda f, x: f.cross_entropy(x, torch.arange(200) % 30),
    "linear": lambda f, x: f.linear(x, torch.ones(30, 30)),
    "relu": lambda f, x: f.relu(x),
    "leaky_relu": lambda f, x: f.leaky_relu(x),
    "tanh": lambda f, x: f.tanh(x),
    "sigmoid": lambda f, x: f.sigmoid(x),
}


@pytest.mark.parametrize("name", MEMORY)
def test_no_more_is_kept_than_by_the_builtin(name: str) -> None:
    x = torch.randn(200, 30, requires_grad=True)
    ours, theirs = (bytes_kept(lambda f=f: MEMORY[name](f, x), [x]) for f in (functional, F))
    per_row_or_channel = 8 * max(x.shape)  # in float64, where the builtin has float32
    assert ours <= theirs + per_row_or_channel


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_keeps_channels_last(training: bool) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = functional.batch_norm(x, torch.zeros(3), torch.ones(3), training=training)
    (gradient,) = torch.autograd.grad(y.mean((2, 3)).pow(2).sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_scalars_as_tensors() -> None:
    x = torch.tensor([-1.0, 2.0])
    slope = torch.tensor(0.3)
    assert torch.equal(functional.leaky_relu(x, slope), F.leaky_relu(x, slope))
    one = torch.tensor(1.0)
    assert functional.linear(torch.ones(5), torch.ones(5), one) == 6


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_a_learning_rate_of_one_element_moves_a_number(name: str) -> None:
    results = []
    for namespace in (refnet.optim, torch.optim):
        w = torch.nn.Parameter(torch.ones(()))
        w.grad = torch.tensor(0.5)
        getattr(namespace, name)([w], lr=torch.tensor([0.1])).step()
        results.append(w)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["batch_norm", "dropout", "linear", "cross_entropy", "softmax"])
def test_a_list_is_no_tensor(name: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "batch_norm": ([1.0], None, None),
        "linear": ([1.0], torch.ones(1, 1)),
        "cross_entropy": (torch.ones(1, 2), [0]),
        "softmax": ([1.0], 0),
    }
    with pytest.raises(TypeError, match="must be Tensor, not list"):
        getattr(functional, name)(*arguments.get(name, ([1.0],)))
