"""Modules: torch's names, signatures, state dicts, and results beside torch's own."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import refnet
from refnet import functional, use_backend

LAYERS: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...]]] = {
    "BatchNorm1d": ((5,), {}, (8, 5)),
    "BatchNorm2d": ((5,), {"momentum": None}, (4, 5, 3, 3)),
    "BatchNorm3d": ((5,), {"affine": False}, (2, 5, 3, 2, 2)),
    "Dropout": ((0.3,), {}, (8, 5)),
    "Dropout1d": ((0.3,), {}, (8, 5, 3)),
    "Dropout2d": ((0.3,), {}, (8, 5, 3, 2)),
    "Dropout3d": ((0.3,), {}, (8, 5, 2, 3, 2)),
    "Softmax": ((1,), {}, (8, 5)),
    "LogSoftmax": ((1,), {}, (8, 5)),
    "Linear": ((5, 4), {}, (8, 5)),
    "ReLU": ((), {}, (8, 5)),
    "LeakyReLU": ((0.2,), {}, (8, 5)),
    "Tanh": ((), {}, (8, 5)),
    "Sigmoid": ((), {}, (8, 5)),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    args, options, _ = LAYERS[name]
    torch.manual_seed(0)
    ours = getattr(refnet.nn, name)(*args, **options)
    torch.manual_seed(0)
    return ours, getattr(nn, name)(*args, **options)


def run(module: nn.Module, input: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients, and buffers."""
    input = input.clone().requires_grad_()
    torch.manual_seed(1)
    output = module(input)
    torch.manual_seed(2)
    output.backward(torch.randn_like(output))
    gradients = [p.grad for p in module.parameters()]
    return [output, input.grad, *gradients, *module.buffers()]


