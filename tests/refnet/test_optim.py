"""Optimizers and schedules: torch's contract, and the relations between the forms."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from refnet import optim
from refnet.optim import lr_scheduler

NAMES = ["SGD", "RMSprop", "Adam", "AdamW"]
OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "Adam": {"lr": 0.01, "amsgrad": True, "weight_decay": 0.01},
    "AdamW": {"lr": 0.01},
}


def weights(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in ((3, 2), (), (0,), (4,))]


def step(optimizer: torch.optim.Optimizer, params: list[Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()


def assert_equal_states(ours: torch.optim.Optimizer, theirs: torch.optim.Optimizer) -> None:
    a, b = ours.state_dict(), theirs.state_dict()
    assert a["state"].keys() == b["state"].keys()
    for index, state in b["state"].items():
        assert a["state"][index].keys() == state.keys()
        for name, value in state.items():
            torch.testing.assert_close(a["state"][index][name], value, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_torchs(name: str) -> None:
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    for parameter in theirs.values():
        assert ours[parameter.name].default == parameter.default
        assert ours[parameter.name].kind == parameter.kind
    own = [n for n in ours if n not in theirs]
    assert own == (["eps_inside_root"] if name == "RMSprop" else [])


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_move_both_ways_in_the_middle_of_training(name: str) -> None:
    options = OPTIONS[name]
    params, reference = weights(), weights()
    ours = getattr(optim, name)(params, **options)
    theirs = getattr(torch.optim, name)(reference, **options)
    for seed in range(12):
        if seed in (4, 8):  # change places: ours goes on from torch's state, then torch from ours
            source, target = (theirs, ours) if seed == 4 else (ours, theirs)
            target.load_state_dict(copy.deepcopy(source.state_dict()))
        step(ours, params, seed)
        step(theirs, reference, seed)
        for p, q in zip(params, reference, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)
    assert_equal_states(ours, theirs)


@pytest.mark.parametrize("name", [*NAMES, "Momentum"])
def test_repr_pickle_and_deepcopy_go_on(name: str) -> None:
    params = weights()
    optimizer = getattr(optim, name)(params, lr=0.1)
    step(optimizer, params, 0)
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert repr(twin) == repr(optimizer)
        copies = twin.param_groups[0]["params"]
        before = [p.detach().clone() for p in params]
        step(twin, copies, 1)
        for p, q in zip(params, before, strict=True):
            assert torch.equal(p, q)  # nothing is shared
    if name != "Momentum":
        assert repr(optimizer).split("(")[0] == name + " "


@pytest.mark.parametrize("name", [*NAMES, "Momentum"])
def test_closure_runs_with_gradients_and_its_loss_is_returned(name: str) -> None:
    w = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = getattr(optim, name)([w], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (w**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 4
    assert w.item() < 2
    assert optimizer.step() is None


@pytest.mark.parametrize("name", [*NAMES, "Momentum"])
def test_groups_have_options_of_their_own(name: str) -> None:
    a, b = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = getattr(optim, name)([{"params": [a], "lr": 0.0}], lr=0.1)
    optimizer.add_param_group({"params": [b]})
    step(optimizer, [a, b], 0)
    assert a.item() == 1 != b.item()


@pytest.mark.parametrize("name", NAMES)
def test_complex_parameters_are_pairs_of_reals(name: str) -> None:
    results = []
    for namespace in (optim, torch.optim):
        torch.manual_seed(0)
        w = torch.nn.Parameter(torch.randn(3, dtype=torch.complex128))
        optimizer = getattr(namespace, name)([w], **OPTIONS[name])
        for seed in range(3):
            step(optimizer, [w], seed)
        results.append((w, optimizer))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-14)
    assert_equal_states(results[0][1], results[1][1])


@pytest.mark.parametrize("name", NAMES)
def test_differentiable(name: str) -> None:
    results = []
    for namespace in (optim, torch.optim):
        start = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
        grad = torch.tensor([0.5, -0.3], dtype=torch.float64, requires_grad=True)
        w = start.clone()
        w.grad = grad
        getattr(namespace, name)([w], lr=0.1, differentiable=True).step()
        results.append(torch.autograd.grad(w.sum(), (start, grad)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_tensor_lr_and_accepted_hints(name: str) -> None:
    params, reference = weights(), weights()
    extra = {"foreach": False} if name == "RMSprop" else {"foreach": False, "fused": False}
    ours = getattr(optim, name)(params, lr=torch.tensor(0.1), **extra)
    theirs = getattr(torch.optim, name)(reference, lr=torch.tensor(0.1), **extra)
    for seed in range(3):
        step(ours, params, seed)
        step(theirs, reference, seed)
    for p, q in zip(params, reference, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)  # torch.tensor(0.1) is float32


@pytest.mark.parametrize("name", ["RMSprop", "Adam"])
def test_old_checkpoints(name: str) -> None:
    """A step count that is a number, and groups without the options that came later."""
    params, twins = weights(), weights()
    optimizer, fresh = (getattr(optim, name)(ps, lr=0.1) for ps in (params, twins))
    step(optimizer, params, 0)
    twins_start = [p.detach().clone() for p in params]
    for twin, start in zip(twins, twins_start, strict=True):
        twin.data.copy_(start)
    old = copy.deepcopy(optimizer.state_dict())
    for state in old["state"].values():
        state["step"] = int(state["step"])
    for late in ("maximize", "foreach", "capturable", "differentiable"):
        del old["param_groups"][0][late]
    fresh.load_state_dict(old)
    step(optimizer, params, 1)
    step(fresh, twins, 1)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)


BAD: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    *[(n, {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0") for n in [*NAMES, "Momentum"]],
    *[(n, {"weight_decay": -1.0}, ValueError, "weight_decay value: -1.0") for n in NAMES],
    *[(n, {"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element") for n in NAMES],
    ("Adam", {"lr": math.nan}, ValueError, "nan"),
    ("SGD", {"momentum": -0.5}, ValueError, "Invalid momentum value: -0.5"),
    ("SGD", {"nesterov": True}, ValueError, "Nesterov momentum requires"),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "Nesterov"),
    ("Momentum", {"momentum": 1.0}, ValueError, "Invalid momentum value: 1.0"),
    ("RMSprop", {"alpha": -0.1}, ValueError, "Invalid alpha value: -0.1"),
    ("RMSprop", {"eps": -1.0}, ValueError, "Invalid epsilon value: -1.0"),
    ("Adam", {"eps": -1.0}, ValueError, "Invalid epsilon value: -1.0"),
    ("Adam", {"betas": (1.0, 0.9)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    ("AdamW", {"betas": (0.9, -0.1)}, ValueError, "Invalid beta parameter at index 1: -0.1"),
    ("Adam", {"fused": True, "foreach": True}, RuntimeError, "`fused` and `foreach`"),
    ("SGD", {"fused": True, "differentiable": True}, RuntimeError, "`differentiable`"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), BAD)
def test_errors(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as ours:
        getattr(optim, name)([torch.nn.Parameter(torch.ones(1))], **options)
    assert message in str(ours.value)
    if hasattr(torch.optim, name):
        with pytest.raises(error):
            getattr(torch.optim, name)([torch.nn.Parameter(torch.ones(1))], **options)


@pytest.mark.parametrize("name", ["RMSprop", "Adam", "AdamW"])
def test_sparse_gradients_are_torchs_error(name: str) -> None:
    messages = []
    for namespace in (optim, torch.optim):
        w = torch.nn.Parameter(torch.ones(3))
        w.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
        with pytest.raises(RuntimeError) as caught:
            getattr(namespace, name)([w], lr=0.1).step()
        messages.append(str(caught.value).replace("AdamW does", "Adam does"))
    assert messages[0] == messages[1]


def test_momentum_differs_from_plain_sgd_momentum() -> None:
    w, q = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    for optimizer, p in ((optim.Momentum([w], lr=0.1), w), (optim.SGD([q], 0.1, 0.9), q)):
        p.grad = torch.ones(1)
        optimizer.step()
    assert (w.item(), q.item()) == pytest.approx((0.99, 0.9))


def sgd(lr: float = 0.3) -> torch.optim.Optimizer:
    return optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(schedule: Any, steps: int = 20) -> list[float]:
    found = []
    for _ in range(steps):
        found += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    return found


SCHEDULES: list[tuple[Callable[[Any], Any], Callable[[int], float]]] = [
    (lambda o: lr_scheduler.InverseTimeDecay(o, 0.3), lambda e: 1 / (1 + 0.3 * e)),
    (lambda o: lr_scheduler.ExponentialDecay(o, 0.9), lambda e: 0.9**e),
    (lambda o: lr_scheduler.InverseSqrtDecay(o, 0.7), lambda e: 0.7 / math.sqrt(e + 1)),
]


@pytest.mark.parametrize(("make", "factor"), SCHEDULES)
def test_schedules_are_lambda_lr_bit_for_bit(make: Any, factor: Any) -> None:
    assert rates(make(sgd())) == rates(LambdaLR(sgd(), factor))


def test_exponential_decay_beside_torchs() -> None:
    ours, theirs = (
        rates(lr_scheduler.ExponentialDecay(sgd(), 0.9)),
        rates(ExponentialLR(sgd(), 0.9)),
    )
    assert ours == pytest.approx(theirs, rel=1e-14)


@pytest.mark.parametrize(("make", "factor"), SCHEDULES)
def test_schedules_resume(make: Any, factor: Any) -> None:
    schedule = make(sgd())
    rates(schedule, 5)
    resumed = make(sgd())
    resumed.load_state_dict(schedule.state_dict())
    resumed.optimizer.load_state_dict(schedule.optimizer.state_dict())
    assert rates(resumed, 5) == rates(schedule, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lr_scheduler.InverseTimeDecay(sgd(), -1), "Invalid decay_rate: -1"),
        (lambda: lr_scheduler.ExponentialDecay(sgd(), 0), "Invalid gamma: 0"),
        (lambda: lr_scheduler.InverseSqrtDecay(sgd(), -0.5), "Invalid k: -0.5"),
    ],
)
def test_schedule_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_torchs_schedules_work_on_our_optimizers() -> None:
    for schedule in (
        torch.optim.lr_scheduler.OneCycleLR(sgd(), 0.1, total_steps=30),
        torch.optim.lr_scheduler.CosineAnnealingLR(sgd(), 10),
        torch.optim.lr_scheduler.StepLR(sgd(), 5),
    ):
        assert len(set(rates(schedule))) > 1
