"""The kernels' exponential and maximum beside NumPy's, in units in the last place."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refnet._compile import SUMS, Reals, compiled
from refnet.ops._elementary import exp, largest


@compiled(SUMS)
def exp_of_each(x: Reals, y: Reals, n: int) -> None:
    for i in range(n):
        y[i] = exp(x[i])


@compiled(SUMS)
def largest_of(x: Reals, start: int, count: int) -> float:
    return float(largest(x, start, count))


DTYPES = (torch.float32, torch.float64)
LOWEST = {torch.float32: -104.5, torch.float64: -746.0}


def compiled_exp(x: Tensor) -> Any:
    y = torch.empty_like(x)
    exp_of_each.get(x.dtype)(x.data_ptr(), y.data_ptr(), len(x))  # type: ignore[misc]
    return y.numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_is_right_to_one_unit_in_the_last_place(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    whole = torch.linspace(LOWEST[dtype], 0, 200_001, dtype=dtype)  # denormal results, too
    near = -torch.rand(100_000, dtype=dtype)
    x = torch.cat([whole, near, near / 1e6])
    exact = np.exp(x.numpy().astype(np.longdouble))
    unit = np.spacing(exact.astype(x.numpy().dtype))
    assert np.max(np.abs(compiled_exp(x) - exact) / unit) < 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_of_the_exponential(dtype: torch.dtype) -> None:
    x = torch.tensor([0, -0.0, -inf, nan, -1e30, -nan] * 5, dtype=dtype)
    np.testing.assert_array_equal(compiled_exp(x)[:6], [1, 1, 0, nan, 0, nan])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_as_python(dtype: torch.dtype) -> None:
    x = torch.linspace(-100, 0, 57, dtype=dtype)
    y = torch.empty_like(x)
    exp_of_each.function(x.numpy(), y.numpy(), 57)
    np.testing.assert_allclose(y, compiled_exp(x), rtol=4 * torch.finfo(dtype).eps, atol=2e-45)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 7, 8, 33, 64, 1000])
def test_the_largest(dtype: torch.dtype, count: int) -> None:
    torch.manual_seed(count)
    call: Any = largest_of.get(dtype)
    for scale in (1e-40, 1.0, 1e30):
        for x in (torch.randn(count + 3), -torch.rand(count + 3)):
            x = (x * scale).to(dtype)
            x[:2] = inf  # before the start
            assert call(x.data_ptr(), 2, count) == x[2 : 2 + count].max().item()
            assert largest_of.function(x.numpy(), 2, count) == x[2 : 2 + count].max().item()
    for special in ([-inf] * count, [*[-inf] * (count - 1), inf], [-0.0] * count):
        x = torch.tensor(special, dtype=dtype)
        assert call(x.data_ptr(), 0, count) == x.max().item()
