"""Optimizers: as the formulas stand, rearranged, and in float64 inside.

A rule takes a parameter's values, its gradient and its state, and returns the new values; the class
around it does what all have in common. State has torch's names, so that a run can go on in torch's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]
Rule = Callable[[Tensor, Tensor, State, Mapping[str, Any]], Tensor]


class _Optimizer(torch.optim.Optimizer):
    """Walks over groups and parameters; subclasses say which rule, defaults and arithmetic."""

    rule: Callable[..., Tensor]
    inside: torch.dtype | None
    defaults_of: Mapping[str, Any]

    def __init__(self, params: Any, **options: Any) -> None:
        unknown = options.keys() - self.defaults_of.keys()
        if unknown:
            raise TypeError(f"unexpected arguments: {', '.join(sorted(unknown))}")
        super().__init__(params, {**self.defaults_of, **options})

    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                plain = {n: v.item() if torch.is_tensor(v) else v for n, v in group.items()}
                for param in group["params"]:
                    if param.grad is not None:
                        self._move(param, param.grad, plain)
        return loss

    def _move(self, param: Tensor, grad: Tensor, options: Mapping[str, Any]) -> None:
        dtype = self.inside or param.dtype
        state: State = self.state.get(param, {})  # without momentum SGD has none
        kept = {n: v if n == "step" else v.to(dtype, copy=True) for n, v in state.items()}
        dw = -grad.to(dtype) if options["maximize"] else grad.to(dtype, copy=True)
        w = param.to(dtype, copy=True)
        if options["weight_decay"] and not options.get("decoupled_weight_decay"):
            dw = dw + w * options["weight_decay"]
        param.copy_(type(self).rule(w, dw, kept, options))
        if kept:
            held = {n: v if n == "step" else v.to(param.dtype) for n, v in kept.items()}
            self.state[param].update(held)


def _counted(state: State) -> float:
    state["step"] = state.get("step", torch.tensor(0.0)) + 1
    return float(state["step"])


def _averaged(state: State, name: str, new: Tensor, beta: float) -> Tensor:
    state[name] = beta * state.get(name, torch.zeros_like(new)) + (1 - beta) * new
    return state[name]


def _drawn(state: State, name: str, new: Tensor, beta: float) -> Tensor:
    """The same average, as a step towards the new value."""
    old = state.get(name, torch.zeros_like(new))
    state[name] = old + (new - old) * (1 - beta)
    return state[name]


def _sgd(w: Tensor, dw: Tensor, state: State, o: Mapping[str, Any]) -> Tensor:
    if o["momentum"]:
        old = state.get("momentum_buffer")
        new = dw if old is None else o["momentum"] * old + (1 - o["dampening"]) * dw
        state["momentum_buffer"] = new
        dw = dw + o["momentum"] * new if o["nesterov"] else new
    moved: Tensor = w - o["lr"] * dw
    return moved


def _sgd_rearranged(w: Tensor, dw: Tensor, state: State, o: Mapping[str, Any]) -> Tensor:
    """W − lr (dW + μ B) as two steps, and B by addcmul."""
    momentum, lr = o["momentum"], o["lr"]
    if not momentum:
        return torch.addcmul(w, dw, torch.full_like(dw, -lr))
    old = state.get("momentum_buffer")
    if old is None:
        state["momentum_buffer"] = dw
    else:
        state["momentum_buffer"] = (dw - o["dampening"] * dw).add(old, alpha=momentum)
    if o["nesterov"]:
        return w.sub(dw, alpha=lr).sub(state["momentum_buffer"], alpha=lr * momentum)
    return w.sub(state["momentum_buffer"], alpha=lr)


def _momentum(average: Callable[..., Tensor]) -> Rule:
    def rule(w: Tensor, dw: Tensor, state: State, o: Mapping[str, Any]) -> Tensor:
        v = average(state, "momentum_buffer", dw, o["momentum"])
        if o["bias_correction"]:
            v = v / (1 - o["momentum"] ** _counted(state))
        moved: Tensor = w - o["lr"] * v
        return moved

    return rule


def _rmsprop(average: Callable[..., Tensor]) -> Rule:
    def rule(w: Tensor, dw: Tensor, state: State, o: Mapping[str, Any]) -> Tensor:
        _counted(state)
        s = average(state, "square_avg", dw * dw, o["alpha"])
        if o["centered"]:
            s = s - average(state, "grad_avg", dw, o["alpha"]) ** 2
        root = torch.sqrt(s + o["eps"]) if o["eps_inside_root"] else torch.sqrt(s) + o["eps"]
        quotient = dw / root
        if o["momentum"]:
            old = state.get("momentum_buffer", torch.zeros_like(w))
            quotient = state["momentum_buffer"] = o["momentum"] * old + quotient
        moved: Tensor = w - o["lr"] * quotient
        return moved

    return rule


def _largest(state: State, s: Tensor) -> Tensor:
    old = state.get("max_exp_avg_sq", torch.zeros_like(s))
    state["max_exp_avg_sq"] = torch.where(s > old, s, old)
    return state["max_exp_avg_sq"]


def _decayed(w: Tensor, o: Mapping[str, Any]) -> Tensor:
    return w - o["lr"] * o["weight_decay"] * w if o["decoupled_weight_decay"] else w


def _adam(w: Tensor, dw: Tensor, state: State, o: Mapping[str, Any]) -> Tensor:
    (beta1, beta2), t = o["betas"], _counted(state)
    v = _averaged(state, "exp_avg", dw, beta1)
    s = _averaged(state, "exp_avg_sq", dw * dw, beta2)
    s = _largest(state, s) if o["amsgrad"] else s
    v_corrected, s_corrected = v / (1 - beta1**t), s / (1 - beta2**t)
    root = torch.sqrt(s_corrected) + o["eps"]
    moved: Tensor = _decayed(w, o) - o["lr"] * v_corrected / root
    return moved


def _adam_rearranged(w: Tensor, dw: Tensor, state: State, o: Mapping[str, Any]) -> Tensor:
    """The corrections in the learning rate and in ε (Kingma, Ba 2015, end of section 2)."""
    (beta1, beta2), t = o["betas"], _counted(state)
    v = _drawn(state, "exp_avg", dw, beta1)
    s = _averaged(state, "exp_avg_sq", dw**2, beta2)
    s = _largest(state, s) if o["amsgrad"] else s
    root = (1 - beta2**t) ** 0.5
    rate = o["lr"] * root / (1 - beta1**t)
    return torch.addcdiv(_decayed(w, o), v, s.sqrt() + root * o["eps"], value=-rate)


_COMMON = {"lr": 1e-3, "weight_decay": 0.0, "maximize": False}
_SGD = {**_COMMON, "momentum": 0.0, "dampening": 0.0, "nesterov": False}
_MOMENTUM = {**_COMMON, "momentum": 0.9, "bias_correction": False}
_RMSPROP = {
    **_COMMON, "lr": 1e-2, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "centered": False,
    "eps_inside_root": False,
}  # fmt: skip
_ADAM = {
    **_COMMON, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False,
    "decoupled_weight_decay": False,
}  # fmt: skip
_ADAMW = {**_ADAM, "weight_decay": 1e-2, "decoupled_weight_decay": True}


def _made(
    rule: Rule, defaults: Mapping[str, Any], inside: torch.dtype | None = None
) -> type[_Optimizer]:  # fmt: skip
    fields = {"rule": staticmethod(rule), "defaults_of": defaults, "inside": inside}
    return type("Rewrite", (_Optimizer,), fields)


REWRITES = {
    name: {
        "as the formulas stand": _made(rule, defaults),
        "rearranged": _made(rearranged, defaults),
        "float64 inside": _made(rule, defaults, torch.float64),
    }
    for name, rule, rearranged, defaults in (
        ("SGD", _sgd, _sgd_rearranged, _SGD),
        ("Momentum", _momentum(_averaged), _momentum(_drawn), _MOMENTUM),
        ("RMSprop", _rmsprop(_averaged), _rmsprop(_drawn), _RMSPROP),
        ("Adam", _adam, _adam_rearranged, _ADAM),
        ("AdamW", _adam, _adam_rearranged, _ADAMW),
    )
}
