"""The kernels beside the reference: every option, layouts, odd tensors, versions, threads."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor

from refnet import backend, optim, use_backend
from refnet.optim import _table, cpu

EVERY: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"momentum": m, "dampening": d, "nesterov": n, "weight_decay": w, "maximize": up}
        for m, d, n, w, up in product((0, 0.9), (0, 0.3), (False, True), (0, 0.1), (False, True))
        if not n or (m and not d)
    ],
    "Momentum": [
        {"bias_correction": b, "weight_decay": w, "maximize": up}
        for b, w, up in product((False, True), (0, 0.1), (False, True))
    ],
    "RMSprop": [
        {"centered": c, "eps_inside_root": i, "momentum": m, "weight_decay": w, "maximize": up}
        for c, i, m, w, up in product(
            (False, True), (False, True), (0, 0.5), (0, 0.1), (False, True)
        )
    ],
    "Adam": [
        {"amsgrad": a, "decoupled_weight_decay": d, "weight_decay": w, "maximize": up}
        for a, d, w, up in product((False, True), (False, True), (0, 0.1), (False, True))
    ],
    "AdamW": [{}, {"amsgrad": True, "maximize": True, "betas": (0.5, 0.99), "eps": 1e-3}],
}
CASES = [(name, options) for name, each in EVERY.items() for options in each]
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "matrix": lambda x: x.reshape(6, 10),
    "transposed": lambda x: x.reshape(6, 10).t(),
    "channels last": lambda x: x.reshape(3, 5, 2, 2).to(memory_format=torch.channels_last),
    "scalar": lambda x: x[0].clone(),
    "empty": lambda x: x[:0].clone(),
    "complex": lambda x: torch.view_as_complex(x.reshape(30, 2)),
    "part of a tensor": lambda x: torch.cat([x, x]).reshape(2, 60)[1],
}


def draw(dtype: torch.dtype) -> Tensor:
    return (torch.randn(60, dtype=torch.float64) * 10 ** torch.empty(60).uniform_(-4, 2)).to(dtype)


def run(
    name: str, options: dict[str, Any], dtype: torch.dtype, implementation: str
) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """Four steps of parameters of every layout; one of them has no gradient in the second."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(lay(draw(dtype))) for lay in LAYOUTS.values()]
    optimizer = getattr(optim, name)(params, lr=0.01, **options)
    for step in range(4):
        for param, lay in zip(params, LAYOUTS.values(), strict=True):
            param.grad = torch.empty_like(param).copy_(lay(draw(dtype)))
        params[0].grad = None if step == 1 else params[0].grad
        with use_backend(implementation), backend.recording() as ran:
            optimizer.step()
        assert ran == [(name, implementation)]
    return params, optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_a_kernel_makes_the_references_steps(
    name: str, options: dict[str, Any], dtype: torch.dtype
) -> None:
    (ours, kernel), (theirs, reference) = (
        run(name, options, dtype, b) for b in ("cpu", "reference")
    )
    # a few roundings, the absolute ones of numbers about 100
    near = (
        {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    )
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, **near)
        assert kernel.state[p].keys() == reference.state[q].keys()
        for key, value in reference.state[q].items():
            torch.testing.assert_close(kernel.state[p][key], value, **near)
            assert kernel.state[p][key].stride() == value.stride()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("value", [nan, inf, -inf, 1e-41])
def test_nan_infinity_and_denormals_go_through(name: str, value: float) -> None:
    found = []
    for implementation in ("cpu", "reference"):
        w = torch.nn.Parameter(torch.zeros(40))
        optimizer = getattr(optim, name)([w], lr=0.5)
        w.grad = torch.full((40,), value)
        w.grad[7] = 1
        with use_backend(implementation):
            optimizer.step()
        found.append(w)
    few_digits = abs(value) < 1e-38  # of what the reference rounds in between
    rtol = 1e-2 if few_digits else 1e-5
    torch.testing.assert_close(*found, equal_nan=True, rtol=rtol, atol=0)
    assert bool((found[0] != 0).all())


def test_amsgrad_keeps_a_nan() -> None:
    w = torch.nn.Parameter(torch.zeros(20))
    optimizer = optim.Adam([w], amsgrad=True)
    for _ in range(2):
        w.grad = torch.ones(20)
        optimizer.step()
        optimizer.state[w]["max_exp_avg_sq"].fill_(nan)
    optimizer.step()
    assert not optimizer.state[w]["exp_avg_sq"].isnan().any()
    assert optimizer.state[w]["max_exp_avg_sq"].isnan().all()


