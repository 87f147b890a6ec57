"""Dropout's loop beside the reference: the same function of its mask, and what its masks are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from refnet import _compile, backend, use_backend
from refnet.functional import dropout, dropout2d
from refnet.ops.dropout import cpu
from verification.ops.memory import bytes_kept

# What torch says of its own forward mode and of its own compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated"),
]
BOTH = [("dropout", "cpu"), ("dropout backward", "cpu")]
SHAPES = [(), (1,), (40, 30), (7, 5, 3), (2, 3, 4, 5)]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: (
        x.movedim(1, -1).contiguous().movedim(-1, 1) if x.dim() > 2 else x.contiguous()
    ),
    "transposed": lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape) if x.dim() else x,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def drawn(x: Tensor, p: float, seed: int = 5) -> Tensor:
    """The mask of the next call under a seed, in the strides that torch's result has."""
    torch.manual_seed(seed)
    kept = dropout(torch.empty_like(x).fill_(1), p) != 0
    torch.manual_seed(seed)
    return kept


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.9])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_given_its_mask_the_bits_are_the_references(
    shape: tuple[int, ...], layout: str, p: float, dtype: torch.dtype
) -> None:
    x = LAYOUTS[layout](torch.randn(shape, dtype=dtype)).requires_grad_()
    dy = torch.randn(shape, dtype=dtype)
    mask = drawn(x.detach(), p)
    with use_backend("cpu"), backend.recording() as ran:
        y = dropout(x, p)
        (dx,) = torch.autograd.grad(y, x, dy)
    assert ran == BOTH
    again = dropout(x, p, mask=mask)
    (same,) = torch.autograd.grad(again, x, dy)
    assert torch.equal(y, again)
    assert torch.equal(dx, same)
    assert x.numel() < 2 or y.stride() == torch.nn.functional.dropout(x, p).stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_infinity_and_denormals(dtype: torch.dtype) -> None:
    """∞ is multiplied by 0 where it is shut off, and not replaced."""
    tiny = torch.finfo(dtype).tiny / 8
    x = torch.tensor([inf, -inf, nan, tiny, -0.0] * 20, dtype=dtype)
    mask = drawn(x, 0.5)
    expected = dropout(x, 0.5, mask=mask)
    torch.testing.assert_close(dropout(x, 0.5), expected, rtol=0, atol=0, equal_nan=True)
    assert bool(expected[3::5].any())


def test_the_rounds_are_those_of_splitmix64() -> None:
    """The numbers that its authors' own code makes of the seed 1234567, one after the other."""
    found = [cpu._random(k, 1234567, 0) & (2**64 - 1) for k in range(1, 4)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    key, ones, y = torch.tensor([1234567, 0]), torch.ones(8), torch.empty(8)
    call: Any = cpu.drop.get(torch.float32)
    halves = [half for number in found for half in (number & cpu.LOW, number >> 32)]
    for place, half in enumerate(halves, start=2):
        for limit, kept in ((half, 0), (half + 1, 1)):  # exact to the last of 32 bits
            call(ones.data_ptr(), y.data_ptr(), key.data_ptr(), 8, 0, 4, 1.0, limit)
            assert y[place] == kept


@pytest.mark.parametrize("p", [1e-4, 0.1, 0.5, 0.9, 1 - 1e-4])
def test_as_many_are_kept_as_should_be(p: float) -> None:
    n = 2**22
    kept = int((dropout(torch.ones(n), p) != 0).sum())
    assert abs(kept - n * (1 - p)) < 5 * (n * p * (1 - p)) ** 0.5


def test_bits_do_not_hang_together() -> None:
    """Neighbours, halves of a number, distant places, other keys: all correlations are noise."""
    masks = torch.stack([dropout(torch.ones(2**18), 0.5) for _ in range(6)]).double() - 1
    bound = 5 / 2**9
    flat = masks.flatten()
    for lag in (1, 2, 3, 4, 8, 64, 1024, 2**17, 2**18, 3 * 2**18):
        assert abs(float((flat[lag:] * flat[:-lag]).mean())) < bound
    pairs = (masks.long() > 0).view(6, -1, 16)
    counts = torch.bincount((pairs * 2 ** torch.arange(16)).sum(-1).flatten(), minlength=2**16)
    expected = counts.double().mean()
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi2 - 2**16) < 5 * (2 * 2**16) ** 0.5


