"""The activations' loops beside the reference: layouts, special values, threads, gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from refnet import _threads, backend, functional, use_backend
from refnet.functional import leaky_relu, relu, sigmoid, tanh
from refnet.ops.activations import cpu
from verification.ops.memory import bytes_kept

CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "leaky_relu": lambda z: leaky_relu(z, 0.2),
    "tanh": tanh,
    "sigmoid": sigmoid,
}
NEAR = {  # near 1, a is known to eps/2, and 1 − a and 1 − a² to no more than that
    torch.float32: {"rtol": 3e-7, "atol": 5e-7},
    torch.float64: {"rtol": 1e-15, "atol": 1e-15},
}


def both_ways(name: str, z: Tensor, da: Tensor, implementation: str) -> tuple[Tensor, Tensor]:
    z = z.detach().requires_grad_()
    with use_backend(implementation), backend.recording() as ran:
        a = CALLS[name](z)
    assert ran == [(name, implementation)]
    return a.detach(), *torch.autograd.grad(a, z, da)  # type: ignore[return-value]


def assert_same(name: str, z: Tensor, da: Tensor) -> None:
    ours, theirs = (both_ways(name, z, da, each) for each in ("cpu", "reference"))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, equal_nan=True, **NEAR[x.dtype])
    assert ours[0].stride() == theirs[0].stride()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7, 10), (3, 5, 301), (2, cpu.BLOCK)], ids=str)
def test_the_loops_do_what_the_reference_does(
    shape: tuple[int, ...], dtype: torch.dtype, name: str
) -> None:
    torch.manual_seed(0)
    assert_same(name, 3 * torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype))


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": lambda t: torch.stack([t, torch.full_like(t, 9)], -1)[..., 0],
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_input_and_cotangent(layout: str, name: str) -> None:
    torch.manual_seed(0)
    z, da = torch.randn(2, 4, 5, 3, 2)
    for x, y in ((LAYOUTS[layout](z), da), (z, LAYOUTS[layout](da)), (LAYOUTS[layout](z),) * 2):
        assert_same(name, x, y)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", NEAR, ids=str)
def test_special_values(dtype: torch.dtype, name: str) -> None:
    z = torch.tensor([0, -0.0, nan, inf, -inf, 1e30, -1e30, 1e-40, -1e-40, -88, 88], dtype=dtype)
    z = z.repeat(5)  # more than the vector units take at a time
    assert_same(name, z, torch.full_like(z, 2.0))
    assert_same(name, z.abs() + 1, torch.full_like(z, nan))


def test_the_small_tail_of_sigmoid_survives() -> None:
    z = torch.tensor([-40.0, -87.0, -95.0])
    torch.testing.assert_close(sigmoid(z).double(), z.double().exp(), rtol=1e-5, atol=2.0**-149)


@pytest.mark.parametrize("name", CALLS)
def test_threads_are_nowhere_to_be_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    z, da = torch.randn(2, 5 * cpu.BLOCK + 3)
    monkeypatch.setattr(_threads, "SHARE", 2**12)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(both_ways(name, z, da, "cpu"))
    assert all(map(torch.equal, found[0] * 2, found[1] + found[2]))


Z = torch.randn(3, 4)
ELSEWHERE: dict[str, Callable[[], object]] = {
    "float16": lambda: relu(Z.half()),
    "integers": lambda: sigmoid(Z.int()),
    "complex": lambda: tanh(Z.cfloat()),
    "in place": lambda: leaky_relu(Z.clone(), 0.1, True),
    "meta": lambda: sigmoid(Z.to("meta")),
    "a negative view": lambda: relu(torch._neg_view(Z)),
    "vmap": lambda: torch.func.vmap(relu)(Z),
    "grad": lambda: torch.func.grad(lambda z: tanh(z).sum())(Z),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_the_rest_is_the_references(case: str) -> None:
    with backend.recording() as ran:
        ELSEWHERE[case]()
    assert ran[0][1] == "reference"


@pytest.mark.parametrize(
    ("case", "reason"),
    [("float16", "relu: input of torch.float16"), ("in place", "leaky_relu: an in-place call")],
)
def test_forced_it_says_what_it_cannot_do(case: str, reason: str) -> None:
    with use_backend("cpu"), pytest.raises(NotImplementedError, match=reason):
        ELSEWHERE[case]()


@pytest.mark.parametrize("name", CALLS)
def test_higher_derivatives_are_the_references(name: str) -> None:
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    with use_backend("cpu"):
        assert torch.autograd.gradcheck(CALLS[name], z)
        assert torch.autograd.gradgradcheck(CALLS[name], z)


@pytest.mark.parametrize("name", CALLS)
def test_cotangents_that_are_not_plain(name: str) -> None:
    leaf = Z.clone().requires_grad_()
    a, da = CALLS[name](leaf), torch.randn(5, 3, 4)
    each = torch.stack([torch.autograd.grad(a, leaf, c, True)[0] for c in da])
    batched = torch.autograd.grad(a, leaf, da, True, is_grads_batched=True)
    torch.testing.assert_close(batched[0], each)
    negative = torch.autograd.grad(a, leaf, torch._neg_view(-da[0]), True)
    torch.testing.assert_close(negative[0], each[0])


@pytest.mark.parametrize("name", CALLS)
def test_what_is_kept(name: str) -> None:
    leaf = Z.clone().requires_grad_()
    assert bytes_kept(lambda: CALLS[name](leaf), [leaf]) == 0
    assert type(CALLS[name](leaf).grad_fn).__name__ == "CompiledActivationBackward"
    with torch.no_grad():
        assert CALLS[name](leaf).grad_fn is None


@pytest.mark.parametrize("name", CALLS)
def test_the_loops_as_python_do_the_same(name: str) -> None:
    z, da = torch.randn(2, 20, dtype=torch.float64)
    a = getattr(functional, name)(z)
    again, dz = torch.zeros_like(z), torch.zeros_like(z)

    def run(kernel: Any, *tensors: Tensor) -> None:
        kernel.function(*(t.numpy() for t in tensors), 0, 20, 0.01)

    forward, backward = cpu.KERNELS[name]
    if forward is not None:
        run(forward, z, again)
        torch.testing.assert_close(again, a, rtol=1e-15, atol=1e-16)
    kept = z if name == "leaky_relu" else a
    run(backward, da, kept, dz)
    torch.testing.assert_close(dz, cpu.backward(name, da, kept, 0.01), rtol=1e-15, atol=1e-16)