@pytest.mark.parametrize("name", [*LAYERS, "CrossEntropyLoss"])
def test_constructor_and_base_class_are_torchs(name: str) -> None:
    ours, theirs = getattr(refnet.nn, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert "__init__" not in vars(ours)


@pytest.mark.parametrize("name", sorted(set(functional.__all__)))
def test_function_signature_is_torchs(name: str) -> None:
    ours, theirs = getattr(functional, name), getattr(F, name)
    if name == "linear":  # a builtin of C; its signature is in its documentation
        assert list(inspect.signature(ours).parameters) == ["input", "weight", "bias"]
        return
    mine, builtin = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    for parameter in builtin.values():
        assert mine[parameter.name].default == parameter.default
        assert mine[parameter.name].kind == parameter.kind
    own = [mine[n] for n in mine if n not in builtin]
    assert [p.name for p in own] == (["generator", "mask"] if "dropout" in name else [])
    assert all(p.kind == p.KEYWORD_ONLY for p in own)


def masks_of_torch(name: str) -> use_backend:
    """Dropout's reference draws them; whatever else runs may be compiled."""
    return use_backend("reference" if "ropout" in name else "auto")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_results_beside_torchs(name: str, training: bool) -> None:
    ours, theirs = (module.double().train(training) for module in pair(name))
    for seed in range(3):  # statistics move on
        torch.manual_seed(seed)
        input = torch.randn(LAYERS[name][2], dtype=torch.float64)
        with masks_of_torch(name):
            mine = run(ours, input)
        for own, builtin in zip(mine, run(theirs, input), strict=True):
            torch.testing.assert_close(own, builtin, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_state_dicts_move_both_ways(name: str) -> None:
    ours, theirs = pair(name)
    run(theirs, torch.randn(LAYERS[name][2]))
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", LAYERS)
def test_copies_and_pickles(name: str) -> None:
    ours, _ = pair(name)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(twin) is type(ours)
        assert str(twin.state_dict()) == str(ours.state_dict())


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ["ReLU", "LeakyReLU", "Dropout"])
def test_inplace(name: str, inplace: bool) -> None:
    results = []
    for module in (getattr(refnet.nn, name)(inplace=inplace), getattr(nn, name)(inplace=inplace)):
        torch.manual_seed(0)
        x = torch.randn(20, requires_grad=True)
        z = 2 * x
        with masks_of_torch(name):
            y = module(z)
        assert (y.data_ptr() == z.data_ptr()) == inplace
        y.backward(torch.arange(20.0))
        results.append((y, z, x.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": None},
        {"momentum": 0.0},
        {"momentum": 0.7, "eps": 1e-3},
        {"affine": False},
        {"bias": False},
        {"track_running_stats": False},
    ],
)
def test_batch_norm_options(options: dict[str, Any]) -> None:
    if "bias" in options and "bias" not in inspect.signature(nn.BatchNorm1d).parameters:
        pytest.skip("this torch's BatchNorm1d has no bias option")
    ours = refnet.nn.BatchNorm1d(4, dtype=torch.float64, **options)
    theirs = nn.BatchNorm1d(4, dtype=torch.float64, **options)
    theirs.load_state_dict(ours.state_dict())
    for training in (True, True, False, True):
        ours.train(training), theirs.train(training)
        x = torch.randn(6, 4, dtype=torch.float64)
        for mine, builtin in zip(run(ours, x), run(theirs, x), strict=True):
            torch.testing.assert_close(mine, builtin, rtol=1e-12, atol=1e-13)


def test_empty_batch_counts_and_leaves_the_statistics() -> None:
    for module in (refnet.nn.BatchNorm1d(3), nn.BatchNorm1d(3)):
        assert module(torch.randn(0, 3)).shape == (0, 3)
        assert module.num_batches_tracked == 1
        assert module.running_mean.tolist() == [0, 0, 0]
        assert module.running_var.tolist() == [1, 1, 1]


def test_statistics_move_under_no_grad() -> None:
    module = refnet.nn.BatchNorm1d(3)
    with torch.no_grad():
        module(torch.randn(8, 3) + 5)
    assert (module.running_mean > 0.3).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_float32_statistics(dtype: torch.dtype) -> None:
    results = []
    for module in (refnet.nn.BatchNorm1d(3), nn.BatchNorm1d(3)):
        x = torch.linspace(-2, 3, 24).reshape(8, 3).to(dtype).requires_grad_()
        y = module(x)
        y.sum().backward()
        assert y.dtype == x.grad.dtype == dtype
        assert module.running_var.dtype == module.weight.grad.dtype == torch.float32
        results.append((y, module.running_mean, module.running_var))
    for mine, builtin in zip(*results, strict=True):
        torch.testing.assert_close(mine, builtin, rtol=1e-2, atol=1e-2)


def test_wrong_dimensions_are_torchs_error() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        refnet.nn.BatchNorm2d(3)(torch.randn(2, 3))


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
def test_softmax_without_dim_warns_where_it_is_called(name: str) -> None:
    """The builtin's module says that the line is one of torch's; the message is the same."""
    with pytest.warns(UserWarning, match="Implicit dimension choice") as ours:
        getattr(refnet.nn, name)()(torch.randn(3, 4))
    with pytest.warns(UserWarning, match="Implicit") as theirs:
        getattr(nn, name)()(torch.randn(3, 4))
    assert str(ours[0].message) == str(theirs[0].message)
    assert ours[0].filename == __file__


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "sum", "label_smoothing": 0.1},
        {"weight": torch.rand(5, dtype=torch.float64), "ignore_index": 2},
    ],
)
def test_cross_entropy_loss(options: dict[str, Any]) -> None:
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.arange(9) % 5
    ours, theirs = refnet.nn.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)
    torch.testing.assert_close(ours(x, y), theirs(x, y), rtol=1e-14, atol=0)


def test_cross_entropy_old_arguments() -> None:
    x, y = torch.randn(9, 5), torch.arange(9) % 5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (f.cross_entropy(x, y, reduce=False) for f in (functional, F))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("x", "y"),
    [((5,), ()), ((5,), (1,)), ((0, 5), (0,)), ((2, 5, 3), (2, 3)), ((2, 5, 3, 2), (2, 3, 2))],
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_shapes(x: tuple[int, ...], y: tuple[int, ...], reduction: str) -> None:
    logits = torch.randn(x, dtype=torch.float64)
    labels = torch.randint(5, y)
    theirs = F.cross_entropy(logits, labels, reduction=reduction)
    for target in (labels, labels.byte()):  # the builtin takes uint8 in two dimensions alone
        ours = functional.cross_entropy(logits, target, reduction=reduction)
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_probability_targets_promote_as_torch_does() -> None:
    x, q, w = torch.randn(4, 3), torch.rand(4, 3).double(), torch.rand(3)
    ours, theirs = (f.cross_entropy(x, q, w) for f in (functional, F))
    assert ours.dtype == theirs.dtype == torch.float64


