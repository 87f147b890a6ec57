"""Uses of an optimizer: refnet's and torch's pass, and each use shows what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from verification.cases.optimizers import optimizer_tables
from verification.optimizers.usage import usage_rows
from verification.optimizers.uses import OPTIONS, USES, uses_of
from verification.public import verify_optimizer
from verification.report import Report, Row, collect

TABLES = optimizer_tables()


def verify(name: str, candidate: Callable[..., Any] | None, **options: Any) -> list[Row]:
    return collect(usage_rows(TABLES[name], candidate, **options)).rows


@pytest.mark.parametrize("name", TABLES)
def test_refnet_and_the_builtin_pass(name: str) -> None:
    for candidate in (None, TABLES[name].builtin):
        rows = verify(name, candidate)
        Report(rows).raise_if_failed()
        assert [row.quantity for row in rows] == [*uses_of(name)] * len(OPTIONS[name])


class Rewrite(Optimizer):
    """SGD in a few lines, with and without momentum; a part can be made wrong."""

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False, maximize: bool = False,
    ) -> None:  # fmt: skip
        if min(lr, momentum, weight_decay) < 0:
            raise ValueError(f"no option may be negative: {lr}, {momentum}, {weight_decay}")
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError("Nesterov takes a momentum and no dampening")
        defaults = {"lr": lr, "momentum": momentum, "dampening": dampening,
                    "weight_decay": weight_decay, "nesterov": nesterov,
                    "maximize": maximize}  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, group)
        return loss

    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        g = (-grad if group["maximize"] else grad) + group["weight_decay"] * p
        if group["momentum"]:
            state = self.state[p]
            old = state.get("momentum_buffer")
            fresh = (1 - group["dampening"]) * g
            state["momentum_buffer"] = g.clone() if old is None else group["momentum"] * old + fresh
            buffer = state["momentum_buffer"]
            g = g + group["momentum"] * buffer if group["nesterov"] else buffer
        p.sub_(group["lr"] * g)


def test_a_rewrite_passes() -> None:
    Report(verify("SGD", Rewrite)).raise_if_failed()


class CachedRate(Rewrite):
    def __init__(self, params: Any, lr: float = 1e-3, *others: Any, **options: Any) -> None:
        super().__init__(params, lr, *others, **options)
        self.lr = lr

    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        super().update(p, grad, {**group, "lr": self.lr})


class Elsewhere(Rewrite):
    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        p.data = p.data.clone()
        super().update(p, grad, group)


class NoneIsZero(Rewrite):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
        return super().step(closure)


class Scales(Rewrite):
    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        super().update(p, grad, group)
        grad.mul_(0.5)


class Flat(Rewrite):
    """Takes memory as if it lay in order."""

    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        flat = p.as_strided((p.numel(),), (1,))
        super().update(flat, grad.reshape(-1), group)


class NoComplex(Rewrite):
    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if p.is_complex():
            raise TypeError("real parameters only")
        super().update(p, grad, group)


class NoClosure(Rewrite):
    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        return None


class ClosureWithoutGradients(Rewrite):
    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            loss = closure() if closure else None
        super().step()
        return loss


class Aliases(Rewrite):
    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        super().update(p, grad, group)
        self.state[p]["momentum_buffer"] = p.grad


SHARED: dict[str, Tensor] = {}


class SharedState(Rewrite):
    """The state hangs on the shape, in a table that all optimizers share."""

    def update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        key = str(p.shape)
        if key in SHARED and group["momentum"]:
            self.state[p]["momentum_buffer"] = SHARED[key]
        super().update(p, grad, group)
        if group["momentum"]:
            SHARED[key] = self.state[p]["momentum_buffer"]


class FirstGroup(Rewrite):
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        param_group.pop("lr", None)
        super().add_param_group(param_group)


class Forgets(Rewrite):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "state": {}})


class KeepsRate(Rewrite):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        rate = self.param_groups[0]["lr"]
        super().load_state_dict(state_dict)
        self.param_groups[0]["lr"] = rate


class Lazy(Rewrite):
    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none=True)


class Careless(Rewrite):
    def __init__(self, params: Any, lr: float = 0.1, **options: Any) -> None:
        super().__init__(list(params) or [torch.zeros(1)], abs(lr), **options)


WRONG: dict[str, tuple[type[Rewrite], set[str]]] = {
    "caches the learning rate": (CachedRate, {"schedule", "groups", "resumed"}),
    "puts the parameters elsewhere": (Elsewhere, {"in place"}),
    "takes None for zero": (NoneIsZero, {"gradients come and go"}),
    "changes gradients": (Scales, {"in place"}),
    "assumes an order of memory": (Flat, {"laid out otherwise"}),
    "refuses complex numbers": (NoComplex, {"complex"}),
    "loses the loss": (NoClosure, {"closure"}),
    "gives a closure no gradients": (ClosureWithoutGradients, {"closure"}),
    "keeps the gradient itself": (Aliases, {"memory of its own"}),
    "shares its state": (SharedState, {"two at once"}),
    "forgets a group's rate": (FirstGroup, {"groups"}),
    "loads no state": (Forgets, {"resumed"}),
    "keeps its own rate": (KeepsRate, {"resumed"}),
    "zeros to None": (Lazy, {"zero_grad"}),
    "takes anything": (Careless, {"no parameters", "refuses lr=-1.0"}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_optimizers_fail(wrong: str) -> None:
    SHARED.clear()
    candidate, quantities = WRONG[wrong]
    assert quantities <= {row.quantity for row in Report(verify("SGD", candidate)).failures}


class FirstMomentum(SGD):
    """The momentum of the first step is that of all."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["momentum"] = group.setdefault("first", group["momentum"])
        return super().step(closure)


