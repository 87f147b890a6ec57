"""Uses of an optimizer: refnet's and torch's pass, and each use shows what it is there for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from verification.cases.optimizers import optimizer_tables
from verification.report import Report, Row, collect
from verification.usage import USES, usage_rows

TABLES = optimizer_tables()


def verify(name: str, candidate: Callable[..., Any] | None, **options: Any) -> list[Row]:
    return collect(usage_rows(TABLES[name], candidate, **options)).rows


@pytest.mark.parametrize("name", TABLES)
def test_refnet_and_the_builtin_pass(name: str) -> None:
    for candidate in (None, TABLES[name].builtin):
        rows = verify(name, candidate)
        Report(rows).raise_if_failed()
        assert [row.quantity for row in rows] == [*USES, *USES]


class Rewrite(Optimizer):
    """SGD in a few lines, with and without momentum; a part can be made wrong."""

    def __init__(
        self, params: Any, lr: float = 0.1, momentum: float = 0.0, weight_decay: float = 0.0,
        nesterov: bool = False, maximize: bool = False,
    ) -> None:  # fmt: skip
        if lr < 0:
            raise ValueError(f"lr must not be negative, got {lr}")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay,
                    "nesterov": nesterov, "maximize": maximize}  # fmt: skip
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
            state["momentum_buffer"] = g.clone() if old is None else group["momentum"] * old + g
            buffer = state["momentum_buffer"]
            g = g + group["momentum"] * buffer if group["nesterov"] else buffer
        p.sub_(group["lr"] * g)


def test_a_rewrite_passes() -> None:
    Report(verify("SGD", Rewrite)).raise_if_failed()


class CachedRate(Rewrite):
    def __init__(self, params: Any, lr: float = 0.1, **options: Any) -> None:
        super().__init__(params, lr, **options)
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
    "takes anything": (Careless, {"no parameters", "negative rate"}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_optimizers_fail(wrong: str) -> None:
    SHARED.clear()
    candidate, quantities = WRONG[wrong]
    assert quantities <= {row.quantity for row in Report(verify("SGD", candidate)).failures}


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


def test_crashes_and_what_is_no_optimizer_are_rows() -> None:
    for candidate in (lambda *a, **o: None, lambda *a, **o: 1 / 0, lambda: None):
        rows = verify("SGD", candidate)
        assert len(rows) == 2 * len(USES)
        assert not any(row.passed for row in rows)


def test_a_candidate_that_hangs_is_a_row() -> None:
    class Hangs(SGD):
        def step(self, closure: Any = None) -> Any:
            while True:
                pass

    rows = Report(verify("SGD", Hangs, time_limit=0.02)).failures
    assert all("more than 0.02 s" in row.note for row in rows)