@pytest.mark.parametrize(
    ("x", "w", "b"),
    [
        ((3,), (4, 3), (4,)),
        ((0, 3), (4, 3), (4,)),
        ((2, 0), (4, 0), (4,)),
        ((2, 3), (0, 3), (0,)),
        ((2, 5, 3), (4, 3), (4,)),
        ((2, 3), (3,), None),
        ((2, 3), (4, 3), (1,)),
        ((2, 3), (4, 3), (2, 4)),
    ],
)
def test_linear_shapes(x: Any, w: Any, b: Any) -> None:
    results = []
    for namespace in (functional, F):
        torch.manual_seed(0)
        inputs = [
            torch.randn(s, dtype=torch.float64, requires_grad=True)
            for s in (x, w, b)
            if s is not None
        ]
        y = namespace.linear(*inputs)
        y.backward(torch.ones_like(y))
        results.append([y, *(i.grad for i in inputs)])
    for mine, builtin in zip(*results, strict=True):
        torch.testing.assert_close(mine, builtin)


def test_complex_numbers() -> None:
    for name in ("tanh", "sigmoid"):
        results = []
        for namespace in (functional, F):
            z = torch.tensor([0.3 + 0.4j, -1 + 2j], requires_grad=True)
            y = getattr(namespace, name)(z)
            y.abs().sum().backward()
            results.append((y, z.grad))
        for mine, builtin in zip(*results, strict=True):
            torch.testing.assert_close(mine, builtin)


def test_integers_become_floats_in_sigmoid_and_tanh() -> None:
    z = torch.tensor([-1, 0, 2])
    for name in ("tanh", "sigmoid"):
        torch.testing.assert_close(getattr(functional, name)(z), getattr(F, name)(z))
    assert torch.equal(functional.relu(z), F.relu(z))


AUTOCAST = {
    "linear": lambda f, x: f.linear(x, torch.ones(2, 3), torch.ones(2)),
    "cross_entropy": lambda f, x: f.cross_entropy(x, torch.tensor([0, 1, 2, 1]), torch.ones(3)),
    "cross_entropy of probabilities": lambda f, x: f.cross_entropy(x, torch.ones_like(x) / 3),
    "softmax": lambda f, x: f.softmax(x, 1),
    "log_softmax": lambda f, x: f.log_softmax(x, 1),
    "batch_norm": lambda f, x: f.batch_norm(x, torch.zeros(3), torch.ones(3), training=True),
    "dropout": lambda f, x: f.dropout(x, 1.0),
    "sigmoid": lambda f, x: f.sigmoid(x),
}


@pytest.mark.parametrize("name", AUTOCAST)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
def test_autocast_dtypes(name: str, given: torch.dtype, lower: torch.dtype) -> None:
    results = []
    for namespace in (functional, F):
        x = torch.linspace(-1, 1, 12).reshape(4, 3).to(given).requires_grad_()
        with torch.autocast("cpu", dtype=lower):
            y = AUTOCAST[name](namespace, x)
        y.sum().backward()
        results.append((y, x.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


NUMBERS: dict[str, Any] = {
    "softmax": lambda f, x: f.softmax(x, np.int64(1)),
    "log_softmax": lambda f, x: f.log_softmax(x, np.int32(-1)),
    "dropout": lambda f, x: f.dropout(x, np.float32(0.5)),
    "dropout, tensor": lambda f, x: f.dropout(x, torch.tensor(0.5)),
    "dropout2d": lambda f, x: f.dropout1d(x, np.int64(1)),
    "batch_norm": lambda f, x: f.batch_norm(
        x, torch.zeros(3), torch.ones(3), training=True,
        momentum=np.float32(0.25), eps=np.float32(1e-3),
    ),
    "leaky_relu": lambda f, x: f.leaky_relu(x, np.float32(0.25)),
    "cross_entropy": lambda f, x: f.cross_entropy(
        x, torch.tensor([0, 1, 2, 1]), ignore_index=np.int64(1), label_smoothing=np.float64(0.1)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_are_numbers(name: str) -> None:
    results = []
    for namespace in (functional, F):
        torch.manual_seed(0)
        with masks_of_torch(name):
            results.append(NUMBERS[name](namespace, torch.linspace(-1, 1, 12).reshape(4, 3)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "dropout"])
@pytest.mark.parametrize("view", [False, True])
def test_inplace_without_a_graph_returns_the_input_itself(name: str, view: bool) -> None:
    for namespace in (functional, F):
        x = torch.linspace(-1, 1, 6, requires_grad=True) * 1
        x = x[:4] if view else x
        with torch.no_grad():
            y = getattr(namespace, name)(x, inplace=True)
        assert y is x
        assert y.requires_grad
