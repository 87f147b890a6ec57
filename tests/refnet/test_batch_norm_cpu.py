"""Batch norm's loops beside the reference: layouts, options, blocks, threads, odd calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from refnet import _compile, backend, use_backend
from refnet.functional import batch_norm
from refnet.ops.batch_norm import cpu
from verification.ops.memory import bytes_kept

# What torch says of its own forward mode and of its own compiler.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated"),
    pytest.mark.filterwarnings("ignore:.* should not be instantiated"),
]
BOTH = [("batch_norm", "cpu"), ("batch_norm backward", "cpu")]
NEAR = {torch.float32: 3e-7, torch.float64: 2e-14}

# Beside small batches: several blocks, of parts of a row and of rows, and several chunks.
SHAPES = [
    (2, 3), (64, 5), (4000, 17), (5, 3, 4), (1, 2, 9), (4, 3, 6, 5), (4, 3, 1, 1), (2, 3, 90, 120),
    (300, 2, 7, 7), (3, 2, 2, 3, 4),
]  # fmt: skip
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
}


def draw(shape: tuple[int, ...], dtype: torch.dtype, offset: float = 3.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(len(shape))
    normal = lambda *s: torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    c = shape[1]
    return {
        "input": normal(*shape) * 2 + offset, "running_mean": normal(c),
        "running_var": normal(c).square() + 0.1, "weight": normal(c), "bias": normal(c),
        "cotangent": normal(*shape),
    }  # fmt: skip


def run(
    implementation: str, given: dict[str, Any], wanted: str = "input weight bias", **options: Any
) -> tuple[list[Any], list[tuple[str, str]]]:
    """Return output, gradients and statistics, and what ran."""
    given = {n: None if t is None else t.clone() if "running" in n else t.detach()
             for n, t in given.items()}  # fmt: skip
    cotangent = given.pop("cotangent")
    leaves = [given[n].requires_grad_() for n in wanted.split() if given[n] is not None]
    with use_backend(implementation), backend.recording() as ran:
        output = batch_norm(**given, **options)
        gradients = torch.autograd.grad(output, leaves, cotangent) if leaves else ()
    return [output.detach(), *gradients, given["running_mean"], given["running_var"]], ran


def assert_near(ours: list[Any], theirs: list[Any], rtol: float) -> None:
    """Relative to the largest value, or to nothing if that is not finite."""
    assert len(ours) == len(theirs)
    for x, y in zip(ours, theirs, strict=True):
        if y is None:
            assert x is None
            continue
        assert (x.dtype, x.shape, x.stride()) == (y.dtype, y.shape, y.stride())
        finite = y.detach()[y.isfinite()].abs()
        size = float(finite.max()) if finite.numel() else 1.0
        torch.testing.assert_close(x, y, rtol=0, atol=rtol * size, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_loops_do_what_the_reference_does(
    shape: tuple[int, ...], layout: str, training: bool, dtype: torch.dtype
) -> None:
    given = draw(shape, dtype)
    given["input"] = LAYOUTS[layout](given["input"])
    options = {"training": training, "momentum": 0.3, "eps": 1e-3}
    ours, ran = run("cpu", given, **options)
    assert ran == BOTH
    theirs, ran = run("reference", given, **options)
    assert ran == [("batch_norm", "reference")]
    # dz of two values is what is left of sums that cancel
    assert_near(ours, theirs, (1e3 if shape == (2, 3) else 1) * NEAR[dtype])


@pytest.mark.parametrize("shape", [(64, 5), (4, 3, 6, 5)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("missing", list(product((False, True), repeat=3)), ids=str)
def test_what_is_not_given(
    shape: tuple[int, ...], training: bool, missing: tuple[bool, ...]
) -> None:
    given = draw(shape, torch.float64)
    for without, names in zip(missing, ("weight", "bias", "running_mean running_var"), strict=True):
        if without and (training or "running" not in names):
            given.update(dict.fromkeys(names.split()))
    ours, ran = run("cpu", given, training=training)
    assert ran == BOTH
    assert_near(ours, run("reference", given, training=training)[0], NEAR[torch.float64])


@pytest.mark.parametrize("shape", [(64, 5), (4, 3, 6, 5)], ids=str)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wanted", ["input", "weight", "bias", "input bias", "weight bias", ""])
def test_the_gradients_that_are_wanted(shape: tuple[int, ...], training: bool, wanted: str) -> None:
    given = draw(shape, torch.float64)
    ours, ran = run("cpu", given, wanted, training=training)
    assert ran == (BOTH if wanted else BOTH[:1])
    theirs, _ = run("reference", given, wanted, training=training)
    assert_near(ours, theirs, NEAR[torch.float64])


@pytest.mark.parametrize("momentum", [0.0, 1.0, torch.tensor(0.25, dtype=torch.float64)])
def test_momentum_and_no_grad(momentum: Any) -> None:
    given = draw((64, 5), torch.float64)
    del given["cotangent"]
    found = []
    for implementation in ("cpu", "reference"):
        copies = {n: t.clone() for n, t in given.items()}
        copies["weight"].requires_grad_()
        with torch.no_grad(), use_backend(implementation):
            y = batch_norm(**copies, training=True, momentum=momentum)
        assert not y.requires_grad
        found.append([y, copies["running_mean"], copies["running_var"]])
    assert_near(*found, NEAR[torch.float64])


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(9000, 3), (2, 3, 90, 120), (300, 2, 7, 7)], ids=str)
def test_a_large_mean_takes_nothing_away(shape: tuple[int, ...], layout: str) -> None:
    """In several blocks too, and where they lie far from each other."""
    for dtype in (torch.float32, torch.float64):
        given = draw(shape, dtype, offset=1e4)
        given["input"][shape[0] // 2 :] += 1000
        given["input"] = LAYOUTS[layout](given["input"])
        exact = {n: t.double() for n, t in given.items()}
        theirs, _ = run("reference", exact, training=True)
        if dtype == torch.float32:
            theirs = [t.float() for t in theirs]
        rtol = 3e-7 if dtype == torch.float32 else 1e-11
        assert_near(run("cpu", given, training=True)[0], theirs, rtol)


@pytest.mark.parametrize("shape", [(4000, 9), (1, 4, 90, 100), (5, 4, 3)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_nan_and_infinity_go_through(shape: tuple[int, ...], training: bool) -> None:
    given = draw(shape, torch.float32)
    for channel, value in enumerate((nan, inf, -inf)):
        given["input"][0, channel].view(-1)[0] = value
    ours, _ = run("cpu", given, training=training)
    assert_near(ours, run("reference", given, training=training)[0], NEAR[torch.float32])
    assert bool(ours[0][:, 3:].isfinite().all())


def test_denormals_survive() -> None:
    given = draw((16, 3), torch.float32)
    given["input"] *= 1e-40
    given["weight"][:], given["bias"][:], given["running_mean"][:] = 1e-3, 0, 0
    given["running_var"][:] = 1e-5
    ours, _ = run("cpu", given, training=False, eps=1e-3)
    assert bool((ours[0] != 0).any())
    assert_near(ours, run("reference", given, training=False, eps=1e-3)[0], 1e-3)


COTANGENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "expanded": lambda dy: dy[:1, :, :, :1].expand(dy.shape),
    "the other layout": lambda dy: dy.to(memory_format=torch.channels_last),
    "with gaps": lambda dy: torch.stack([dy, dy], -1)[..., 0],
    "a negative view": torch._neg_view,
}


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("cotangent", COTANGENTS)
def test_cotangents_of_any_strides(cotangent: str, layout: str) -> None:
    given = draw((4, 3, 6, 5), torch.float64)
    input = LAYOUTS[layout](given["input"]).requires_grad_()
    weight = given["weight"].requires_grad_()
    dy = COTANGENTS[cotangent](given["cotangent"])
    found = []
    for implementation in ("cpu", "reference"):
        with use_backend(implementation):
            y = batch_norm(input, None, None, weight, training=True)
        found.append(list(torch.autograd.grad(y, (input, weight), dy)))
    assert_near(*found, NEAR[torch.float64])


@pytest.mark.parametrize("shape", [(4001, 17), (40, 5, 11, 13)], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_threads_are_nowhere_to_be_seen(
    shape: tuple[int, ...], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = draw(shape, torch.float32)
    given["input"] = LAYOUTS[layout](given["input"])
    monkeypatch.setattr(cpu, "CHUNK", 2000)
    found = []
    for threads, share in ((1, 2**17), (2, 1000), (3, 100)):
        monkeypatch.setattr(cpu, "SHARE", share)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        for training in (True, False):
            found.append(run("cpu", given, training=training)[0])
    for i, results in enumerate(found):
        assert all(map(torch.equal, results, found[i % 2]))


def work(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(600, 64, 3, 3, generator=generator).requires_grad_()
    y = batch_norm(z, None, None, training=True)
    return [y.detach(), *torch.autograd.grad(y, z, torch.randn(y.shape, generator=generator))]


def test_several_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    alone = [work(seed) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for once, again in zip(alone, pool.map(work, range(3)), strict=True):
            assert all(map(torch.equal, once, again))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_a_forked_child(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked child hangs in a parallel loop of torch's own
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    expected = work(0)
    if not (child := os.fork()):
        with torch.no_grad():  # autograd itself doesn't survive a fork
            z = torch.randn(600, 64, 3, 3, generator=torch.Generator().manual_seed(0))
            same = torch.equal(batch_norm(z, None, None, training=True), expected[0])
        os._exit(0 if same else 1)
    torch.set_num_threads(threads)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 2, 2)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_higher_orders_are_the_references(shape: tuple[int, ...], training: bool) -> None:
    given = draw(shape, torch.float64)
    mean, var = given["running_mean"], given["running_var"]
    leaves = [given[n].requires_grad_() for n in ("input", "weight", "bias")]

    def function(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_norm(z, mean.clone(), var.clone(), weight, bias, training)

    with use_backend("cpu"), backend.recording() as ran:
        assert torch.autograd.gradgradcheck(function, leaves, given["cotangent"])
    assert set(ran) == {("batch_norm", "cpu")}  # no backward is that of the loops
    found = []
    for implementation in ("cpu", "reference"):
        with use_backend(implementation):
            (dz,) = torch.autograd.grad(function(*leaves).sin().sum(), leaves[0], create_graph=True)
            found.append([dz, *torch.autograd.grad(dz.square().sum(), leaves[:2])])
    assert_near(*found, 1e-12)


def test_cotangents_in_batches_go_to_the_reference() -> None:
    given = draw((6, 3), torch.float64)
    z, cotangents = given["input"].requires_grad_(), torch.randn(4, 6, 3, dtype=torch.float64)
    with use_backend("cpu"), backend.recording() as ran:
        y = batch_norm(z, None, None, training=True)
        (batch,) = torch.autograd.grad(y, z, cotangents, is_grads_batched=True, retain_graph=True)
    assert ran == BOTH[:1]
    for dz, dy in zip(batch, cotangents, strict=True):
        assert_near([dz], list(torch.autograd.grad(y, z, dy, retain_graph=True)), 1e-13)


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "vmap": lambda f, z: torch.func.vmap(f)(torch.stack([z, z])),
    "grad": lambda f, z: torch.func.grad(lambda z: f(z).sin().sum())(z),
    "jvp": lambda f, z: torch.func.jvp(f, (z,), (z,)),
    "functionalize": lambda f, z: torch.func.functionalize(f)(z),
    "compile": lambda f, z: torch.compile(f, backend="eager", fullgraph=True)(z),
    "meta": lambda f, z: f(z.to("meta")),
    "bfloat16": lambda f, z: f(z.bfloat16()),
    "no values": lambda f, z: f(z[:0]),
    "subclass": lambda f, z: f(z.as_subclass(type("Sub", (Tensor,), {}))),
    "negative": lambda f, z: f(torch._neg_view(z)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_the_loops_cannot_serve_goes_to_the_reference(transform: str) -> None:
    chosen = []

    def choose(op: str, *args: Any, **options: Any) -> str:
        chosen.append(plain(op, *args, **options))
        return chosen[-1]

    plain = backend.choose
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "choose", choose)
        TRANSFORMS[transform](lambda z: batch_norm(z, None, None, training=True), torch.randn(6, 3))
    assert chosen == ["reference"]


CANNOT: list[tuple[dict[str, Any], str]] = [
    ({"input": torch.ones(4, 3, dtype=torch.bfloat16)}, "input of torch.bfloat16"),
    ({"input": torch.ones(0, 3)}, r"input of shape \(0, 3\)"),
    ({"input": torch.ones(4, 3).as_subclass(type("Sub", (Tensor,), {}))}, "no plain tensor"),
    ({"weight": torch.ones(6)[::2]}, "no plain vector"),
    ({"running_mean": torch._neg_view(torch.ones(3))}, "no plain vector"),
]


@pytest.mark.parametrize(("changed", "reason"), CANNOT, ids=lambda value: str(value)[:20])
def test_forced_it_says_what_it_cannot_do(changed: dict[str, Any], reason: str) -> None:
    given = {
        "input": torch.ones(4, 3), "running_mean": torch.zeros(3), "running_var": torch.ones(3),
    }  # fmt: skip
    with use_backend("cpu"), pytest.raises(NotImplementedError, match="batch_norm: .*" + reason):
        batch_norm(**{**given, **changed}, training=True)
    batch_norm(**{**given, **changed}, training=True)


def test_a_mistake_is_the_same_error_whatever_is_forced() -> None:
    z, one = torch.ones(4, 3), torch.ones(3)
    for implementation in ("cpu", "reference", "auto"):
        with use_backend(implementation):
            with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
                batch_norm(z[:1], None, None, training=True)
            with pytest.raises(RuntimeError, match="weight should contain 3 elements not 2"):
                batch_norm(z, one, one, one[:2])
            with pytest.raises(RuntimeError, match="running_mean must not require a gradient"):
                batch_norm(z, one.clone().requires_grad_(), one, training=True)


def test_without_compiled_code_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "_failure", "none here")
    for kernel in (cpu.forward_first, cpu.backward_first, cpu.forward_last, cpu.backward_last):
        monkeypatch.setattr(kernel, "_calls", {})
    with backend.recording() as ran:
        batch_norm(torch.randn(4, 3), None, None, training=True)
    assert ran == [("batch_norm", "reference")]


def test_a_change_before_the_backward_is_seen() -> None:
    z = torch.randn(6, 3, requires_grad=True)
    mean, var = torch.zeros(3), torch.ones(3)
    seen = pytest.raises(RuntimeError, match="modified by an inplace operation")
    with use_backend("cpu"):
        input = z * 1
        y = batch_norm(input, None, None, training=True)
        input.mul_(2)
        with seen:
            y.sum().backward()
        y = batch_norm(z, mean, var)
        batch_norm(z, mean, var, training=True)  # moves the statistics
        with seen:
            y.sum().backward()


def test_twice_backward_and_freed() -> None:
    z = torch.randn(6, 3, requires_grad=True)
    y = batch_norm(z, None, None, training=True)
    y.backward(torch.ones(6, 3), retain_graph=True)
    y.backward(torch.ones(6, 3))
    with pytest.raises(RuntimeError, match="second time"):
        y.backward(torch.ones(6, 3))


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 24), (torch.float64, 24)])
def test_a_double_is_kept_per_channel(dtype: torch.dtype, kept: int) -> None:
    given = draw((40, 3, 5, 5), dtype)
    del given["cotangent"]
    held = [t.requires_grad_("running" not in n) for n, t in given.items()]
    assert bytes_kept(lambda: batch_norm(**given, training=True), held) == kept
    assert bytes_kept(lambda: batch_norm(**given), held) == 0
    with use_backend("cpu"), torch.inference_mode():
        assert batch_norm(**given, training=True).is_inference()
