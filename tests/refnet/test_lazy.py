"""Lazy layers: sizes from the first input, and refnet's own layer from then on."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import refnet

pytestmark = pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")

# arguments, options, shape of the input, class that it becomes
LAYERS: dict[str, tuple[tuple[Any, ...], dict[str, Any], tuple[int, ...], str]] = {
    "LazyLinear": ((4,), {}, (8, 5), "Linear"),
    "LazyLinear, no bias": ((4,), {"bias": False}, (2, 8, 5), "Linear"),
    "LazyBatchNorm1d": ((), {}, (8, 5), "BatchNorm1d"),
    "LazyBatchNorm1d, no bias": ((1e-3,), {"bias": False}, (8, 5, 2), "BatchNorm1d"),
    "LazyBatchNorm2d": ((), {"momentum": None}, (4, 5, 3, 3), "BatchNorm2d"),
    "LazyBatchNorm3d": ((), {"affine": False}, (2, 5, 3, 2, 2), "BatchNorm3d"),
    "LazyBatchNorm3d, no statistics": (
        (),
        {"track_running_stats": False},
        (2, 5, 3, 2, 2),
        "BatchNorm3d",
    ),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    args, options, _, _ = LAYERS[name]
    lazy = name.split(",")[0]
    return getattr(refnet.nn, lazy)(*args, **options), getattr(nn, lazy)(*args, **options)


def run(module: nn.Module, name: str) -> list[torch.Tensor]:
    """Output, gradients, and buffers, from the same random state."""
    torch.manual_seed(0)
    input = torch.randn(LAYERS[name][2], dtype=torch.float64, requires_grad=True)
    output = module(input)
    output.backward(torch.randn_like(output))
    return [output, input.grad, *(p.grad for p in module.parameters()), *module.buffers()]


@pytest.mark.parametrize("name", LAYERS)
def test_becomes_ours_and_computes_the_same(name: str) -> None:
    ours, theirs = (module.double() for module in pair(name))
    results, expected = run(ours, name), run(theirs, name)
    assert type(ours) is getattr(refnet.nn, LAYERS[name][3])
    assert repr(ours) == repr(theirs)
    for mine, builtin in zip(results, expected, strict=True):
        torch.testing.assert_close(mine, builtin, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LAYERS)
def test_the_first_output_is_ours_too(name: str) -> None:
    ours, _ = (module.double() for module in pair(name))
    first, *_ = run(ours, name)
    second, *_ = run(ours, name)
    assert first.grad_fn is not None
    assert type(first.grad_fn) is type(second.grad_fn)
    assert isinstance(first.grad_fn, torch.autograd.function.BackwardCFunction)


@pytest.mark.parametrize("initialized", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_state_dicts_move_both_ways(name: str, initialized: bool) -> None:
    for source, target in (pair(name), reversed(pair(name))):
        if initialized:
            run(source.double(), name)
        state = source.state_dict()
        target.double().load_state_dict(state)
        assert list(target.state_dict()) == list(state)
        assert isinstance(target, nn.modules.lazy.LazyModuleMixin)  # until it sees an input
        run(target, name)
        expected = getattr(refnet.nn if isinstance(target, MINE) else nn, LAYERS[name][3])
        assert type(target) is expected


MINE = (refnet.nn.Linear, refnet.nn.BatchNorm1d, refnet.nn.BatchNorm2d, refnet.nn.BatchNorm3d)


@pytest.mark.parametrize("name", LAYERS)
def test_constructor_is_torchs(name: str) -> None:
    ours, theirs = pair(name)
    assert inspect.signature(type(ours)) == inspect.signature(type(theirs))
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, type(theirs))
    assert isinstance(ours, getattr(refnet.nn, LAYERS[name][3]))
    assert type(pickle.loads(pickle.dumps(ours))) is type(ours)


@pytest.mark.parametrize("name", ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d"])
def test_wrong_dimensions_raise_torchs_error(name: str) -> None:
    messages = []
    for module in pair(name):
        with pytest.raises(ValueError, match="expected") as error:
            module(torch.zeros(2, 3, 1, 1, 1, 1))
        messages.append(str(error.value))
    assert messages[0] == messages[1]
