"""The oracles of the ops against torch's builtins in float64, on easy inputs.

1e-12 of the largest element: float64 rounding in sums of some ten terms is 1e-15, and any other
function is off by far more on these inputs.
"""

from __future__ import annotations

import ast
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import verification.oracles
from verification.oracles import Result
from verification.oracles.activations import leaky_relu, relu, sigmoid, tanh
from verification.oracles.batch_norm import batch_norm
from verification.oracles.cross_entropy import cross_entropy
from verification.oracles.dropout import dropout
from verification.oracles.linear import linear
from verification.oracles.softmax import log_softmax, softmax

TOLERANCE = 1e-12
TINY = np.finfo(np.float64).tiny  # what float64 may flush to zero; longdouble reaches further


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def leaf(array: np.ndarray | None) -> torch.Tensor | None:
    return None if array is None else torch.tensor(array, requires_grad=array.dtype.kind == "f")


def agree(result: Result, expected: dict[str, torch.Tensor | None], options: str = "") -> None:
    """Fail unless the same quantities are there with the same shapes, values and NaNs."""
    wanted = {name: t.detach().numpy() for name, t in expected.items() if t is not None}
    assert set(result.values) == set(wanted), options
    for name, builtin in wanted.items():
        ours = result.values[name]
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == np.longdouble
        assert ours.shape == builtin.shape, (name, options)
        finite = np.isfinite(builtin)
        assert np.array_equal(ours[~finite], builtin[~finite], equal_nan=True), (name, options)
        error = np.abs(ours[finite] - builtin[finite]).max(initial=0)
        scale = result.scales.get(name, np.abs(builtin)[finite].max(initial=0))
        assert error <= TOLERANCE * scale + TINY, (name, error, scale, options)


@pytest.mark.parametrize(
    "shape", [(5, 3), (2, 3), (4, 3, 7), (2, 3, 4, 5), (2, 3, 2, 2, 2), (0, 3)]
)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_batch_norm(shape: tuple[int, ...], training: bool, affine: bool, tracked: bool) -> None:
    if not (training or tracked):
        with pytest.raises(ValueError, match="running_mean"):
            batch_norm(normal(*shape), None, None, cotangent=normal(*shape))
        return
    x, dy = normal(*shape), normal(*shape, seed=1)
    mean, var = (normal(3, seed=2), normal(3, seed=3) ** 2) if tracked else (None, None)
    weight, bias = (normal(3, seed=4), normal(3, seed=5)) if affine else (None, None)
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}
    result = batch_norm(x, mean, var, weight, bias, **options, cotangent=dy)

    tx, tw, tb = leaf(x), leaf(weight), leaf(bias)
    buffers = [None if v is None else torch.tensor(v) for v in (mean, var)]
    output = F.batch_norm(tx, *buffers, tw, tb, **options)
    output.backward(torch.tensor(dy))
    grads = {"grad weight": tw, "grad bias": tb}
    agree(
        result,
        {"output": output, "grad input": tx.grad}
        | {name: None if t is None else t.grad for name, t in grads.items()}
        | dict(zip(("running_mean", "running_var"), buffers, strict=True)),
    )


def test_batch_norm_of_one_value_per_channel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"more than 1 value per channel.*\(1, 3\)"):
        batch_norm(normal(1, 3), None, None, training=True, cotangent=normal(1, 3))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.9, 1.0])
def test_dropout_with_the_builtins_mask(p: float) -> None:
    x, dy = normal(8, 9), normal(8, 9, seed=1)
    torch.manual_seed(3)
    mask = F.dropout(torch.ones(8, 9, dtype=torch.float64), p).numpy() != 0
    torch.manual_seed(3)
    tx = leaf(x)
    output = F.dropout(tx, p)
    output.backward(torch.tensor(dy))
    assert p in (0.0, 1.0) or 0 < mask.mean() < 1
    result = dropout(x, p=p, mask=mask, cotangent=dy)
    agree(result, {"output": output, "grad input": tx.grad})


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_dropout_multiplies_an_infinite_value(p: float) -> None:
    result = dropout([np.inf, 1.0], p=p, mask=[False, False], cotangent=[1.0, 1.0])
    assert np.isnan(result.values["output"][0])
    assert result.values["output"][1] == 0


