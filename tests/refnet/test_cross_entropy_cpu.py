"""Cross-entropy's loops beside its reference: options, layouts, odd tensors, threads, gradients."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from refnet import _threads, backend, use_backend
from refnet.functional import cross_entropy
from refnet.ops.cross_entropy import cpu

SHAPES = [
    (5,), (1, 1), (7, 10), (300, 33), (9, 1000), (3, 700), (3, 5, 7), (2, 40, 300), (2, 4, 3, 5),
    (2, 3, 1), (2, 17, 2, 129, 2),
]  # fmt: skip
OPTIONS = [
    {"reduction": r, "label_smoothing": s, "weighted": w, "ignore_index": i}
    for r, s, w, i in product(
        ("mean", "sum", "none"), (0.0, 0.1, 1.0), (False, True), (-100, 0, -1)
    )
]
NEAR = {
    torch.float32: {"rtol": 1e-6, "atol": 1e-6},
    torch.float64: {"rtol": 1e-13, "atol": 1e-14},
}


def draw(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Scores, and a class for each row."""
    z = 3 * torch.randn(shape, dtype=dtype)
    rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
    return z, torch.randint(shape[1] if len(shape) > 1 else shape[0], rows)


def both_ways(z: Tensor, y: Tensor, implementation: str, **options: Any) -> tuple[Tensor, Tensor]:
    """Loss and gradient, with a cotangent that is random and the same for all implementations."""
    z = z.detach().requires_grad_()
    with use_backend(implementation), backend.recording() as ran:
        loss = cross_entropy(z, y, **options)
    assert ran == [("cross_entropy", implementation)]
    cotangent = torch.randn(loss.shape, generator=torch.Generator().manual_seed(1)).to(z.dtype)
    loss.backward(cotangent)
    assert z.grad is not None
    return loss.detach(), z.grad


def assert_same(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, equal_nan=True, check_stride=True, **NEAR[x.dtype])


@pytest.mark.parametrize("dtype", NEAR, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_loops_do_what_the_reference_does(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for each in OPTIONS:
        options: dict[str, Any] = dict(each)
        z, y = draw(shape, dtype)
        classes = shape[1] if len(shape) > 1 else shape[0]
        weight = torch.rand(classes, dtype=dtype) if options.pop("weighted") else None
        if options["ignore_index"] == -1 and y.dim():
            y.flatten()[:2] = -1
        ours, theirs = (
            both_ways(z, y, name, weight=weight, **options) for name in ("cpu", "reference")
        )
        assert_same(ours, theirs)


def sliced(t: Tensor) -> Tensor:
    return torch.stack([t, torch.full_like(t, 9)], -1)[..., 0]


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sliced": sliced,
    "transposed": lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    "channels last": lambda t: t.movedim(1, -1).contiguous().movedim(-1, 1),
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3, 2)], ids=str)
def test_layouts_of_scores_labels_weight_and_cotangent(shape: tuple[int, ...], layout: str) -> None:
    torch.manual_seed(0)
    z, y = draw(shape)
    z, y, weight = LAYOUTS[layout](z), sliced(y), sliced(torch.rand(5))
    found = []
    for name in ("cpu", "reference"):
        leaf = z.detach().requires_grad_()
        with use_backend(name):
            losses = cross_entropy(leaf, y, weight, reduction="none", label_smoothing=0.1)
        for cotangent in (torch.tensor(2.0).expand(losses.shape), sliced(torch.ones_like(losses))):
            found.append((name, *torch.autograd.grad(losses, leaf, cotangent, retain_graph=True)))
    for (_, ours), (_, theirs) in zip(found[:2], found[2:], strict=True):
        assert_same((ours,), (theirs,))
        assert ours.is_contiguous()


def test_labels_of_bytes_and_a_row_without_a_batch() -> None:
    z, y = draw((6, 5))
    assert_same(both_ways(z, y.to(torch.uint8), "cpu"), both_ways(z, y, "reference"))
    assert_same(
        both_ways(z[0], torch.tensor([3]), "cpu", reduction="none"),
        both_ways(z[0], torch.tensor([3]), "reference", reduction="none"),
    )


