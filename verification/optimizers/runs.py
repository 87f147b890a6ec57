"""Run an optimizer over gradients that are laid down beforehand, and record every step."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from verification.cases.optimizers import Case, OptimizerTable

Make = Callable[..., Any]
Steps = list[dict[str, Any]]  # after each step: "param" and the state, by name


@dataclass(frozen=True)
class Lane:
    """A parameter and the gradients of all steps, and which of them there are at all."""

    param: torch.Tensor
    grads: torch.Tensor
    present: npt.NDArray[np.bool_]

    def grad(self, step: int) -> torch.Tensor | None:
        """Return a step's gradient, None where there is none."""
        return self.grads[step] if self.present[step] else None


def run(make: Make, case: Case, lanes: Sequence[Lane], heir: Make | None = None) -> Any:
    """Run all tensors in one optimizer; return each tensor's trajectory, None without optimizer.

    A resumed run goes on in the heir's optimizer after a third of the steps, and after two thirds
    in one of its own again.

    Args:
        make: a class or factory.
        case: its arguments, and how it is used.
        lanes: the parameters and their gradients.
        heir: who goes on with a resumed run.

    Raises:
        RuntimeError: it changed a gradient, or did something else than to call the closure.
    """
    weights = [torch.nn.Parameter(lane.param.clone()) for lane in lanes]
    optimizer = _make(make, case, weights)
    if optimizer is None:
        return None
    count = len(lanes[0].present)
    changes = {count // 3: heir, 2 * count // 3: make} if case.resumed and heir else {}
    found: list[Steps] = [[] for _ in weights]
    for step in range(count):
        if step in changes:
            stopped, weights = optimizer, [torch.nn.Parameter(w.detach().clone()) for w in weights]
            optimizer = _make(changes[step], case, weights) or _make(make, case, weights)
            _hand_over(stopped, optimizer)
        _step(optimizer, weights, [lane.grad(step) for lane in lanes], case.closure)
        for steps, kept in zip(found, _record(optimizer, weights), strict=True):
            steps.append(kept)
    return found


@torch.no_grad()
def _record(optimizer: torch.optim.Optimizer, weights: Sequence[torch.nn.Parameter]) -> Steps:
    """Return copies of the parameters and of their state; what is alike is copied in one go."""
    kept: Steps = []
    for weight in weights:
        entry = {"entry": True} if weight in optimizer.state else {}
        found = {"param": weight, **entry, **optimizer.state.get(weight, {})}
        kept.append({n: torch.as_tensor(v) for n, v in found.items() if v is not None})
    for name in dict.fromkeys(chain(*kept)):
        holders = [state for state in kept if name in state]
        tensors = [state[name] for state in holders]
        alike = len({(t.shape, t.dtype, t.device, t.layout) for t in tensors}) == 1
        copies = torch.stack(tensors).unbind() if alike else [t.clone() for t in tensors]
        for state, copy in zip(holders, copies, strict=True):
            state[name] = copy
    return kept


def _make(make: Make, case: Case, weights: list[torch.nn.Parameter]) -> Any:
    params: list[Any] = list(weights)
    if case.group:
        params = [{"params": weights[::2]}, {"params": weights[1::2], **case.group}]
    shared = case.arguments.items()  # a learning rate that is a tensor may be changed in place
    return make(params, **{n: v.clone() if torch.is_tensor(v) else v for n, v in shared})


def _hand_over(stopped: torch.optim.Optimizer, optimizer: torch.optim.Optimizer) -> None:
    """Load a state dict the way that a checkpoint goes."""
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    optimizer.load_state_dict(torch.load(file))


def _step(
    optimizer: torch.optim.Optimizer,
    weights: list[torch.nn.Parameter],
    grads: list[torch.Tensor | None],
    closure: bool,
) -> None:
    calls = []

    def evaluate() -> float:
        calls.append(torch.is_grad_enabled())
        for weight, g in zip(weights, grads, strict=True):
            if g is None or weight.grad is None:
                weight.grad = None if g is None else g.clone()
            else:  # in place: a state that is the gradient itself shows
                weight.grad.copy_(g)
        return 0.5

    if closure:
        loss = optimizer.step(evaluate)
        if calls != [True] or loss != 0.5:
            raise RuntimeError(
                f"the closure: gradients on in calls {calls}, loss 0.5 became {loss}"
            )
    else:
        evaluate()
        optimizer.step()
    for weight, g in zip(weights, grads, strict=True):
        if g is not None and (weight.grad is None or not torch.equal(g, weight.grad)):
            raise RuntimeError("a gradient was changed")


def state_difference(table: OptimizerTable, ours: Sequence[Steps], builtin: Any) -> str:
    """Return in words where a candidate keeps other state than the builtin: names, dtypes."""
    if builtin is None:
        return ""
    for step, expected in zip(chain(*ours), chain(*builtin), strict=True):
        have = {n: t.dtype for n, t in step.items() if n not in table.own_state}
        want = {n: t.dtype for n, t in expected.items()}
        if have != want:
            return f"state {have}, but the builtin's is {want}"
    return ""
