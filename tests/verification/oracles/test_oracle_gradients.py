"""Each oracle's backward pass against two-sided differences of its own forward pass.

The error of a two-sided difference is O(h^2), as the lecture says, and rounding adds eps / h. At
h = eps^(1/3) both are eps^(2/3), 2e-13 in an 80-bit longdouble and 4e-11 in a float64 one, times
the third derivative, up to some hundred in these cases. A wrong term is off by 1e-3 and more.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from verification.oracles import Exact, Result, exact
from verification.oracles.activations import leaky_relu, relu, sigmoid, tanh
from verification.oracles.batch_norm import batch_norm
from verification.oracles.cross_entropy import cross_entropy
from verification.oracles.dropout import dropout
from verification.oracles.linear import linear
from verification.oracles.softmax import log_softmax, softmax

EPS = np.finfo(np.longdouble).eps
STEP = np.cbrt(EPS)
TOLERANCE = 300 * EPS ** (np.longdouble(2) / 3)

rng = np.random.default_rng(20240607)
Z = rng.normal(size=(4, 3))
Z4 = rng.normal(size=(2, 3, 2, 2))
MASK = rng.random(size=(4, 3)) < 0.6
GAMMA, BETA = rng.normal(size=3), rng.normal(size=3)
MEAN, VAR = rng.normal(size=3), rng.uniform(0.5, 2, size=3)
W = rng.uniform(0.2, 2, size=3)
LABELS, PIXELS = np.array([2, 0, 1, 2]), np.array([[[0, 1], [2, 2]], [[1, 0], [2, 1]]])
Y = rng.dirichlet(np.ones(3), size=4)
Y4 = np.moveaxis(rng.dirichlet(np.ones(3), size=(2, 2, 2)), -1, 1)

# id: oracle, the inputs to differentiate by, the other arguments
CASES: dict[str, tuple[Callable[..., Result], dict[str, np.ndarray], dict[str, object]]] = {}


def case(
    name: str, op: Callable[..., Result], inputs: dict[str, np.ndarray], **rest: object
) -> None:
    CASES[name] = (op, inputs, rest)


affine = {"weight": GAMMA, "bias": BETA}
none = {"weight": None, "bias": None}
train = {"running_mean": None, "running_var": None, "training": True}
frozen = {"running_mean": MEAN, "running_var": VAR, "training": False}
case("batch norm, train", batch_norm, {"input": Z, **affine}, **train)
case("batch norm, train, images", batch_norm, {"input": Z4, **affine}, **train)
case("batch norm, train, plain", batch_norm, {"input": Z}, **train, **none, eps=0.3)
case("batch norm, train, N = 2", batch_norm, {"input": Z[:2], **affine}, **train, eps=0.1)
tracked = {"running_mean": MEAN, "running_var": VAR, "training": True}
case("batch norm, tracked", batch_norm, {"input": Z, **affine}, **tracked, momentum=0.3, eps=0.1)
case("batch norm, eval", batch_norm, {"input": Z, **affine}, **frozen)
case("batch norm, eval, images", batch_norm, {"input": Z4}, **frozen, **none, eps=0.3)
case("dropout", dropout, {"input": Z}, p=0.1, mask=MASK)
case("dropout, p = 0.9", dropout, {"input": Z}, p=0.9, mask=MASK)
case("dropout, p = 1", dropout, {"input": Z}, p=1.0, mask=MASK)
for op in (softmax, log_softmax):
    case(f"{op.__name__}, dim 0", op, {"input": Z}, dim=0)
    case(f"{op.__name__}, dim -1", op, {"input": Z}, dim=-1)
    case(f"{op.__name__}, dim 1 of 4", op, {"input": Z4}, dim=1)
for reduction in ("none", "sum", "mean"):
    for weight, smoothing in ((None, 0.0), (W, 0.0), (None, 0.2), (W, 0.2)):
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        of = f"{reduction}, {'w' if weight is not None else '-'}, {smoothing}"
        case(f"index, {of}", cross_entropy, {"input": Z}, target=LABELS, ignore_index=0, **options)
        case(f"pixels, {of}", cross_entropy, {"input": Z4}, target=PIXELS, **options)
        case(f"probabilities, {of}", cross_entropy, {"input": Z, "target": Y}, **options)
        case(f"soft pixels, {of}", cross_entropy, {"input": Z4, "target": Y4}, **options)
        case(f"one row, {of}", cross_entropy, {"input": Z[0]}, target=np.array(1), **options)
case("linear", linear, {"input": Z, "weight": rng.normal(size=(2, 3)), "bias": GAMMA[:2]})
case("linear, 3-d", linear, {"input": Z4, "weight": rng.normal(size=(3, 2))}, bias=None)
case("linear, 1-d", linear, {"input": W, "weight": rng.normal(size=(2, 3)), "bias": GAMMA[:2]})
case("relu", relu, {"input": Z})
case("leaky relu", leaky_relu, {"input": Z}, negative_slope=0.2)
case("tanh", tanh, {"input": Z})
case("sigmoid", sigmoid, {"input": Z})


def two_sided(function: Callable[[Exact], np.longdouble], at: np.ndarray) -> Exact:
    """Return (f(x + h) - f(x - h)) / 2h for each element of x."""
    slopes = np.zeros_like(exact(at))
    for position in np.ndindex(at.shape):
        up, down = exact(at), exact(at)
        up[position] += STEP
        down[position] -= STEP
        slopes[position] = (function(up) - function(down)) / (up[position] - down[position])
    return slopes


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_slope_of_the_output(name: str) -> None:
    op, inputs, rest = CASES[name]
    shape = output_shape(op, inputs, rest)
    cotangent = np.random.default_rng(1).normal(size=shape)
    result = op(**inputs, **rest, cotangent=cotangent)
    assert {f"grad {quantity}" for quantity in inputs} == {
        quantity for quantity in result.values if quantity.startswith("grad")
    }
    for quantity, at in inputs.items():

        def loss(x: Exact, quantity: str = quantity) -> np.longdouble:
            output = op(**{**inputs, quantity: x}, **rest, cotangent=cotangent).values["output"]
            return (output * cotangent).sum()

        slope, grad = two_sided(loss, at), result.values[f"grad {quantity}"]
        assert grad.dtype == np.longdouble
        assert grad.shape == at.shape
        scale = max(1, np.abs(slope).max())
        assert np.abs(grad - slope).max() <= TOLERANCE * scale, quantity


def output_shape(
    op: Callable[..., Result], inputs: dict[str, np.ndarray], rest: dict[str, object]
) -> tuple[int, ...]:
    z = inputs["input"]
    if op is linear:
        return (*z.shape[:-1], inputs["weight"].shape[0])
    if op is not cross_entropy:
        return z.shape
    return z.shape[:1] * (z.ndim > 1) + z.shape[2:] if rest["reduction"] == "none" else ()


def exact_options(options: dict[str, object]) -> dict[str, object]:
    return {k: np.longdouble(v) if isinstance(v, float) else v for k, v in options.items()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
def test_options_count_as_exactly_what_they_are(name: str) -> None:
    # 1 - 0.1 in float64 is not 1 minus the float64 0.1
    op, inputs, rest = CASES[name]
    cotangent = np.ones(output_shape(op, inputs, rest))
    result = op(**inputs, **rest, cotangent=cotangent).values
    expected = op(**inputs, **exact_options(rest), cotangent=cotangent).values
    assert all(np.array_equal(result[quantity], expected[quantity]) for quantity in expected)


def test_step_by_step_and_collapsed_batch_norm_backward_agree() -> None:
    # dz = gamma / (m std) (m dy - sum dy - x_hat sum(dy x_hat)), the one-pass form of the chain
    dy = exact(rng.normal(size=Z.shape))
    result = batch_norm(Z, None, None, GAMMA, None, training=True, cotangent=dy)
    centered = exact(Z) - exact(Z).mean(0)
    std = np.sqrt((centered**2).mean(0) + np.longdouble(1e-5))
    x_hat, m = centered / std, len(Z)
    collapsed = GAMMA / (m * std) * (m * dy - dy.sum(0) - x_hat * (dy * x_hat).sum(0))
    error = np.abs(result.values["grad input"] - collapsed).max()
    assert error <= 100 * EPS * result.scales["grad input"]
    # the scale is the size of the terms that cancel, not that of the rest
    assert result.scales["grad input"] >= float(np.abs(dy * GAMMA / std).max()) * (1 - 1e-15)


def test_offset_data_lose_no_digit() -> None:
    # all values have few bits, so that the offset is added without rounding
    z = np.round(rng.normal(size=(6, 3)) * 256) / 256
    far = z + 2.0**40
    assert np.array_equal(far - 2.0**40, z)
    options = {"training": True, "cotangent": rng.normal(size=z.shape)}
    near_result = batch_norm(z, None, None, GAMMA, BETA, **options).values
    far_result = batch_norm(far, None, None, GAMMA, BETA, **options).values
    for quantity, near in near_result.items():
        error = np.abs(far_result[quantity] - near).max()
        assert error <= 1000 * EPS * np.abs(near).max(), quantity


def test_results_are_never_rounded_to_float64() -> None:
    if np.longdouble is np.float64 or np.finfo(np.longdouble).eps == np.finfo(np.float64).eps:
        pytest.skip("longdouble is float64 on this machine")
    for name, (op, inputs, rest) in CASES.items():
        if name.startswith(("relu", "dropout, p = 1")):
            continue  # nothing to round
        cotangent = np.random.default_rng(1).normal(size=output_shape(op, inputs, rest))
        values = op(**inputs, **rest, cotangent=cotangent).values
        for quantity in {"output", "grad input", "grad weight", "grad target"} & values.keys():
            value = values[quantity]
            assert (value != value.astype(np.float64)).any(), (name, quantity)