@pytest.mark.parametrize("value", [nan, -nan, inf, -inf, 1e38, -1e38])
@pytest.mark.parametrize("shape", [(3, 40), (3, 40, 5)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nan_and_infinity_go_through(
    value: float, shape: tuple[int, ...], smoothing: float
) -> None:
    torch.manual_seed(0)
    z, y = draw(shape)
    z[0, 7] = value  # of one class
    z[1] = value  # of all
    y.flatten()[-1] = -100
    z.movedim(1, -1).flatten(0, -2)[-1] = nan  # in a row that is ignored
    options = {"label_smoothing": smoothing, "reduction": "none"}
    ours, theirs = (both_ways(z, y, name, **options) for name in ("cpu", "reference"))
    assert_same(ours, theirs)
    assert ours[0].isnan().any() or value in (-inf, 1e38, -1e38)


def test_denormal_probabilities_survive() -> None:
    z = torch.tensor([[0.0, -95.0, -100.0]])
    _, dz = both_ways(z, torch.tensor([0]), "cpu", reduction="sum")
    scale = torch.randn((), generator=torch.Generator().manual_seed(1)).double()
    # in units of 2^-149, the smallest number
    error = dz[0, 1:].double() - scale * z[0, 1:].double().exp()
    assert (error.abs() < 1.5 * 2.0**-149).all()
    assert (dz[0, 1:] != 0).all()


def test_all_rows_ignored() -> None:
    z, y = draw((4, 3))
    loss, dz = both_ways(z, torch.full_like(y, -100), "cpu")
    assert loss.isnan()
    assert torch.equal(dz, torch.zeros_like(z))


@pytest.mark.parametrize("shape", [(6, 5), (300, 50), (4, 5, 3), (2, 50, 400)], ids=str)
def test_the_first_wrong_label_is_named(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_threads, "SHARE", 64)
    z, y = draw(shape)
    y.view(-1)[-1], y.view(-1)[y.numel() // 2] = -7, shape[1]
    for name in ("cpu", "reference"):
        with use_backend(name), pytest.raises(IndexError, match=rf"Target {shape[1]} is out of"):
            cross_entropy(z, y)
    y[:] = 2**62
    with pytest.raises(IndexError, match=f"Target {2**62} is out of bounds"):
        cross_entropy(z, y)


@pytest.mark.parametrize("shape", [(3000, 40), (7, 60_000), (3, 40, 1000)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_threads_are_nowhere_to_be_seen(
    shape: tuple[int, ...], reduction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    z, y = draw(shape)
    monkeypatch.setattr(_threads, "SHARE", 2**12)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(both_ways(z, y, "cpu", reduction=reduction, label_smoothing=0.1))
    assert all(map(torch.equal, found[0] * 2, found[1] + found[2]))


def test_several_threads_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    torch.manual_seed(0)
    batches = [draw((400, 1000)) for _ in range(4)]

    def work(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return both_ways(*batch, "cpu")

    alone = [work(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for ours, again in zip(alone, pool.map(work, batches), strict=True):
            assert all(map(torch.equal, ours, again))


FORK = """
import os, torch
from refnet.functional import cross_entropy
torch.set_num_threads(1)  # for torch: a forked child hangs in a parallel loop of torch's own
torch.get_num_threads = lambda: 2
z, y = torch.randn(400, 1000, requires_grad=True), torch.arange(400)
def run():
    return [x.detach().numpy().tobytes() for x in torch.autograd.grad(cross_entropy(z, y), z)]
expected = run()
child = os.fork()
if child == 0:
    os._exit(0 if run() == expected else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_goes_on_after_its_parent_has_used_threads() -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORK)],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert run.stdout == "0\n"


def chosen(call: Callable[[], object]) -> str:
    with backend.recording() as ran:
        call()
    return ran[0][1]


class Scores(Tensor):
    pass


def fake() -> object:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return cross_entropy(torch.ones(3, 4), torch.zeros(3, dtype=torch.long))


def forward_mode() -> object:
    with torch.autograd.forward_ad.dual_level():
        return cross_entropy(Z, Y)


Z, Y = torch.randn(3, 4), torch.tensor([0, 3, 1])
ELSEWHERE: dict[str, Callable[[], object]] = {
    "bfloat16": lambda: cross_entropy(Z.bfloat16(), Y),
    "float16": lambda: cross_entropy(Z.half(), Y),
    "probabilities": lambda: cross_entropy(Z, Z.exp()),
    "a negative view": lambda: cross_entropy(torch._neg_view(Z), Y),
    "no rows": lambda: cross_entropy(Z[:0], Y[:0]),
    "a subclass": lambda: cross_entropy(Z.as_subclass(Scores), Y),
    "meta": lambda: cross_entropy(Z.to("meta"), Y.to("meta")),
    "fake": fake,
    "vmap": lambda: torch.func.vmap(cross_entropy)(Z[None], Y[None]),
    "grad": lambda: torch.func.grad(cross_entropy)(Z, Y),
    "forward mode": forward_mode,
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_the_rest_is_the_references(case: str) -> None:
    assert chosen(ELSEWHERE[case]) == "reference"


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("bfloat16", "dtype torch.bfloat16"),
        ("probabilities", "a target of probabilities"),
        ("no rows", "no scores"),
        ("a negative view", "a Tensor of layout torch.strided on cpu, which is not plain memory"),
    ],
)
def test_forced_it_says_what_it_cannot_do(case: str, reason: str) -> None:
    with use_backend("cpu"), pytest.raises(NotImplementedError, match=f"cross_entropy: {reason}"):
        ELSEWHERE[case]()


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2)], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_higher_derivatives_are_the_references(shape: tuple[int, ...], reduction: str) -> None:
    torch.manual_seed(0)
    z, y = draw(shape, torch.float64)
    weight, direction = torch.rand(3, dtype=torch.float64), torch.randn_like(z)
    found = []
    for name in ("cpu", "reference"):
        leaf = z.clone().requires_grad_()
        with use_backend(name):
            losses = cross_entropy(leaf, y, weight, reduction=reduction, label_smoothing=0.1)
        (dz,) = torch.autograd.grad((losses * losses).sum(), leaf, create_graph=True)
        (second,) = torch.autograd.grad((dz * direction).sum(), leaf, create_graph=True)
        (third,) = torch.autograd.grad((second * direction).sum(), leaf)
        found.append((dz.detach(), second.detach(), third))
    assert_same(*found)
    leaf = z.clone().requires_grad_()
    with use_backend("cpu"):
        call = lambda z: cross_entropy(z, y, weight, reduction=reduction)  # noqa: E731
        assert torch.autograd.gradcheck(call, leaf)
        assert torch.autograd.gradgradcheck(call, leaf)


def test_a_cotangent_that_is_a_negative_view() -> None:
    leaf = Z.clone().requires_grad_()
    result = cross_entropy(leaf, Y, reduction="none")
    da = torch.randn_like(result)
    found = [torch.autograd.grad(result, leaf, d, True) for d in (torch._neg_view(-da), da)]
    assert_same(*found)


def test_batched_cotangents() -> None:
    z, y = draw((4, 3))
    leaf, cotangents = z.requires_grad_(), torch.eye(4)
    losses = cross_entropy(leaf, y, reduction="none")
    (batched,) = torch.autograd.grad(losses, leaf, cotangents, True, is_grads_batched=True)
    each = [torch.autograd.grad(losses, leaf, c, True)[0] for c in cotangents]
    torch.testing.assert_close(batched, torch.stack(each))


def test_a_change_in_place_is_seen() -> None:
    for changed in (0, 1, 2):
        z, y = draw((4, 3))
        leaf, weight = z.clone().requires_grad_(), torch.ones(3)
        scores = leaf * 1
        loss = cross_entropy(scores, y, weight)
        with torch.no_grad():
            (scores, y, weight)[changed].mul_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_a_function_only_where_a_gradient_is_wanted() -> None:
    z, y = draw((4, 3))
    assert cross_entropy(z, y).grad_fn is None
    leaf = z.clone().requires_grad_()
    with torch.no_grad():
        assert cross_entropy(leaf, y).grad_fn is None
    with torch.inference_mode():
        assert_same((cross_entropy(leaf, y),), (cross_entropy(z, y),))
    assert type(cross_entropy(leaf, y).grad_fn).__name__ == "CompiledCrossEntropyBackward"


def test_the_loops_as_python_do_the_same() -> None:
    for shape in ((4, 5), (2, 5, 3)):
        z, y = draw(shape, torch.float64)
        n = y.numel()
        loss, sums = cpu.forward(z, y, None, cpu.Options(-100, 0.1, "mean"))
        again, sums_again = torch.zeros(1).double(), torch.zeros_like(sums)
        flat = (t.numpy().ravel() for t in (z, y, z, sums_again, again, torch.empty(4)))
        rest = (-100, 0.1, False, False, True)
        if len(shape) == 2:
            cpu.rows_forward.function(*flat, 0, 1, n, 5, 100, 1, *rest)
            assert_same((again[0], sums_again), (loss, sums))
        else:
            scratch = torch.empty(2, n).double().numpy()
            cpu.tiles_forward.function(*flat, 0, 2, n, 5, 100, 2, 3, *scratch, *rest)
            assert_same((sums_again[:n],), (sums[:n],))