class FirstBetas(Adam):
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["betas"] = group.setdefault("first", group["betas"])
        return super().step(closure)


class FrozenRate(SGD):
    def __init__(self, params: Any, lr: Any = 1e-3, *others: Any, **options: Any) -> None:
        super().__init__(params, float(lr), *others, **options)


class FirstElements(SGD):
    """Like a kernel whose last blocks are never started."""

    def step(self, closure: Any = None) -> Any:
        params = [p for group in self.param_groups for p in group["params"] if p.numel() > 1024]
        kept = [p.detach().clone() for p in params]
        loss = super().step(closure)
        for p, old in zip(params, kept, strict=True):
            p.data.view(-1)[1024:] = old.view(-1)[1024:]
        return loss


class Cleans(SGD):
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            if p.grad is not None and not p.is_complex():
                p.grad = p.grad.nan_to_num()
        return super().step(closure)


class Tires(SGD):
    count = 0

    def step(self, closure: Any = None) -> Any:
        self.count += 1
        if self.count == 13:
            self.param_groups[0]["lr"] *= 0.5
        return super().step(closure)


class SkipsFrozen(SGD):
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            if not p.requires_grad:
                p.grad = None
        return super().step(closure)


class Corrected(Adam):
    """β₂ to the power of 5000 for all later ones."""

    def step(self, closure: Any = None) -> Any:
        for state in self.state.values():
            state["step"].clamp_(max=4999)
        return super().step(closure)


class NoHooks(SGD):
    def register_step_post_hook(self, hook: Any) -> Any:
        return None


def other_rate(params: Any, lr: Any = 3e-3, *others: Any, **options: Any) -> Adam:
    return Adam(params, lr, *others, **options)


def other_order(params: Any, lr: Any = 1e-3, eps: Any = 1e-8, betas: Any = (0.9, 0.999),
                **options: Any) -> Adam:  # fmt: skip
    return Adam(params, lr, betas, eps, **options)


def own_eps(params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8,
            *others: Any, **options: Any) -> Adam:  # fmt: skip
    return Adam(params, lr, betas, eps or 1e-8, *others, **options)


def own_beta(params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), *others: Any,
             **options: Any) -> Adam:  # fmt: skip
    return Adam(params, lr, (betas[0] or 0.9, betas[1]), *others, **options)


def takes_any(params: Any, lr: Any = 1e-3, momentum: float = 0, dampening: float = 0,
              weight_decay: float = 0, *others: Any, **options: Any) -> SGD:  # fmt: skip
    return SGD(params, lr, abs(momentum), dampening, abs(weight_decay), *others, **options)


def clamps(params: Any, lr: Any = 1e-3, betas: Any = (0.9, 0.999), eps: float = 1e-8,
           *others: Any, **options: Any) -> Adam:  # fmt: skip
    kept = tuple(min(max(beta, 0.0), 0.9999) for beta in betas)
    return Adam(params, lr, kept, abs(eps), *others, **options)


