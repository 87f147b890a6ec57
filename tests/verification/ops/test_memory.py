"""Bytes kept: the builtins as candidates pass, and a tensor more is seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from refnet import use_backend
from verification.cases import op_tables
from verification.ops.memory import bytes_kept, verify_memory
from verification.report import Row

TABLES = op_tables()


def rows_of(name: str, candidate: Callable[..., Any] | None = None) -> list[Row]:
    return [row for rows in verify_memory(TABLES[name], candidate) for row in rows]


@pytest.mark.parametrize("name", TABLES)
def test_refnet_keeps_no_more_than_the_builtin(name: str) -> None:
    rows = rows_of(name)
    assert [row.dtype for row in rows] == ["float64", "float32", "bfloat16", "float16"]
    assert [(r.case, r.error, r.bound, r.note) for r in rows if not r.passed] == []


def test_a_tensor_more_is_worse() -> None:
    def candidate(input: Tensor) -> Tensor:
        return functional.tanh(input) * 1.5 * torch.ones_like(input)

    rows = rows_of("tanh", candidate)
    assert {row.verdict for row in rows} == {"worse"}
    sizes = {row.dtype: row.error for row in rows}
    assert sizes["float64"] == 2 * sizes["float32"] > 0


def test_a_crash_is_a_row() -> None:
    def candidate(input: Tensor) -> Tensor:
        raise ValueError("no way")

    assert {row.note for row in rows_of("tanh", candidate)} == {"ValueError: no way"}


def test_dropout_keeps_a_key_or_its_mask_and_cross_entropy_a_number_per_row() -> None:
    from refnet.functional import cross_entropy, dropout, dropout2d

    x = torch.randn(40, 30, requires_grad=True)
    assert bytes_kept(lambda: dropout(x, 0.3), [x]) == 16
    with use_backend("reference"):
        assert bytes_kept(lambda: dropout(x, 0.3), [x]) == 40 * 30
    images = torch.randn(4, 3, 5, 5, requires_grad=True)
    assert bytes_kept(lambda: dropout2d(images, 0.3), [images]) == 4 * 3
    labels = torch.arange(40) % 30
    with use_backend("reference"):
        assert bytes_kept(lambda: cross_entropy(x, labels), [x, labels]) == 0
    assert bytes_kept(lambda: cross_entropy(x, labels), [x, labels]) == (40 + 1) * 4
    # what the caller lets go of: one tensor of the scores' size, as the builtin's
    assert bytes_kept(lambda: cross_entropy(x * 1, labels), [x, labels]) == (40 * 31 + 1) * 4
    assert bytes_kept(lambda: functional.cross_entropy(x * 1, labels), [x, labels]) >= 40 * 30 * 4


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_dropout_of_nothing_or_all_keeps_nothing_to_speak_of(p: float) -> None:
    from refnet.functional import dropout

    x = torch.randn(1000, requires_grad=True)
    assert bytes_kept(lambda: dropout(x, p), [x]) <= 1


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_in_place_nothing_is_kept(name: str) -> None:
    import refnet.functional

    x = torch.randn(1000, requires_grad=True)
    for make in (lambda: x * 1, lambda: (x * 1).view(10, 100), lambda: (x * 1)[:500]):
        z = make()
        op = getattr(refnet.functional, name)
        assert bytes_kept(lambda: op(z, inplace=True), [z]) == 0  # noqa: B023


def test_memory_is_counted_once_and_views_count_whole() -> None:
    x = torch.ones(8, requires_grad=True)
    y = torch.ones(8)
    assert bytes_kept(lambda: (x * y) * y, [x]) == 8 * 4
    assert bytes_kept(lambda: x[:2] * y[:2], [x]) == 8 * 4
    assert bytes_kept(lambda: x * y, [x, y]) == 0


def test_a_table_without_a_case_for_a_dtype_is_an_error() -> None:
    empty = replace(TABLES["tanh"], cases=())
    with pytest.raises(ValueError, match="no case"):
        list(verify_memory(empty))