@pytest.mark.parametrize("name", EVERY)
def test_an_element_is_the_same_wherever_it_stands(name: str) -> None:
    torch.manual_seed(0)
    start, grads = torch.randn(101), torch.randn(5, 101)
    whole = torch.nn.Parameter(start.clone())
    alone = [torch.nn.Parameter(x.clone()) for x in start]
    optimizers = [getattr(optim, name)(ps, lr=0.01) for ps in ([whole], alone)]
    for grad in grads:
        whole.grad = grad.clone()
        for w, g in zip(alone, grad, strict=True):
            w.grad = g.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(whole, torch.stack(alone))


@pytest.mark.parametrize("name", EVERY)
def test_pieces_and_threads_are_nowhere_to_be_seen(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    start, grads = [torch.randn(n) for n in (1000, 3, 257, 128)], torch.randn(3, 1000)
    found = []
    for piece, threads in ((2**16, 1), (64, 1), (64, 3), (100, 2)):
        monkeypatch.setattr(_table, "PIECE", piece)
        monkeypatch.setattr(_table, "SHARE", 32)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        params = [torch.nn.Parameter(w.clone()) for w in start]
        optimizer = getattr(optim, name)(params, lr=0.01)
        for grad in grads:
            for w in params:
                w.grad = grad[: len(w)].clone()
            optimizer.step()
        found.append(torch.cat(params))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_several_threads_step_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        w = torch.nn.Parameter(torch.randn(200_000, generator=generator))
        optimizer = optim.Adam([w])
        for _ in range(5):
            w.grad = torch.randn(200_000, generator=generator)
            optimizer.step()
        return w

    alone = [work(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, alone, pool.map(work, range(4))))


def one(name: str = "Adam", dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    w = torch.nn.Parameter(torch.ones(4, 3, dtype=dtype))
    w.grad = torch.ones_like(w)
    return w, getattr(optim, name)([w], lr=0.1, **options)


def ran(optimizer: torch.optim.Optimizer) -> str:
    with backend.recording() as found:
        optimizer.step()
    return " ".join(name for _, name in found)


def test_a_change_of_everything_is_seen() -> None:
    """Whatever somebody does between two steps, the next one is the reference's."""

    def transpose(w: Any, optimizer: Any) -> None:
        w.data = torch.ones(3, 4).t()

    def shorter(w: Any, optimizer: Any) -> None:
        w.data = w.data[:2]
        for key in ("exp_avg", "exp_avg_sq"):
            optimizer.state[w][key] = optimizer.state[w][key][:2]

    def double(w: Any, optimizer: Any) -> None:
        w.data = w.data.double()
        for key in ("exp_avg", "exp_avg_sq"):
            optimizer.state[w][key] = optimizer.state[w][key].double()

    def moved(w: Any, optimizer: Any) -> None:
        w.data = w.data.clone()

    def other_state(w: Any, optimizer: Any) -> None:
        optimizer.state[w]["exp_avg"] = torch.full_like(w, 7)

    def turned(w: Any, optimizer: Any) -> None:
        optimizer.state[w]["exp_avg"].copy_(torch.arange(12.0).reshape(4, 3))
        optimizer.state[w]["exp_avg"] = optimizer.state[w]["exp_avg"].view(3, 4).t()

    def cleared(w: Any, optimizer: Any) -> None:
        optimizer.state.clear()

    def loaded(w: Any, optimizer: Any) -> None:
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    def two_groups(w: Any, optimizer: Any) -> None:
        other = torch.nn.Parameter(torch.ones(2))
        other.grad = torch.ones(2)
        optimizer.add_param_group({"params": [other], "lr": 0.5})
        optimizer.param_groups.reverse()

    def other_betas(w: Any, optimizer: Any) -> None:
        optimizer.param_groups[0]["betas"] = (0.5, 0.5)

    for change in (
        transpose, shorter, double, moved, other_state, turned, cleared, loaded, two_groups,
        other_betas,
    ):  # fmt: skip
        results = []
        for implementation in ("auto", "reference"):
            w, optimizer = one()
            with use_backend(implementation):
                optimizer.step()
                change(w, optimizer)
                w.grad = torch.ones_like(w) if w.grad is None or w.grad.dtype == w.dtype else None
                w.grad = torch.arange(w.numel(), dtype=w.dtype).reshape(w.shape)
                optimizer.step()
            results.append(w.detach())
        torch.testing.assert_close(*results, msg=lambda text, c=change: f"{c.__name__}: {text}")


def runs_into(w: Any, optimizer: Any) -> None:
    memory = torch.ones(20)
    w.data, w.grad = memory[8:].view(4, 3), memory[:12].view(4, 3)


ODD: dict[str, Callable[[Any, Any], None]] = {
    "a gradient that runs into the parameter": runs_into,
    "a gradient with other strides": lambda w, o: setattr(w, "grad", torch.ones(3, 4).t()),
    "an expanded gradient": lambda w, o: setattr(w, "grad", torch.ones(1, 3).expand(4, 3)),
    "a negative view": lambda w, o: setattr(w, "grad", torch._neg_view(-torch.ones(4, 3))),
    "the parameter for a gradient": lambda w, o: setattr(w, "grad", w.detach()),
    "the state for a gradient": lambda w, o: setattr(w, "grad", o.state[w]["exp_avg"]),
    "a parameter with gaps": lambda w, o: setattr(w, "data", torch.ones(4, 6)[:, ::2]),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_tensors_go_to_the_reference(odd: str) -> None:
    w, optimizer = one()
    assert [ran(optimizer), ran(optimizer)] == ["cpu", "cpu"]
    ODD[odd](w, optimizer)
    assert ran(optimizer) == "reference"
    w, optimizer = one()
    optimizer.step()
    ODD[odd](w, optimizer)
    with use_backend("cpu"), pytest.raises(NotImplementedError, match="backend 'cpu' cannot run"):
        optimizer.step()


def test_gaps_are_left_alone() -> None:
    memory = torch.ones(4, 6)
    w = torch.nn.Parameter(memory[:, ::2])
    w.grad = torch.ones(4, 6)[:, ::2]
    assert ran(optim.SGD([w], lr=0.5)) == "reference"
    assert memory.unique(dim=0).tolist() == [[0.5, 1] * 3]


def test_what_a_kernel_cannot_do_is_left_and_the_rest_is_not() -> None:
    params = [torch.nn.Parameter(torch.ones(3, dtype=d)) for d in (torch.float32, torch.bfloat16)]
    params.append(torch.nn.Parameter(torch.ones(3, device="meta")))
    params.append(torch.nn.Parameter(torch.ones(3, dtype=torch.float64)))
    optimizer = optim.Adam(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    assert [ran(optimizer), ran(optimizer)] == ["cpu reference"] * 2
    for p in (params[0], params[1], params[3]):
        torch.testing.assert_close(p, torch.full_like(p, 0.8), rtol=1e-2, atol=0)
        assert optimizer.state[p]["step"] == 2


def test_parameters_that_share_memory_are_stepped_one_after_the_other() -> None:
    memory = torch.ones(6)
    params = [torch.nn.Parameter(memory[:4]), torch.nn.Parameter(memory[2:])]
    optimizer = optim.SGD(params, lr=0.25)
    for p in params:
        p.grad = torch.ones(4)
    assert ran(optimizer) == "reference"
    assert memory.tolist() == [0.75, 0.75, 0.5, 0.5, 0.75, 0.75]


@pytest.mark.parametrize("kind", ["dispatch mode", "subclass"])
def test_under_modes_and_for_subclasses_the_reference_runs(kind: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return func(*args, **(kwargs or {}))

    class Weight(torch.nn.Parameter):
        pass

    w, optimizer = one()
    if kind == "subclass":
        w = Weight(torch.ones(3))
        w.grad = torch.ones(3)
        assert ran(optim.SGD([w])) == "reference"
    else:
        with Mode():
            assert ran(optimizer) == "reference"
        assert ran(optimizer) == "cpu"


def test_autograd_sees_that_a_step_has_changed_a_parameter() -> None:
    w, optimizer = one("SGD")
    product = (w * w).sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
def test_a_step_count_that_is_a_number_is_torchs_error(name: str) -> None:
    messages = []
    for namespace in (optim, torch.optim):
        w = torch.nn.Parameter(torch.ones(2))
        optimizer = getattr(namespace, name)([w])
        for _ in range(2):
            w.grad = torch.ones(2)
            if optimizer.state:
                optimizer.state[w]["step"] = 5
                with pytest.raises(RuntimeError) as caught:
                    optimizer.step()
                messages.append(str(caught.value))
            else:
                optimizer.step()
    assert messages[0] == messages[1]


def test_gradients_are_not_kept_alive() -> None:
    w, optimizer = one()
    optimizer.step()
    gone = weakref.ref(w.grad)
    optimizer.zero_grad()
    gc.collect()
    assert gone() is None


def test_every_optimizer_has_a_kernel() -> None:
    assert {getattr(optim, name).kernel for name in EVERY} == {
        getattr(cpu, name) for name in cpu.__all__
    }