def test_the_seed_and_the_generator_decide() -> None:
    x = torch.ones(1000)
    torch.manual_seed(1)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(1)
    assert torch.equal(dropout(x), first)
    assert torch.equal(dropout(x.double()).float(), second)  # whatever the dtype
    assert not torch.equal(first, second)
    state = torch.get_rng_state()
    draws = [dropout(x, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("implementation", ["cpu", "auto"])
def test_in_place(implementation: str) -> None:
    leaf = torch.randn(40, 30, requires_grad=True)
    mask = drawn(leaf.detach(), 0.3)
    with use_backend(implementation):
        input = leaf * 1
        y = dropout(input, 0.3, inplace=True)
        assert y is input
        (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            dropout(leaf, 0.3, inplace=True)
    assert torch.equal(y, dropout(leaf, 0.3, mask=mask))
    assert torch.equal(dx, dropout(torch.ones_like(leaf), 0.3, mask=mask))


def test_threads_are_nowhere_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(10_001)
    found = []
    for threads, share in ((1, 2**16), (2, 100), (3, 7)):
        monkeypatch.setattr(cpu, "SHARE", share)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.manual_seed(0)
        found.append(dropout(x, 0.3))
    assert all(torch.equal(found[0], other) for other in found)


def test_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(cpu, "SHARE", 1000)

    def work(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        x = torch.ones(100_000, requires_grad=True)
        y = dropout(x, 0.3, generator=generator)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert torch.equal(dx, y)
        return y

    alone = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, alone, pool.map(work, range(4))))


FORKED = """
import os, torch
from refnet.functional import dropout
threads = torch.get_num_threads
torch.set_num_threads(1)  # for torch: a forked child hangs in a parallel loop of torch's own
torch.get_num_threads = lambda: 2
generator = torch.Generator()
draw = lambda: dropout(torch.ones(2**20), 0.3, generator=generator.manual_seed(7))
expected = draw()
child = os.fork()
if not child:
    os._exit(0 if torch.equal(draw(), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_in_a_forked_child() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED], check=True, timeout=120)


def test_higher_orders() -> None:
    """The mask stays the same; the loop is its own derivative."""
    x = torch.randn(40, dtype=torch.float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return dropout(x, 0.4, generator=torch.Generator().manual_seed(3))

    with use_backend("cpu"), backend.recording() as ran:
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(lambda x: function(x.sin()), x)
        mask = function(torch.ones_like(x)) != 0
        y = function(x)
        (dx,) = torch.autograd.grad(y.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(dx.sum(), x)
    assert {name for _, name in ran} == {"cpu"}
    torch.testing.assert_close(second, 6 * x.detach() * mask / 0.6**3)


def test_cotangents_of_any_kind() -> None:
    x = torch.randn(4, 3, 6, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = dropout(x, 0.4)
    scale = dropout_scale(y, x)
    for dy in (
        torch.randn(4, 3, 6, 5), torch.randn(1, 3, 1, 1).expand(4, 3, 6, 5),
        torch._neg_view(torch.randn(4, 3, 6, 5)), torch.randn(5, 6, 3, 4).permute(3, 2, 1, 0),
    ):  # fmt: skip
        (dx,) = torch.autograd.grad(y, x, dy, retain_graph=True)
        assert torch.equal(dx, dy * scale)
    batch = torch.randn(2, 4, 3, 6, 5)
    (dx,) = torch.autograd.grad(y, x, batch, is_grads_batched=True)
    assert torch.equal(dx, batch * scale)


def dropout_scale(y: Tensor, x: Tensor) -> Tensor:
    return torch.where(y.detach() != 0, torch.tensor(1.0) / torch.tensor(0.6), 0)


def test_a_checkpoint_draws_the_same_mask_again() -> None:
    x = torch.randn(1000, requires_grad=True)
    y = checkpoint(lambda x: dropout(x.sin(), 0.5), x, use_reentrant=False)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(dx != 0, y != 0)


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "vmap": lambda f, x: torch.func.vmap(f, randomness="different")(torch.stack([x, x])),
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "compile": lambda f, x: torch.compile(f, backend="eager", fullgraph=True)(x),
    "meta": lambda f, x: f(x.to("meta")),
    "bfloat16": lambda f, x: f(x.bfloat16()),
    "nothing": lambda f, x: f(x[:0]),
    "p = 1": lambda f, x: dropout(x, 1.0),
    "a mask": lambda f, x: dropout(x, mask=x > 0),
    "subclass": lambda f, x: f(x.as_subclass(type("Sub", (Tensor,), {}))),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_the_loop_cannot_serve_goes_to_the_reference(
    transform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []

    def choose(op: str, *args: Any, **options: Any) -> str:
        chosen.append(plain(op, *args, **options))
        return chosen[-1]

    plain = backend.choose
    monkeypatch.setattr(backend, "choose", choose)
    TRANSFORMS[transform](lambda x: dropout(x, 0.5), torch.randn(6, 3))
    assert chosen == ["reference"]


def test_forced_it_says_what_it_cannot_do() -> None:
    x = torch.ones(6, 3)
    for input, options, reason in (
        (x.bfloat16(), {}, "input of torch.bfloat16"),
        (x, {"p": 1.0}, "p of 1.0"),
        (x, {"mask": x > 0}, "a mask from outside"),
    ):
        with use_backend("cpu"), pytest.raises(NotImplementedError, match="dropout: " + reason):
            dropout(input, **options)  # type: ignore[arg-type]
    with use_backend("cpu"):
        assert dropout(x, training=False) is x
        assert dropout(x, 0.0) is x
        dropout2d(torch.ones(2, 3, 2, 2))  # has the reference alone
        with pytest.raises(ValueError, match="between 0 and 1, but got 2"):
            dropout(x, 2)


def test_under_the_reference_the_masks_are_torchs() -> None:
    x = torch.randn(100)
    torch.manual_seed(0)
    expected = torch.nn.functional.dropout(x, 0.3)
    torch.manual_seed(0)
    with use_backend("reference"):
        assert torch.equal(dropout(x, 0.3), expected)


def test_without_compiled_code_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "_failure", "none here")
    monkeypatch.setattr(cpu.drop, "_calls", {})
    with backend.recording() as ran:
        dropout(torch.randn(4, 3))
    assert ran == [("dropout", "reference")]


def test_a_key_of_16_bytes_is_kept() -> None:
    x = torch.randn(1000, requires_grad=True)
    assert bytes_kept(lambda: dropout(x, 0.3), [x]) == 16
    assert bytes_kept(lambda: dropout(x.detach(), 0.3), [x]) == 0
    with torch.no_grad():
        assert not dropout(x, 0.3).requires_grad