def test_dropout_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"p: .* got 1\.5"):
        dropout([1.0], p=1.5, mask=[True], cotangent=[1.0])


@pytest.mark.parametrize(("ours", "builtin"), [(softmax, F.softmax), (log_softmax, F.log_softmax)])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((4,), 0), ((3, 5), 1), ((3, 5), 0), ((2, 4, 3), -2), ((0, 4), 1), ((3, 0), 1)],
)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax(ours, builtin, shape: tuple[int, ...], dim: int, scale: float) -> None:
    x, dy = normal(*shape) * scale, normal(*shape, seed=1)
    tx = leaf(x)
    output = builtin(tx, dim)
    output.backward(torch.tensor(dy))
    agree(ours(x, dim=dim, cotangent=dy), {"output": output, "grad input": tx.grad})


@pytest.mark.parametrize(("ours", "builtin"), [(softmax, F.softmax), (log_softmax, F.log_softmax)])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_softmax_of_what_is_not_finite(ours, builtin, bad: float) -> None:
    x = np.array([[bad, 1.0, 2.0], [bad, bad, bad], [0.0, 1.0, 2.0]])
    result = ours(x, dim=1, cotangent=np.ones_like(x)).values["output"]
    agree(Result({"output": result}), {"output": builtin(torch.tensor(x), 1)})


def test_log_softmax_of_a_sure_prediction_keeps_its_digits() -> None:
    result = log_softmax([0.0, -60.0], dim=0, cotangent=[1.0, 0.0])
    expected = pytest.approx(-np.exp(-60.0), rel=1e-12, abs=0)  # its own abs would be 1e-12
    assert float(result.values["output"][0]) == expected


WEIGHTS = np.array([0.3, 2.0, 0.7, 1.4])


def targets(kind: str, shape: tuple[int, ...]) -> np.ndarray:
    rows = shape[:1] * (len(shape) > 1) + shape[2:]
    if kind == "probabilities":
        y = np.random.default_rng(2).dirichlet(np.ones(4), size=rows)
        return np.moveaxis(y, -1, 0 if len(shape) == 1 else 1)
    y = np.random.default_rng(3).integers(0, 4, size=rows)
    if kind == "all ignored":
        return np.full(rows, 1)
    return np.where(y == 1, 2, y) if kind == "none ignored" else y


@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 5), (2, 4, 3, 2), (0, 4)])
@pytest.mark.parametrize("kind", ["indices", "all ignored", "none ignored", "probabilities"])
def test_cross_entropy(shape: tuple[int, ...], kind: str) -> None:
    x, y = normal(*shape) * 3, targets(kind, shape)
    for weight, smoothing, reduction in product(
        (None, WEIGHTS), (0.0, 0.1, 1.0), ("none", "sum", "mean")
    ):
        options = {"label_smoothing": smoothing, "reduction": reduction}
        if kind != "probabilities":
            options["ignore_index"] = 1
        tx, ty, tw = leaf(x), leaf(y), None if weight is None else torch.tensor(weight)
        output = F.cross_entropy(tx, ty, tw, **options)
        dy = normal(*output.shape, seed=4)
        output.backward(torch.tensor(dy))
        agree(
            cross_entropy(x, y, weight, **options, cotangent=dy),
            {"output": output, "grad input": tx.grad, "grad target": ty.grad},
            f"weight {weight}, {options}",
        )


@pytest.mark.parametrize("wrong", [4, -1])
def test_cross_entropy_refuses_an_unknown_class(wrong: int) -> None:
    with pytest.raises(IndexError, match=f"class {wrong} is out of bounds for 4 classes"):
        cross_entropy(normal(2, 4), np.array([0, wrong]), cotangent=1.0)


