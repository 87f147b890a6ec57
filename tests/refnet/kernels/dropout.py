"""Dropout's kernel: what it draws, judged by its results, and Philox by its authors' numbers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from refnet import backend
from refnet.functional import dropout
from refnet.ops.dropout import _FAST
from verification.cases import op_tables
from verification.ops.randomness import randomness_rows

LOW = 2**32 - 1
KNOWN = [  # counter, key and result, from the tests of Random123
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([LOW] * 4, [LOW] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
]  # fmt: skip


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds of Philox 4×32."""
    (a, b, c, d), (k, m) = counter, key
    for _ in range(10):
        left, right = 0xCD9E8D57 * c, 0xD2511F53 * a
        a, b, c, d = (left >> 32) ^ b ^ k, left & LOW, (right >> 32) ^ d ^ m, right & LOW
        k, m = (k + 0x9E3779B9) & LOW, (m + 0xBB67AE85) & LOW
    return [a, b, c, d]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_the_rounds_written_here_are_philoxs(
    counter: list[int], key: list[int], result: list[int]
) -> None:
    assert philox(counter, key) == result


def test_the_kernel_draws_philoxs_numbers() -> None:
    """To the last of 32 bits: a number is kept by the next higher limit, and not by itself."""
    assert not _FAST["cuda"].unsupported(torch.ones(1), 0.5)
    kernel, size, n = _FAST["cuda"].module.drop_kernel, 4, 40
    seed, offset = 0x299F31D0A4093822, 0x0370734413198A2E
    key, ones = torch.tensor([seed, offset]), torch.ones(n)
    halves = [seed & LOW, seed >> 32], [offset & LOW, offset >> 32]
    words = [philox([block, 0, *halves[1]], halves[0]) for block in range(12)]

    def kept(place: int, limit: int) -> bool:
        y = torch.full((n,), 7.0)
        kernel[(3,)](ones, y, key, n, 1.0, limit, BLOCK=size, WIDE=False)
        return bool(y[place] == 1)

    for place in (0, 3, 5, 14, 16, 23, 38):
        program, rest = divmod(place, 4 * size)
        word, i = divmod(rest, size)
        number = words[program * size + i][word]
        assert (kept(place, number), kept(place, number + 1)) == (False, True)


def test_all_rows_of_what_is_drawn_are_green(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _FAST["cuda"].unsupported(torch.ones(1), 0.5)
    monkeypatch.setattr(_FAST["cuda"].module, "BLOCK", 2**12)  # programs take time to interpret
    with warnings.catch_warnings(), backend.recording() as ran:
        warnings.simplefilter("ignore")
        lists = list(randomness_rows(op_tables()["dropout"], dropout, seeds=1))
    assert [row for rows in lists for row in rows if not row.passed] == []
    assert ran.count(("dropout", "cuda")) > 10
    assert ran.count(("dropout backward", "cuda")) > 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_backward_draws_the_same_mask(dtype: torch.dtype) -> None:
    x = torch.rand(5, 7, 11, 3).add(0.5).to(dtype).to(memory_format=torch.channels_last)
    x.requires_grad_()  # none of it is 0, so that y tells what was shut off
    y = dropout(x, 0.3)
    (dx,) = torch.autograd.grad(y, x, torch.ones(5, 7, 11, 3, dtype=dtype))
    torch.testing.assert_close(dx, ((y != 0) / 0.7).to(dtype), rtol=1e-6, atol=0)
    torch.testing.assert_close(y, x * (y != 0) / 0.7)
    assert y.stride() == x.stride()


def test_sixteen_bytes_are_kept() -> None:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dropout(torch.ones(1000, requires_grad=True))
    assert [t.nbytes for t in kept] == [16]


def test_infinity_times_zero_is_nan() -> None:
    y = dropout(torch.full((100,), torch.inf), 0.5)
    assert bool((y.isnan() | y.isinf()).all())
    assert bool(y.isnan().any())


def test_the_seed_and_the_generator_decide() -> None:
    def drawn(seed: int) -> Any:
        return dropout(torch.ones(3000), generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
