"""Softmax's and log-softmax's loops beside the reference: dims, layouts, threads, gradients."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from refnet import _threads, backend, functional, use_backend
from refnet.functional import log_softmax, softmax
from refnet.ops.softmax import cpu
from verification.ops.memory import bytes_kept

NAMES = ("softmax", "log_softmax")
SHAPES = [(), (5,), (1, 1), (7, 10), (30, 33), (9, 1000), (3, 5, 7), (2, 40, 300), (2, 3, 5, 4)]
NEAR = {
    torch.float32: {"rtol": 2e-6, "atol": 1e-6},
    torch.float64: {"rtol": 1e-13, "atol": 1e-14},
}


def both_ways(name: str, z: Tensor, dim: int, implementation: str) -> tuple[Tensor, Tensor]:
    """Result and gradient, with a cotangent that is random and the same for all."""
    z = z.detach().requires_grad_()
    with use_backend(implementation), backend.recording() as ran:
        a = getattr(functional, name)(z, dim)
    assert ran == [(name, implementation)]
    a.backward(torch.randn(a.shape, generator=torch.Generator().manual_seed(1)).to(z.dtype))
    assert z.grad is not None
    return a.detach(), z.grad


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, equal_nan=True, check_stride=True, **NEAR[x.dtype])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_loops_do_what_the_reference_does(
    shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> None:
    torch.manual_seed(0)
    z = 3 * torch.randn(shape, dtype=dtype)
    for dim in range(-len(shape), len(shape)) if shape else (0, -1):
        assert_same(*(both_ways(name, z, dim, each) for each in ("cpu", "reference")))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda t: torch.stack([t, torch.full_like(t, 9)], -1)[..., 0],
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [1, -1])
def test_layouts_of_input_and_cotangent(name: str, layout: str, dim: int) -> None:
    torch.manual_seed(0)
    z, da = (LAYOUTS[layout](torch.randn(4, 5, 3, 2)) for _ in range(2))
    found = []
    for implementation in ("cpu", "reference"):
        leaf = z.detach().requires_grad_()
        with use_backend(implementation):
            a = getattr(functional, name)(leaf, dim)
        found.append((a.detach(), *torch.autograd.grad(a, leaf, da)))
    assert_same(*found)
    assert all(x.is_contiguous() for x in found[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [nan, -nan, inf, -inf, 1e38, -1e38])
@pytest.mark.parametrize("dim", [-1, 1])
def test_nan_and_infinity_go_through(name: str, value: float, dim: int) -> None:
    torch.manual_seed(0)
    z = torch.randn(3, 40, 40)
    z[0, 7, 7] = value
    z[1] = value
    z[2, 0, 0] = value
    assert_same(*(both_ways(name, z, dim, each) for each in ("cpu", "reference")))


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 2)], ids=str)
def test_denormal_probabilities_survive(shape: tuple[int, ...]) -> None:
    z = torch.tensor([0.0, -95.0, -102.0]).reshape(1, 3, 1).expand(1, 3, 2).contiguous()
    z = z[..., 0] if shape == (1, 3) else z
    a = softmax(z, 1).double()
    assert (a != 0).all()
    assert (a - z.double().exp()).abs().max() <= 2.0**-149


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "dim"), [((3000, 40), 1), ((7, 60_000), 1), ((3, 40, 1000), 1)], ids=str
)
def test_threads_are_nowhere_to_be_seen(
    name: str, shape: tuple[int, ...], dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = torch.randn(shape)
    monkeypatch.setattr(_threads, "SHARE", 2**12)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(both_ways(name, z, dim, "cpu"))
    assert all(map(torch.equal, found[0] * 2, found[1] + found[2]))


def test_several_threads_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    batches = [torch.randn(400, 1000) for _ in range(4)]

    def work(z: Tensor) -> tuple[Tensor, Tensor]:
        return both_ways("softmax", z, 1, "cpu")

    alone = [work(z) for z in batches]
    with ThreadPoolExecutor(4) as pool:
        for ours, again in zip(alone, pool.map(work, batches), strict=True):
            assert all(map(torch.equal, ours, again))


class Scores(Tensor):
    pass


def forward_mode() -> object:
    with torch.autograd.forward_ad.dual_level():
        return softmax(Z, 1)


Z = torch.randn(3, 4)
ELSEWHERE: dict[str, Callable[[], object]] = {
    "bfloat16": lambda: softmax(Z.bfloat16(), 1),
    "another dtype": lambda: softmax(Z, 1, dtype=torch.float64),
    "a negative view": lambda: log_softmax(torch._neg_view(Z), 1),
    "no rows": lambda: softmax(Z[:0], 1),
    "a subclass": lambda: softmax(Z.as_subclass(Scores), 1),
    "meta": lambda: log_softmax(Z.to("meta"), 1),
    "vmap": lambda: torch.func.vmap(lambda z: softmax(z, 1))(Z[None]),
    "grad": lambda: torch.func.grad(lambda z: softmax(z, 1)[0, 0])(Z),
    "forward mode": forward_mode,
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_the_rest_is_the_references(case: str) -> None:
    with backend.recording() as ran:
        ELSEWHERE[case]()
    assert ran[0][1] == "reference"


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("bfloat16", "dtype torch.bfloat16"),
        ("another dtype", "torch.float64 of torch.float32"),
        ("no rows", "no numbers"),
        ("a negative view", "a Tensor of layout torch.strided on cpu, which is not plain memory"),
    ],
)
def test_forced_it_says_what_it_cannot_do(case: str, reason: str) -> None:
    with use_backend("cpu"), pytest.raises(NotImplementedError, match=f"softmax: {reason}"):
        ELSEWHERE[case]()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dim", [1, 2])
def test_higher_derivatives_are_the_references(name: str, dim: int) -> None:
    torch.manual_seed(0)
    z, direction = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    found = []
    for implementation in ("cpu", "reference"):
        leaf = z.clone().requires_grad_()
        with use_backend(implementation):
            a = getattr(functional, name)(leaf, dim)
        (dz,) = torch.autograd.grad((a * a * direction).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad((dz * direction).sum(), leaf, create_graph=True)
        (third,) = torch.autograd.grad((second * direction).sum(), leaf)
        found.append((dz.detach(), second.detach(), third))
    assert_same(*found)
    with use_backend("cpu"):
        leaf = z.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda z: getattr(functional, name)(z, dim), leaf)
        assert torch.autograd.gradgradcheck(lambda z: getattr(functional, name)(z, dim), leaf)


def test_a_cotangent_that_is_a_negative_view() -> None:
    leaf = Z.clone().requires_grad_()
    result = softmax(leaf, 1)
    da = torch.randn_like(result)
    found = [torch.autograd.grad(result, leaf, d, True) for d in (torch._neg_view(-da), da)]
    assert_same(*found)


@pytest.mark.parametrize("name", NAMES)
def test_batched_cotangents(name: str) -> None:
    leaf = Z.clone().requires_grad_()
    a, cotangents = getattr(functional, name)(leaf, 1), torch.randn(5, 3, 4)
    (batched,) = torch.autograd.grad(a, leaf, cotangents, True, is_grads_batched=True)
    each = [torch.autograd.grad(a, leaf, c, True)[0] for c in cotangents]
    torch.testing.assert_close(batched, torch.stack(each))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_and_seen_when_changed(name: str) -> None:
    leaf = Z.clone().requires_grad_()
    assert bytes_kept(lambda: getattr(functional, name)(leaf, 1), [leaf]) == 0
    a = getattr(functional, name)(leaf, 1)
    assert type(a.grad_fn).__name__ == "CompiledSoftmaxBackward"
    with torch.no_grad():
        a.mul_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        a.sum().backward()
    with torch.no_grad():
        assert getattr(functional, name)(leaf, 1).grad_fn is None


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("shape", [(4, 5), (2, 5, 3)], ids=str)
def test_the_loops_as_python_do_the_same(shape: tuple[int, ...], logarithm: bool) -> None:
    z, da = torch.randn(2, *shape, dtype=torch.float64)
    a = cpu.forward(z, 1, logarithm)
    dz = cpu.backward(da, a, 1, logarithm)
    again, dz_again, scratch = torch.zeros_like(a), torch.zeros_like(a), torch.zeros(3, 12).double()

    def flat(*tensors: Tensor) -> Any:
        return (t.numpy().ravel() for t in tensors)

    if len(shape) == 2:
        cpu.rows_forward.function(*flat(z, again), 0, 1, 4, 5, 8, logarithm)
        cpu.rows_backward.function(*flat(da, a, dz_again), 0, 1, 4, 5, 8, logarithm)
    else:
        cpu.tiles_forward.function(*flat(z, again), 0, 4, 5, 2, 3, *flat(*scratch), logarithm)
        cpu.tiles_backward.function(
            *flat(da, a, dz_again), 0, 4, 5, 2, 3, *flat(*scratch[:2]), logarithm
        )
    assert_same((again, dz_again), (a, dz))
