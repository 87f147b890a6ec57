"""Bad input raises what torch raises, and the message names what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from refnet import functional

x, w = torch.randn(4, 3), torch.randn(2, 3)
zeros, ones = torch.zeros(3), torch.ones(3)
y = torch.tensor([0, 1, 2, 1])
probabilities = torch.full((4, 3), 1 / 3)
tracked = torch.zeros(3, requires_grad=True)
integers = torch.ones(4, 3, dtype=torch.long)

# (a call, what our message has to contain)
ERRORS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda f: f.batch_norm(torch.randn(4), None, None, training=True), "[4]"),
    (lambda f: f.batch_norm(torch.randn(4), zeros, ones), "[4]"),
    (lambda f: f.batch_norm(integers, None, None, training=True), "int64"),
    (lambda f: f.batch_norm(x + 1j, None, None, training=True), "complex64"),
    (lambda f: f.batch_norm(x, None, None, torch.ones(4), None, True), "weight should contain 3"),
    (lambda f: f.batch_norm(x, None, None, None, torch.ones(4), True), "bias should contain 3"),
    (lambda f: f.batch_norm(x, torch.ones(4), ones, training=True), "running_mean should"),
    (lambda f: f.batch_norm(x, zeros, torch.ones(4), training=True), "running_var should"),
    (lambda f: f.batch_norm(x, None, None), "running_mean"),
    (lambda f: f.batch_norm(x, zeros, None), "running_var"),
    (lambda f: f.batch_norm(x, zeros, None, training=True), "running_var"),
    (lambda f: f.batch_norm(x, None, ones, training=True), "running_mean"),
    (lambda f: f.batch_norm(x[:1], zeros, ones, training=True), "[1, 3]"),
    (lambda f: f.batch_norm(x, zeros, ones, training=True, eps=0), "eps"),
    (lambda f: f.batch_norm(x, zeros, ones, eps=-1e-5), "-1e-05"),
    (lambda f: f.batch_norm(x, zeros, ones, training=True, momentum=None), "momentum"),
    (lambda f: f.batch_norm(x, zeros.double(), ones.double(), training=True), "float64"),
    (lambda f: f.batch_norm(x, None, None, ones.half(), None, True), "float16"),
    (lambda f: f.batch_norm(x.double(), zeros, ones, training=True), "float32"),
    (lambda f: f.batch_norm(x.half(), zeros.half(), ones.half(), ones, ones, True), "float16"),
    (
        lambda f: f.batch_norm(x, zeros + tracked, ones, training=True),
        "running_mean",
    ),
    (lambda f: f.dropout(x, 1.5), "1.5"),
    *[
        (call, contains)
        for name in ("dropout1d", "dropout2d", "dropout3d")
        for call, contains in (
            (lambda f, n=name: getattr(f, n)(x, 1.5), "1.5"),
            (lambda f, n=name: getattr(f, n)(x[0, 0], -0.1), "-0.1"),
            (lambda f, n=name: getattr(f, n)(x[0, 0], 0.5), "[]"),
            (lambda f, n=name: getattr(f, n)(x.clone().requires_grad_(), inplace=True), "leaf"),
        )
    ],
    (lambda f: f.dropout1d(x[:, 0], 0.5), "[4]"),
    (lambda f: f.dropout1d(torch.randn(2, 3, 4, 5), 0.5), "[2, 3, 4, 5]"),
    (lambda f: f.dropout2d(x[:, 0], 0.5), "[4]"),
    (lambda f: f.dropout(x, -0.1), "-0.1"),
    (lambda f: f.dropout(x, "a"), ""),
    (lambda f: f.dropout(integers, 0.5), "int64"),
    (lambda f: f.dropout(x > 0, 0.5), "bool"),
    (lambda f: f.dropout(x.clone().requires_grad_(), 0.5, inplace=True), "leaf"),
    *[
        (call, contains)
        for name in ("softmax", "log_softmax")
        for call, contains in (
            (lambda f, n=name: getattr(f, n)(integers, 1), "int64"),
            (lambda f, n=name: getattr(f, n)(x > 0, 1), "bool"),
            (lambda f, n=name: getattr(f, n)(x + 1j, 1), "complex64"),
            (lambda f, n=name: getattr(f, n)(x, 2), "2"),
            (lambda f, n=name: getattr(f, n)(x, -3), "-3"),
            (lambda f, n=name: getattr(f, n)(torch.tensor(2.0), 1), "1"),
            (lambda f, n=name: getattr(f, n)(x, "a"), "dim"),
            (lambda f, n=name: getattr(f, n)(x, True), "dim"),
            (lambda f, n=name: getattr(f, n)(x, 1, dtype=torch.long), "int64"),
        )
    ],
    (lambda f: f.cross_entropy(x, y + 1), "Target 3"),
    (lambda f: f.cross_entropy(x, y - 1), "Target -1"),
    (lambda f: f.cross_entropy(x, torch.tensor([0, -100, 5, 1])), "Target 5"),
    (lambda f: f.cross_entropy(torch.randn(4, 0), y), "Target 0"),
    (lambda f: f.cross_entropy(x, y.int()), "int32"),
    (lambda f: f.cross_entropy(x, y > 0), "bool"),
    (lambda f: f.cross_entropy(x, y.float()), "float32"),
    (lambda f: f.cross_entropy(x, y[:3]), "(3)"),
    (lambda f: f.cross_entropy(torch.randn(4, 3, 5), torch.zeros(4, 6).long()), "[4, 6]"),
    (lambda f: f.cross_entropy(torch.randn(4, 3, 5), y), "[4, 5]"),
    (lambda f: f.cross_entropy(x, y[:, None]), "[4, 1]"),
    (lambda f: f.cross_entropy(x, integers), "int64"),
    (lambda f: f.cross_entropy(x, probabilities, ignore_index=1), "1"),
    (lambda f: f.cross_entropy(x, y, torch.ones(4)), "[4]"),
    (lambda f: f.cross_entropy(x, y, torch.ones(3, 1)), "[3, 1]"),
    (lambda f: f.cross_entropy(x, probabilities, torch.ones(4)), "[4]"),
    (lambda f: f.cross_entropy(x, y, ones.double()), "float64"),
    (lambda f: f.cross_entropy(x, y, ones.clone().requires_grad_()), "weight"),
    (lambda f: f.cross_entropy(x, y, label_smoothing=1.5), "1.5"),
    (lambda f: f.cross_entropy(x, y, reduction="average"), "average"),
    (lambda f: f.cross_entropy(integers, y), "int64"),
    (lambda f: f.cross_entropy(x + 1j, y), "complex64"),
    (lambda f: f.cross_entropy(x, y, weight=1), "int"),
    (lambda f: f.cross_entropy(x, y, ignore_index=0.5), "0.5"),
    (lambda f: f.batch_norm(x, None, None, 1.0, training=True), "float"),
    (lambda f: f.batch_norm(x, zeros, ones, training="a"), "'a'"),
    (lambda f: f.dropout(x, 0.0, "a"), "'a'"),
    (lambda f: f.softmax(x, 1, dtype="float32"), "float32"),
    (lambda f: f.linear(x, torch.randn(2, 4)), "[2, 4]"),
    (lambda f: f.linear(x, w, torch.randn(3)), "[3]"),
    (lambda f: f.linear(x, w.double()), "float64"),
    (lambda f: f.linear(x, w, torch.randn(2).double()), "float64"),
    (lambda f: f.linear(x, torch.randn(3), torch.randn(1)), "[3]"),
    (lambda f: f.linear(torch.tensor(1.0), w), "[]"),
    (lambda f: f.linear(x, torch.randn(2, 2, 3)), "[2, 2, 3]"),
    (lambda f: f.relu(x > 0), "bool"),
    (lambda f: f.relu(x + 1j), "complex64"),
    (lambda f: f.relu([1.0]), "list"),
    (lambda f: f.leaky_relu([1.0]), "list"),
    (lambda f: f.leaky_relu(integers), "int64"),
    (lambda f: f.leaky_relu(x > 0), "bool"),
    (lambda f: f.leaky_relu(x + 1j), "complex64"),
    (lambda f: f.leaky_relu(x, "a"), "negative_slope"),
    (lambda f: f.leaky_relu(tracked * 1, -0.1, True).sum().backward(), "-0.1"),
    (lambda f: f.leaky_relu(tracked, 0.1, True), "leaf"),
    (lambda f: f.relu(tracked, True), "leaf"),
    (lambda f: f.relu(tracked[:1], True), "leaf"),
    (lambda f: f.relu((tracked * 1).unbind()[0], True), "view"),
    (lambda f: f.relu(torch.ones(1).expand(3), True), "memory"),
    (lambda f: f.tanh([1.0]), "list"),
    (lambda f: f.sigmoid([1.0]), "list"),
]


def raised(call: Callable[[Any], Any], namespace: Any) -> Exception:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(namespace)
        except Exception as error:
            return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize(("call", "contains"), ERRORS)
def test_the_builtins_error(call: Callable[[Any], Any], contains: str) -> None:
    ours, builtin = raised(call, functional), raised(call, F)
    assert type(ours) is type(builtin), f"{ours!r}, the builtin's {builtin!r}"
    assert contains in str(ours)


# Where the builtin takes nonsense, or says it in another way.
DIFFERENT: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: functional.dropout(x, float("nan")), ValueError, "nan"),
    (
        lambda: functional.cross_entropy(x, probabilities, label_smoothing=-1),
        RuntimeError,
        "-1",
    ),
    (lambda: functional.cross_entropy(x, y, label_smoothing=float("nan")), RuntimeError, "nan"),
    (lambda: functional.dropout(x, mask=torch.ones(4, 3)), TypeError, "float32"),
    (lambda: functional.dropout(x, mask=[True]), TypeError, "list"),
    (lambda: functional.dropout1d(x, mask=torch.ones(5, 1).bool()), RuntimeError, "[5, 1]"),
    (
        lambda: torch.compile(functional.dropout, backend="eager")(x, generator=torch.Generator()),
        RuntimeError,
        "mask",
    ),
    (
        lambda: torch.func.vmap(lambda x: functional.dropout(x, generator=torch.Generator()))(x),
        RuntimeError,
        "mask",
    ),
    (lambda: functional.dropout(x, mask=torch.ones(5, 3).bool()), RuntimeError, "5"),
    (lambda: functional.dropout(x, mask=torch.ones(2, 4, 3).bool()), RuntimeError, "[2, 4, 3]"),
    (
        lambda: functional.dropout(x, mask=x > 0, generator=torch.Generator()),
        ValueError,
        "generator",
    ),
]


@pytest.mark.parametrize(("call", "error", "contains"), DIFFERENT)
def test_errors_of_our_own(call: Callable[[], Any], error: type[Exception], contains: str) -> None:
    with pytest.raises(error) as caught:
        call()
    assert contains in str(caught.value)
