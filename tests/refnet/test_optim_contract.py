"""Optimizers beside torch's where a table of options cannot look: bits, memory, graphs, threads."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from refnet import optim, use_backend
from refnet.optim import _blocks

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1, "maximize": True}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.1}),
    ("Adam", {"maximize": True, "betas": (0.3, 0.99)}),
    ("Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "maximize": True}),
]
IDS = [f"{name} {options}" for name, options in CASES]
EVERY = ["SGD", "RMSprop", "Adam", "AdamW", "Momentum"]
NAMES = EVERY[:-1]


def weights(shape: tuple[int, ...] = (3, 4), dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator, dtype=wide).to(dtype))
        for s in (shape, (5,), ())
    ]


def train(optimizer: torch.optim.Optimizer, params: list[Tensor], steps: int = 4) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in params:
            wide = torch.complex128 if p.is_complex() else torch.float64
            p.grad = torch.randn(p.shape, generator=generator, dtype=wide).to(p.dtype)
        optimizer.step()


def assert_same_bits(
    ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer, params: Any, reference: Any
) -> None:
    for p, q in zip(params, reference, strict=True):
        assert torch.equal(p, q)
        for name, value in theirs.state.get(q, {}).items():
            assert torch.equal(ours.state[p][name], value)
            assert ours.state[p][name].stride() == value.stride()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_bits_are_those_of_torchs_loop(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    params, reference = weights(dtype=dtype), weights(dtype=dtype)
    ours = getattr(optim, name)(params, lr=0.1, **options)
    theirs = getattr(torch.optim, name)(reference, lr=0.1, foreach=False, **options)
    with use_backend("reference"):
        train(ours, params)
    train(theirs, reference)
    assert_same_bits(ours, theirs, params, reference)


SHAPES: dict[str, Callable[[], Tensor]] = {
    "a vector": lambda: torch.randn(2**17 + 3),
    "a matrix": lambda: torch.randn(300, 401),
    "transposed": lambda: torch.randn(301, 400).t(),
    "channels last": lambda: torch.randn(64, 64, 5, 5).to(memory_format=torch.channels_last),
    "complex": lambda: torch.randn(2**16 + 1, dtype=torch.complex64),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_blocks_are_nowhere_to_be_seen(
    name: str, options: dict[str, Any], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    start = SHAPES[shape]()
    grads = [torch.empty_like(start).copy_(torch.randn_like(start)) for _ in range(3)]
    results = []
    for grain in (2**12, 2**40):
        monkeypatch.setattr(_blocks, "_GRAIN", grain)
        w = torch.nn.Parameter(torch.empty_like(start).copy_(start))
        optimizer = getattr(optim, name)([w], lr=0.1, **options)
        for grad in grads:
            w.grad = grad
            with use_backend("reference"):
                optimizer.step()
        results.append((optimizer, w))
    (blocks, w), (whole, q) = results
    torch.testing.assert_close(w, q, rtol=1e-5, atol=1e-6)  # a loop's last elements may differ
    for key, value in whole.state.get(q, {}).items():
        torch.testing.assert_close(blocks.state[w][key], value, rtol=1e-5, atol=1e-6)
        assert blocks.state[w][key].stride() == value.stride()


@pytest.mark.parametrize("name", EVERY)
def test_the_graph_breaks_only_where_torchs_does(name: str) -> None:
    """Once, before the step, on torch's own account; and once more for the first state."""
    compiled, eager = weights(), weights()
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    ours = getattr(optim, name)(compiled, lr=0.1)
    twin = getattr(optim, name)(eager, lr=0.1)
    torch._dynamo.reset()
    step = torch.compile(ours.step, backend=backend)
    for seed in range(4):
        torch.manual_seed(seed)
        for p, q in zip(compiled, eager, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        step()
        twin.step()
    torch._dynamo.reset()
    assert len(graphs) == (1 if name == "SGD" else 2)
    for p, q in zip(compiled, eager, strict=True):
        torch.testing.assert_close(p, q)


def unrolled(name: str, options: dict[str, Any]) -> Callable[..., Tensor]:
    def run(start: Tensor, *grads: Tensor) -> Tensor:
        w = start.clone()
        optimizer = getattr(optim, name)([w], differentiable=True, **options)
        for grad in grads:
            w.grad = grad
            optimizer.step()
        return w

    return run


@pytest.mark.parametrize(
    ("name", "options"), [*CASES, ("Momentum", {"bias_correction": True, "weight_decay": 0.1})]
)
def test_derivatives_through_unrolled_steps(name: str, options: dict[str, Any]) -> None:
    """By parameters, by all gradients, and by a learning rate that is a tensor."""
    torch.manual_seed(0)
    arguments = [torch.rand(3, dtype=torch.float64).add(0.3).requires_grad_() for _ in range(4)]
    assert torch.autograd.gradcheck(unrolled(name, {"lr": 0.1, **options}), arguments)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def of_lr(lr: Tensor) -> Tensor:
        return unrolled(name, {"lr": lr, **options})(*arguments)

    assert torch.autograd.gradcheck(of_lr, lr)


def test_torch_cuts_the_first_momentum_buffer_off() -> None:
    """The one derivative that is meant to differ; should torch mend it, the docstring goes."""
    found = []
    for namespace in (optim, torch.optim):
        start, grad = torch.ones(2), torch.ones(2, requires_grad=True)
        w = (start * 1).requires_grad_(False)
        w.grad = grad
        namespace.SGD([w], lr=0.1, momentum=0.9, differentiable=True).step()
        found.append(w.requires_grad)
    assert found == [True, False]


def test_threads_do_not_meet() -> None:
    def run(seed: int) -> list[Tensor]:
        params = weights((300, 400))
        optimizer = optim.Adam(params, lr=0.1 * (seed + 1), differentiable=False)
        train(optimizer, params, 20)
        return params

    alone = [run(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, range(4)))
    for one, other in zip(alone, together, strict=True):
        for p, q in zip(one, other, strict=True):
            assert torch.equal(p, q)


@pytest.mark.parametrize("name", NAMES)
def test_repr_is_torchs(name: str) -> None:
    ours, theirs = (repr(getattr(m, name)(weights(), lr=0.1)) for m in (optim, torch.optim))
    assert ours.replace("    eps_inside_root: False\n", "") == theirs


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW", "Momentum"])
def test_a_step_that_is_refused_changes_nothing(name: str) -> None:
    params = weights()
    optimizer = getattr(optim, name)(params, lr=0.1)
    train(optimizer, params, 2)
    before = copy.deepcopy((params, optimizer.state_dict()["state"]))
    for p in params:
        p.grad = torch.ones_like(p)
    params[1].grad = torch.ones(5).to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        optimizer.step()
    for p, q in zip(params, before[0], strict=True):
        assert torch.equal(p, q)
    for index, state in before[1].items():
        for key, value in state.items():
            assert torch.equal(optimizer.state_dict()["state"][index][key], value)


@pytest.mark.parametrize("source", [optim.Adam, torch.optim.Adam])
def test_adamw_stays_decoupled_whatever_it_loads(source: Any) -> None:
    params, others = weights(), weights()
    adam = source(others, weight_decay=0.1)
    train(adam, others)
    optimizer = optim.AdamW(params)
    optimizer.load_state_dict(adam.state_dict())
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


@pytest.mark.parametrize("name", EVERY)
def test_parameters_on_several_devices(name: str) -> None:
    here, there = weights()[0], torch.nn.Parameter(torch.ones(3, device="meta"))
    alone = weights()[0]
    for params in ([here, there], [alone]):
        optimizer = getattr(optim, name)(params, lr=0.1)
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.equal(here, alone)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sparse_momentum_does_not_grow(nesterov: bool) -> None:
    results = []
    for namespace in (optim, torch.optim):
        w = torch.nn.Parameter(torch.ones(50, 2))
        optimizer = namespace.SGD([w], lr=0.1, momentum=0.9, nesterov=nesterov)
        for row in (0, 3, 3, 0, 7):
            w.grad = torch.sparse_coo_tensor(
                [[row, row]], torch.ones(2, 2), (50, 2), check_invariants=True
            )
            optimizer.step()
        results.append((w, optimizer.state[w]["momentum_buffer"]))
    (w, ours), (q, theirs) = results
    torch.testing.assert_close(w, q)
    torch.testing.assert_close(ours.to_dense(), theirs.to_dense())
    assert ours._nnz() == 3 < theirs._nnz()
    assert not torch.equal(w, torch.ones(50, 2))


def test_sparse_after_dense_and_the_gradient_stays() -> None:
    results = []
    for namespace in (optim, torch.optim):
        w = torch.nn.Parameter(torch.ones(4))
        optimizer = namespace.SGD([w], lr=0.1, momentum=0.9)
        for step in range(3):
            grad = torch.tensor([1.0, 0.0, 2.0, 0.0])
            w.grad = grad.to_sparse() if step else grad
            optimizer.step()
            assert torch.equal(w.grad.to_dense(), grad)
        results.append(w)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_momentum_buffer_is_not_the_gradient(sparse: bool) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3).to_sparse().coalesce() if sparse else torch.ones(3)
    optimizer = optim.SGD([w], lr=0.1, momentum=0.9)
    optimizer.step()
    w.grad.zero_()
    assert torch.equal(optimizer.state[w]["momentum_buffer"].to_dense(), torch.ones(3))


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("maximize", [False, True])
def test_momentum_is_dampened_sgd_from_zero_buffers_to_the_last_bits(
    decay: float, maximize: bool
) -> None:
    shared = {"lr": 0.1, "momentum": 0.9, "weight_decay": decay, "maximize": maximize}
    params = weights()
    ours = optim.Momentum(params, **shared)
    with use_backend("reference"):
        train(ours, params, 50)
    for namespace in (optim, torch.optim):
        reference = weights()
        sgd = namespace.SGD(reference, dampening=0.9, **shared)
        for q in reference:
            sgd.state[q]["momentum_buffer"] = torch.zeros_like(q)
        with use_backend("reference"):
            train(sgd, reference, 50)
        assert_same_bits(ours, sgd, params, reference)


