"""Hand-written means hand-written: which aten operators run, and which nodes are in the graph."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import refnet
from lightning_modules import MLP, ConvNet
from refnet import functional

# Parts of the names of operators that are what refnet writes itself, forward or backward.
BUILTIN = (
    "softmax", "logsumexp", "batch_norm", "dropout", "nll", "cross_entropy", "relu", "threshold",
    "sigmoid", "tanh_backward", "linear", "addmm", "var", "std", "clamp", "nan_to_num",
    "fused", "_foreach", "sgd", "adam",
)  # fmt: skip


class Recorder(TorchDispatchMode):
    """Keeps the name of every aten operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def builtin(self) -> set[str]:
        return {name for name in self.names if any(part in name for part in BUILTIN)}


def nodes(output: Tensor) -> Iterator[Any]:
    """Every node of the graph behind a tensor."""
    pending, seen = [output.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            pending += [following for following, _ in node.next_functions]


def is_ours(node: Any) -> bool:
    """Whether a node is the backward of one of refnet's Functions."""
    function = getattr(type(node), "_forward_cls", None)
    return function is not None and function.__module__.startswith("refnet.")


X = torch.randn(6, 5)
Y = torch.tensor([0, 4, 2, 1, 1, 3])
OPS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "batch_norm": lambda f, x: f.batch_norm(
        x, torch.zeros(5), torch.ones(5), x.new_ones(5), x.new_zeros(5), True
    ),
    "batch_norm eval": lambda f, x: f.batch_norm(x, torch.zeros(5), torch.ones(5)),
    "dropout": lambda f, x: f.dropout(x, 0.3),
    "softmax": lambda f, x: f.softmax(x, 1),
    "log_softmax": lambda f, x: f.log_softmax(x, 1),
    "cross_entropy": lambda f, x: f.cross_entropy(
        x, Y, x.new_ones(5), ignore_index=1, label_smoothing=0.1
    ),
    "cross_entropy of probabilities": lambda f, x: f.cross_entropy(x, torch.full((6, 5), 0.2)),
    "linear": lambda f, x: f.linear(x, x.new_ones(3, 5), x.new_zeros(3)),
    "relu": lambda f, x: f.relu(x),
    "leaky_relu": lambda f, x: f.leaky_relu(x, 0.2),
    "tanh": lambda f, x: f.tanh(x),
    "sigmoid": lambda f, x: f.sigmoid(x),
}


def record(call: Callable[[Any, Tensor], Tensor], namespace: Any) -> tuple[Recorder, Tensor]:
    x = X.clone().requires_grad_()
    with Recorder() as recorder:
        output = call(namespace, x)
        output.backward(torch.randn_like(output))
    return recorder, call(namespace, x)


@pytest.mark.parametrize("name", OPS)
def test_no_builtin_operator_runs_and_one_node_is_ours(name: str) -> None:
    recorder, output = record(OPS[name], functional)
    assert recorder.builtin() == set()
    found = [node for node in nodes(output) if type(node).__name__ != "AccumulateGrad"]
    assert [is_ours(node) for node in found] == [True]


@pytest.mark.parametrize("name", [n for n in OPS if n != "dropout"])
def test_the_check_sees_the_builtins(name: str) -> None:
    recorder, output = record(OPS[name], F)
    assert recorder.builtin() or name == "tanh"
    assert not any(is_ours(node) for node in nodes(output))


@pytest.mark.parametrize("net", [MLP, ConvNet])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid"])
def test_a_training_step_of_a_net(net: type[nn.Module], activation: str) -> None:
    model = net(activation=activation)
    optimizer = refnet.optim.Adam(model.parameters())
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
    with Recorder() as recorder:
        loss = refnet.nn.CrossEntropyLoss()(model(images), labels)
        loss.backward()
        optimizer.step()
    assert recorder.builtin() == set()
    # What is not ours: the convolution and the pooling, and changes of shape.
    others = {type(node).__name__ for node in nodes(loss) if not is_ours(node)}
    allowed = {"AccumulateGrad", "ViewBackward0", "UnsafeViewBackward0"}
    if net is ConvNet:
        allowed |= {"ConvolutionBackward0", "MaxPool2DWithIndicesBackward0"}
    assert others <= allowed


def test_no_op_asks_autograd_for_a_derivative() -> None:
    """A backward runs without recording; only these could get it a derivative all the same."""
    asking = re.compile(r"enable_grad|set_grad_|autograd\.grad|\.backward\(\)|\bvjp\b|jacobian")
    sources = list(Path(refnet.__file__).parent.glob("ops/**/*.py"))
    assert len(sources) >= 13
    assert [str(path) for path in sources if asking.search(path.read_text())] == []
