"""What torch's own tools say of a bug, used the way that one does first.

A layer with its default options and initial weights, and inputs of a normal distribution:
`torch.autograd.gradcheck` in float64, and `torch.testing.assert_close` in float32 between it and
the builtin, of the output and of the gradients of its sum. Of an optimizer the weights after ten
steps, of a schedule ten rates.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.optimizers.schedules import schedule_tables

Call = Callable[..., Any]
STEPS = 10


def default_checks(subject: str, candidate: Call) -> tuple[bool | None, bool | None]:
    """Return whether gradcheck and assert_close with default settings reject a candidate.

    Args:
        subject: a name that bugs are planted under.
        candidate: with the arguments of refnet's.

    Returns:
        Two answers, None where it can't be asked.

    Example:
        >>> from refnet.functional import relu
        >>> default_checks("relu", relu), default_checks("relu", torch.tanh)
        ((False, False), (False, True))
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if subject in op_tables():
            return _rejects(_gradcheck, subject, candidate), _rejects(_op, subject, candidate)
        if subject in optimizer_tables():
            return None, _rejects(_optimizer, subject, candidate)
        if subject in schedule_tables():
            return None, _rejects(_schedule, subject, candidate)
    return None, None


def _rejects(check: Callable[[str, Call], None], subject: str, candidate: Call) -> bool:
    try:
        check(subject, candidate)
    except Exception:
        return True
    return False


def _gradcheck(subject: str, candidate: Call) -> None:
    call, inputs = _layer(subject, candidate, torch.float64)
    torch.autograd.gradcheck(call, inputs)


def _op(subject: str, candidate: Call) -> None:
    name = subject if subject.startswith("dropout") else ""
    builtin = getattr(functional, name) if name else op_tables()[subject].builtin
    torch.testing.assert_close(_values(subject, candidate), _values(subject, builtin))


def _values(subject: str, function: Call) -> list[Tensor]:
    call, inputs = _layer(subject, function, torch.float32)
    output = call(*inputs)
    return [output.detach(), *torch.autograd.grad(output.sum(), inputs)]


def _layer(subject: str, function: Call, dtype: torch.dtype) -> tuple[Call, list[Tensor]]:
    """Return a layer as a function of what is differentiated, and these tensors."""
    torch.manual_seed(0)
    shape = (4, 5, *[2] * {"dropout1d": 1, "dropout2d": 2, "dropout3d": 3}.get(subject, 0))
    x, target = torch.randn(shape, dtype=dtype), torch.randint(5, (4,))
    weight, bias = torch.ones(5, dtype=dtype), torch.zeros(5, dtype=dtype)
    if subject == "linear":
        layer = torch.nn.Linear(5, 3, dtype=dtype)
        weight, bias = layer.weight.detach(), layer.bias.detach()

    def call(x: Tensor, weight: Any = weight, bias: Any = bias) -> Any:
        torch.manual_seed(0)  # for the masks
        average = {"running_mean": torch.zeros(5, dtype=dtype)}
        average["running_var"] = torch.ones(5, dtype=dtype)
        affine = {"weight": weight, "bias": bias}
        if subject == "batch_norm":
            return function(x, **average, **affine, training=True)
        if subject == "BatchNorm":
            return function(
                x, **average, num_batches_tracked=torch.tensor(0), **affine, training=True,
                momentum=0.1, eps=1e-5, affine=True, track_running_stats=True,
            )  # fmt: skip
        if subject == "linear":
            return function(x, **affine)
        if subject == "cross_entropy":
            return function(x, target)
        return function(x, dim=1) if "softmax" in subject else function(x)

    with_weights = subject in ("batch_norm", "BatchNorm", "linear")
    inputs = [x, weight, bias] if with_weights else [x]
    return call, [tensor.requires_grad_() for tensor in inputs]


def _optimizer(subject: str, candidate: Call) -> None:
    trained: list[dict[str, Any]] = []
    makers: tuple[Call, Call] = (candidate, optimizer_tables()[subject].builtin)
    for make in makers:
        torch.manual_seed(0)
        net, x, y = torch.nn.Linear(5, 3), torch.randn(8, 5), torch.randn(8, 3)
        optimizer = make(net.parameters(), lr=0.01)
        for _ in range(STEPS):
            optimizer.zero_grad()
            functional.mse_loss(net(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        trained.append(net.state_dict())
    torch.testing.assert_close(*trained)


def _schedule(subject: str, candidate: Call) -> None:
    table = schedule_tables()[subject]
    rates: list[list[float]] = []
    for make in (candidate, table.builtin):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        schedule = make(optimizer, table.values[0])
        rates.append([])
        for _ in range(STEPS):
            optimizer.step()
            schedule.step()
            rates[-1].append(float(optimizer.param_groups[0]["lr"]))
    torch.testing.assert_close(*rates)