# What only one use, or one option's value, shows: all of its rows are of these quantities.
SUBTLE: dict[str, tuple[str, Callable[..., Any], set[str]]] = {
    "another default rate": ("Adam", other_rate, {"defaults"}),
    "another order of arguments": ("Adam", other_order, {"by place"}),
    "its own momentum": ("SGD", FirstMomentum, {"changed options"}),
    "its own betas": ("Adam", FirstBetas, {"changed options"}),
    "a number for a tensor": ("SGD", FrozenRate, {"rate changed in place"}),
    "the first 1024 elements": ("SGD", FirstElements, {"large"}),
    "no NaN": ("SGD", Cleans, {"NaN and inf", "in place"}),
    "tires after 12 steps": ("SGD", Tires, {"300 steps"}),
    "corrects the bias of 5000 steps": ("Adam", Corrected, {"after 100000 steps"}),
    "no frozen parameters": ("SGD", SkipsFrozen, {"frozen with a gradient"}),
    "no hooks": ("SGD", NoHooks, {"hooks"}),
    "takes what is negative": (
        "SGD", takes_any, {"refuses momentum=-0.5", "refuses weight_decay=-0.1"},
    ),
    "betas and eps are clamped": (
        "Adam", clamps, {
            "refuses eps=-1e-08", "refuses betas=(1.0, 0.999)", "refuses betas=(-0.1, 0.999)",
            "refuses betas=(0.9, 1.0)", "refuses betas=(0.9, -0.1)",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", SUBTLE)
def test_subtly_wrong_optimizers_fail(wrong: str) -> None:
    name, candidate, quantities = SUBTLE[wrong]
    report = Report(verify(name, candidate, state=False))
    assert {row.quantity for row in report.failures} == quantities
    case = report.failures[0].case
    assert not verify_optimizer(candidate, like=name, cases=case).passed


@pytest.mark.parametrize("candidate", [own_eps, own_beta])
def test_zero_is_a_value(candidate: Callable[..., Any]) -> None:
    failed = Report(verify("Adam", candidate)).failures
    assert {row.case for row in failed} == {"lr=0.05 betas=(0.0, 0.99) eps=0.0"}


class Factory:
    """An instance that makes optimizers: no more than a partial has it a name."""

    def __call__(self, *args: Any, **options: Any) -> SGD:
        return SGD(*args, **options)


@pytest.mark.parametrize("candidate", [partial(SGD, foreach=False), Factory()])
def test_candidates_without_a_name(candidate: Callable[..., Any]) -> None:
    verify_optimizer(candidate, like="SGD").raise_if_failed()


def test_parameters_are_on_the_device() -> None:
    """The meta device has no values: nothing can be compared, so that every row is seen to ask."""
    seen: set[str] = set()

    def note(params: Any, *others: Any, **options: Any) -> SGD:
        params = list(params)
        seen.update(p.device.type for p in params if isinstance(p, Tensor))
        return SGD(params, *others, **options)

    with pytest.raises((RuntimeError, NotImplementedError)):
        verify("SGD", note, device="meta")
    assert seen == {"meta"}


def test_other_state_fails_unless_the_parameters_alone_are_asked_for() -> None:
    class Renamed(Adam):
        def step(self, closure: Any = None) -> Any:
            for state in self.state.values():
                if "mean" in state:
                    state["exp_avg"] = state.pop("mean")
            loss = super().step(closure)
            for state in self.state.values():
                if "exp_avg" in state:
                    state["mean"] = state.pop("exp_avg")
            return loss

    rows = Report(verify("Adam", Renamed)).failures
    assert {row.note for row in rows} == {"the state differs"}
    Report(verify("Adam", Renamed, state=False)).raise_if_failed()


def test_a_state_without_a_count_says_that_late_steps_are_not_judged() -> None:
    class Uncounted(Adam):
        """The count is the optimizer's own."""

        def step(self, closure: Any = None) -> Any:
            for state in self.state.values():
                state["step"] = self.counts
            loss = super().step(closure)
            for state in self.state.values():
                self.counts = state.pop("step", None)
            return loss

    rows = verify("Adam", Uncounted, state=False)
    (late, *_) = [row for row in rows if row.quantity == "after 100000 steps"]
    assert (late.passed, late.note) == (True, "no count of steps in the state: see the 300 steps")
    assert not Report(verify("Adam", Uncounted)).passed


def test_crashes_and_what_is_no_optimizer_are_rows() -> None:
    for candidate in (lambda *a, **o: None, lambda *a, **o: 1 / 0, lambda: None):
        rows = verify("SGD", candidate)
        assert len(rows) == 2 * len(uses_of("SGD")) > 2 * len(USES)
        assert not any(row.passed for row in rows)


def test_a_candidate_that_hangs_is_a_row() -> None:
    class Hangs(SGD):
        def step(self, closure: Any = None) -> Any:
            while True:
                pass

    rows = Report(verify("SGD", Hangs, time_limit=0.02)).failures
    assert all("more than 0.02 s" in row.note for row in rows)