def test_bias_correction_of_a_steady_gradient_is_the_gradient() -> None:
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = optim.Momentum([w], lr=0.1, momentum=0.98, bias_correction=True)
    for t in range(1, 30):
        w.grad = torch.full((1,), 3.0, dtype=torch.float64)
        optimizer.step()
        assert w.item() == pytest.approx(-0.3 * t, rel=1e-13)


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1.0, 1e4])
def test_eps_inside_the_root_is_torchs_with_an_eps_of_its_own(eps: float, scale: float) -> None:
    """√(S + ε) = √S + ε' with ε' = √(S + ε) − √S = ε / (√(S + ε) + √S), anew in every step."""
    w, q = (torch.nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    ours = optim.RMSprop([w], lr=0.1, alpha=0.9, eps=eps, eps_inside_root=True)
    theirs = torch.optim.RMSprop([q], lr=0.1, alpha=0.9)
    s = 0.0
    for t in range(1, 9):
        w.grad = torch.full((1,), scale * t, dtype=torch.float64)
        q.grad = w.grad.clone()
        s = 0.9 * s + 0.1 * (scale * t) ** 2
        theirs.param_groups[0]["eps"] = eps / ((s + eps) ** 0.5 + s**0.5)
        ours.step()
        theirs.step()
        assert w.item() == pytest.approx(q.item(), rel=1e-13)


@pytest.mark.parametrize("eps", [1e-8, 1e-2])
def test_eps_inside_the_root_at_its_ends(eps: float) -> None:
    """Small S: the root of ε stands alone. Large S: half of ε / √S is added to √S."""
    for grad, own in ((1e-12, eps**0.5), (1e6, eps / (2 * 0.1**0.5 * 1e6))):
        results = []
        for options in ({"eps": eps, "eps_inside_root": True}, {"eps": own}):
            w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
            w.grad = torch.full((1,), grad, dtype=torch.float64)
            optim.RMSprop([w], lr=1.0, alpha=0.9, **options).step()
            results.append(w.item())
        assert results[0] == pytest.approx(results[1], rel=1e-7)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_a_fused_step_with_inf_makes_no_garbage(name: str) -> None:
    """GradScaler's first step skipped: what torch's fused SGD leaves is memory as it was."""
    w, q = (torch.nn.Parameter(torch.ones(100)) for _ in range(2))
    options = {"momentum": 0.9} if name == "SGD" else {}
    skipping = getattr(optim, name)([w], lr=0.1, fused=True, **options)
    w.grad = torch.full((100,), float("inf"))
    skipping.found_inf = torch.ones(())
    skipping.step()
    assert torch.equal(w, torch.ones(100))
    skipping.found_inf, skipping.grad_scale = torch.zeros(()), torch.tensor(4.0)
    w.grad, q.grad = torch.full((100,), 8.0), torch.full((100,), 2.0)
    skipping.step()
    assert torch.equal(w.grad, q.grad)
    getattr(optim, name)([q], lr=0.1, **options).step()
    assert torch.equal(w, q)


def shards(rank: int, world: int, store: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    mesh = dist.init_device_mesh("cpu", (world,))
    for name, options in [*CASES, ("Momentum", {"bias_correction": True})]:
        namespaces = [optim] + [torch.optim] * hasattr(torch.optim, name)
        results = [train_shards(m, name, options, mesh) for m in namespaces]
        for ours, theirs in zip(*results, strict=True) if len(results) == 2 else ():
            if not torch.equal(ours, theirs):
                raise ValueError(f"{name} {options}")
    dist.barrier()  # or one leaves while the other's last call is under way
    os._exit(0)  # at once: gloo's threads abort a process whose groups are taken down about them


def train_shards(namespace: Any, name: str, options: Any, mesh: Any) -> list[Tensor]:
    params = [
        torch.nn.Parameter(distribute_tensor(w.detach(), mesh, [placement]))
        for w, placement in zip(weights(), (Shard(0), Replicate(), Replicate()), strict=True)
    ]
    optimizer = getattr(namespace, name)(params, lr=0.1, **options)
    for step in range(3):
        for p in params:
            grad = torch.linspace(-1, 1, p.numel()).view(p.shape) + step
            p.grad = distribute_tensor(grad, mesh, p.placements)
        optimizer.step()
    state = [v for p in params for v in optimizer.state.get(p, {}).values() if v.dim()]
    if not all(isinstance(v, DTensor) for v in state):
        raise ValueError("the state is not sharded as the parameter is")
    return [t.full_tensor() for t in (*params, *state)]


def test_sharded_parameters(tmp_path: Path) -> None:
    """DTensors, FSDP's parameters, in two processes: the bits are torch's."""
    spawn = multiprocessing.get_context("spawn")
    found = [
        spawn.Process(target=shards, args=(rank, 2, tmp_path / "store"), daemon=True)
        for rank in range(2)
    ]
    for process in found:
        process.start()
    for process in found:
        process.join(120)
    assert [process.exitcode for process in found] == [0, 0]


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_a_conjugate_view_is_written(name: str) -> None:
    """torch's SGD moves it, the others refuse it; ours moves it as any complex parameter."""
    torch.manual_seed(0)
    values = torch.randn(3, 2, dtype=torch.complex128)
    plain, view = (
        torch.nn.Parameter(values.clone()),
        torch.nn.Parameter(values.conj_physical().conj()),
    )
    assert view.is_conj()
    for p in (plain, view):
        optimizer = getattr(optim, name)([p], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            (p.abs() ** 2).sum().backward()
            optimizer.step()
    assert not torch.equal(plain.detach(), values)
    torch.testing.assert_close(view.detach().resolve_conj(), plain.detach())