def test_cross_entropy_refuses_other_arguments() -> None:
    with pytest.raises(ValueError, match="'average'"):
        cross_entropy(normal(2, 4), np.array([0, 1]), reduction="average", cotangent=1.0)
    with pytest.raises(ValueError, match=r"target: shape \(3,\)"):
        cross_entropy(normal(2, 4), np.array([0, 1, 2]), cotangent=1.0)


def test_cross_entropy_of_an_impossible_class_that_is_not_the_true_one() -> None:
    x, y = np.array([[0.0, -np.inf, 1.0, 2.0]]), np.array([2])
    tx = leaf(x)
    output = F.cross_entropy(tx, torch.tensor(y))
    output.backward()
    result = cross_entropy(x, y, cotangent=1.0)
    agree(result, {"output": output, "grad input": tx.grad})


@pytest.mark.parametrize("shape", [(5, 3), (3,), (2, 4, 3), (0, 3)])
@pytest.mark.parametrize("biased", [True, False])
def test_linear(shape: tuple[int, ...], biased: bool) -> None:
    x, w, dz = normal(*shape), normal(2, 3, seed=1), normal(*shape[:-1], 2, seed=2)
    b = normal(2, seed=3) if biased else None
    tx, tw, tb = leaf(x), leaf(w), leaf(b)
    output = F.linear(tx, tw, tb)
    output.backward(torch.tensor(dz))
    expected = {"output": output, "grad input": tx.grad, "grad weight": tw.grad}
    if tb is not None:
        expected["grad bias"] = tb.grad
    agree(linear(x, w, b, cotangent=dz), expected)


@pytest.mark.parametrize(
    ("ours", "builtin", "options"),
    [
        (relu, F.relu, {}),
        (leaky_relu, F.leaky_relu, {}),
        (leaky_relu, F.leaky_relu, {"negative_slope": 0.3}),
        (tanh, torch.tanh, {}),
        (sigmoid, torch.sigmoid, {}),
    ],
)
@pytest.mark.parametrize("values", ["easy", "zeros", "large", "not finite", "number"])
def test_activations(ours, builtin, options: dict[str, float], values: str) -> None:
    x = {
        "easy": normal(4, 5),
        "zeros": np.array([0.0, -0.0, 1.0, -1.0]),
        "large": normal(7) * 1e5,
        "not finite": np.array([np.inf, -np.inf, np.nan, 1.0]),
        "number": np.array(-0.7),
    }[values]
    dy = normal(*x.shape, seed=1)
    tx = leaf(x)
    output = builtin(tx, **options)
    output.backward(torch.tensor(dy))
    agree(ours(x, **options, cotangent=dy), {"output": output, "grad input": tx.grad})


@pytest.mark.parametrize("file", sorted(Path(verification.oracles.__file__).parent.glob("*.py")))
def test_no_oracle_imports_what_it_judges(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & {"torch", "refnet"}, file.name


def test_two_values_close_together_show_what_rounding_does_to_their_mean() -> None:
    """Their outputs are -1 and 1, however they are nudged, but not about a mean that is off."""
    z = np.array([[1e4], [1e4 + 0.06]])
    arguments: dict[str, Any] = {"training": True, "cotangent": np.ones_like(z)}
    right = batch_norm(z, None, None, **arguments).values["output"]
    nudged = batch_norm(np.nextafter(z, [[0], [2e4]]), None, None, **arguments).values["output"]
    half_ulp = np.finfo(np.float64).eps / 2
    off = batch_norm(z, None, None, **arguments, mean_error=half_ulp).values["output"]
    assert np.abs(nudged - right).max() < 2e-12
    std = np.sqrt(0.03**2 + 1e-5)
    np.testing.assert_allclose(np.abs(off - right), 1e4 * half_ulp / std, rtol=1e-3)
