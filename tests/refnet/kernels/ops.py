# ruff: noqa: E501
"""Ops on kernels: the rows of the case tables, planted bugs, and what the tables don't ask."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from refnet import backend, use_backend
from refnet.functional import cross_entropy, log_softmax, softmax
from refnet.ops._tiles import tiles
from refnet.ops.batch_norm.cuda import tile_of
from verification.cases import Case, OpTable, op_tables
from verification.ops.rows import op_rows

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Of cases in pairs of options the first few: the rest has nothing else for a kernel.
PAIRS = 4
LARGE = 500  # numbers; the interpreter is slow


def rows_of(table: OpTable, cases: list[Case], dtypes: Any = DTYPES, seeds: int = 1) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = dataclasses.replace(table, cases=tuple(cases))
        lists = op_rows(table, dtypes=dtypes, seeds=seeds, own=True)
        return [row for rows in lists for row in rows]


def cases_of(table: OpTable) -> list[Case]:
    named = [case for case in table.cases if not case.values]
    if table.name == "batch_norm":  # whose cases are many, and some large
        generator = np.random.default_rng(0)
        named = [case for case in named if case.draw(generator)["input"].size <= LARGE][::3]
    return named + [case for case in table.cases if case.values][:PAIRS]


@pytest.mark.parametrize("op", ["softmax", "log_softmax", "cross_entropy", "batch_norm"])
def test_all_rows_are_green(op: str) -> None:
    table = op_tables()[op]
    cases = cases_of(table)
    with backend.recording() as ran:
        rows = rows_of(table, cases)
    assert [row for row in rows if not row.passed] == []
    assert ran.count((op, "cuda")) > len(cases) > 10


def load(module: str, old: str, new: str, folder: Path) -> ModuleType:
    """Return a module with one text in place of another."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{text.count(old)} times: {old}"
    file = folder / "cuda.py"
    file.write_text(text.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None
    assert spec.loader is not None
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    return changed


BUGS = [
    ("softmax", "easy", "total = total * exp(top - base) + tl", "total = tl.sum(exp(x), 1)[:, None] * 0 + tl"),
    ("softmax", "scores to 1e4", "exp(x - top) * factor", "exp(x) * factor"),
    ("softmax", "easy", "exp(x - top) * factor", "exp(x - top)"),
    ("softmax", "easy", "x = y * (x - total)", "x = y * x"),
    ("softmax", "easy", "x = y * (x - total)", "x = y * (x + total)"),
    ("softmax", "easy", "if not LOGARITHM:\n            x *=", "if LOGARITHM:\n            x *="),
    ("softmax", "pairs, dims 4, dim first, layout sliced", "z, a = z.contiguous(),", "z, a = z,"),
    ("log_softmax", "easy", "- log_sum  #", "#"),
    ("log_softmax", "pairs, dims 4, dim first, layout sliced", "(x - top).to(tl.float64) - log_sum", "x - (top + log_sum.to(tl.float32))"),
    ("log_softmax", "easy", "x -= exp(y) * total", "x -= y * total"),
    ("log_softmax", "easy", "x -= exp(y) * total", "x -= total"),
    ("cross_entropy", "", "total = total * exp(top - base) + ", "total = total + "),
    ("cross_entropy", "", "s_own * w_own * (log_sum", "w_own * (log_sum"),
    ("cross_entropy", "", "s_own * w_own * (log_sum", "s_own * (log_sum"),
    ("cross_entropy", "", "loss += s_each * even", "loss += even"),
    ("cross_entropy", "", "each = w_c * (log_sum", "each = (log_sum"),
    ("cross_entropy", "", "loss = tl.where(kept, loss, 0.0)", "loss = tl.where(there, loss, 0.0)"),
    ("cross_entropy", "", "kept = there & (own != ignore_index)", "kept = there"),
    ("cross_entropy", "", "weight = weight * 0 + 1", "weight = weight"),
    ("cross_entropy", "", "(loss / weight)", "loss"),
    ("cross_entropy", "", "up * q_all / total, up", "up * q_all, up"),
    ("cross_entropy", "", "up * q_all / total, up", "up * q_own / total, up"),
    ("cross_entropy", "", "c[None, :] == own[:, None], q_own", "c[None, :] == own[:, None] + 1, q_own"),
    ("cross_entropy", "", "tl.load(g).to(tl.float64) / tl.load(kept_of + rows + rows).to(tl.float64)", "tl.load(g).to(tl.float64)"),
    ("batch_norm", "easy", "x = (x - mean[:, None]) * scale", "x = x * scale"),
    ("batch_norm", "easy", "var = squares / m\n", "var = squares / (m - 1)\n"),
    ("batch_norm", "easy", "share * (squares / (m - 1))", "share * (squares / m)"),
    ("batch_norm", "easy", "scale, shift = inv_std, ", "scale, shift = 1 / (tl.sqrt(var) + eps), "),
    ("cross_entropy", "in slices, 12×5, indices, none, sliced", "g, dz = grad.contiguous(),", "g, dz = grad,"),
]  # fmt: skip


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several chunks and several programs, for small inputs too."""
    monkeypatch.setattr("refnet.ops._tiles.NUMBERS", 32)
    monkeypatch.setattr("refnet.ops._tiles.ROW", 4)
    tiles.cache_clear()
    yield
    tiles.cache_clear()


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize(("op", "case", "old", "new"), BUGS)
def test_a_planted_bug_is_found(
    op: str, case: str, old: str, new: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = op_tables()[op]
    kernels = _kernels(op)
    monkeypatch.setattr(kernels, "module", load(kernels.name, old, new, tmp_path))
    cases = [c for c in table.cases if "float32" in c.dtypes and case in (c.name, "")]
    assert cases
    for one in cases:
        if not all(row.passed for row in rows_of(table, [one], (torch.float32,))):
            return
    pytest.fail("no row noticed it")


def _kernels(op: str) -> Any:
    package = {"log_softmax": "softmax"}.get(op, op)
    fast = importlib.import_module(f"refnet.ops.{package}")._FAST["cuda"]
    return fast[0] if isinstance(fast, tuple) else fast


@pytest.mark.parametrize("shape", [(3, 9000), (2, 5000, 3), (300, 2), (5, 3, 200)])
@pytest.mark.parametrize("op", [softmax, log_softmax])
def test_rows_in_several_chunks_and_programs(op: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).mul_(3).requires_grad_()
    da = torch.randn(shape)
    a = op(x, 1)
    (dz,) = torch.autograd.grad(a, x, da)
    with use_backend("reference"):
        expected = op(x, 1)
        (slope,) = torch.autograd.grad(expected, x, da)
    torch.testing.assert_close(a, expected, rtol=2e-6, atol=1e-30)
    torch.testing.assert_close(dz, slope, rtol=2e-6, atol=1e-6 * float(slope.abs().max()))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("shape", [(3, 9000), (2, 5000, 3), (200, 2)])
def test_losses_of_several_chunks_and_programs(shape: tuple[int, ...], reduction: str) -> None:
    x = torch.randn(shape).mul_(3).requires_grad_()
    y = torch.randint(shape[1], (shape[0], *shape[2:]))
    y.view(-1)[1] = 1
    options: Any = {"weight": torch.rand(shape[1]), "ignore_index": 1, "reduction": reduction}
    loss = cross_entropy(x, y, label_smoothing=0.1, **options)
    (dz,) = torch.autograd.grad(loss.sum(), x)
    with use_backend("reference"):
        expected = cross_entropy(x, y, label_smoothing=0.1, **options)
        (slope,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(dz, slope, rtol=2e-6, atol=1e-6 * float(slope.abs().max()))


def test_minus_infinity_in_a_whole_chunk() -> None:
    x = torch.full((9000,), -torch.inf)
    x[8000] = 3.0
    assert softmax(x, 0).sum() == 1
    assert log_softmax(x, 0)[8000] == 0


def test_numbers_in_a_row_to_ignore_are_not_looked_at() -> None:
    x = torch.tensor([[torch.nan, torch.inf, 1e30], [1.0, 2.0, 3.0]], requires_grad=True)
    cross_entropy(x, torch.tensor([-100, 1])).backward()
    assert x.grad is not None
    assert x.grad[0].tolist() == [0, 0, 0]
    assert bool(x.grad[1].isfinite().all())


def test_a_label_out_of_bounds_is_an_error() -> None:
    with pytest.raises(IndexError, match="Target 3 is out of bounds"):
        cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))


def test_offsets_past_two_to_the_31() -> None:
    """The wide addresses give the same results; 2³¹ numbers are too many for a test."""
    cuda = importlib.import_module("refnet.ops.softmax.cuda")
    z = torch.randn(4, 5, 6)
    cut = cuda.tiles(z.shape, 1)
    a = [torch.empty_like(z), torch.empty_like(z)]
    for result, wide in zip(a, (False, True), strict=True):
        options = {**cut.options, "WIDE": wide}
        cuda.forward_kernel[(cut.programs,)](z, result, *cut.sizes, LOGARITHM=False, **options)
    assert torch.equal(*a)
    assert cuda.tiles((2**16, 2**16), 1).options["WIDE"]
    assert not cuda.tiles((2**14, 2**15), 1).options["WIDE"]


@triton.jit
def places_kernel(
    places, tile, m, channels, length,
    CHANNELS: tl.constexpr, VALUES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    _, at, _ = tile_of(tile, m, channels, length, CHANNELS, VALUES, WIDE)
    each = tl.arange(0, CHANNELS)[:, None] * VALUES + tl.arange(0, VALUES)[None, :]
    tl.store(places + each, at)


@pytest.mark.parametrize(
    ("tile", "channels", "length", "first"),
    [
        (0, 3, 2**31, [0, 2**31]),  # a late channel
        (2**30, 1, 2**40, [2**32, 2**32 + 2**40]),  # a late tile
        (2**30, 2, 1, [2**33, 2**33 + 1]),  # channels last
    ],
)
def test_batch_norms_places_past_two_to_the_31(
    tile: int, channels: int, length: int, first: list[int]
) -> None:
    places = torch.empty(2, 4, dtype=torch.int64)
    sizes = {"CHANNELS": 2, "VALUES": 4, "WIDE": True}
    places_kernel[(1,)](places, tile, 2**33, channels, length, **sizes)
    step = channels if length == 1 else 1
    assert places.tolist() == [[at + j * step for j in range(4)] for at in first]
