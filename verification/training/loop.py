"""A small training run by hand, and what a loop of one's own is compared with.

The net has what makes loops go wrong: batch norm and dropout, which differ between training and
validation; weight decay on the weights alone; a schedule by epoch; clipped gradients; a factor that
counts as a constant in the gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

import refnet.nn
from verification.report import ANOTHER, Row
from verification.training.lockstep import Floats, Recording, builtin_masks, compare, perturb

SUBJECT = "training run"
SIZE = 16  # of a batch; the last one is smaller
Loop = Callable[..., Recording]  # (net, x, y, dev_x, dev_y) -> losses and weights


def training_rows(candidate: Loop | None = None) -> Iterator[list[Row]]:
    """Yield the rows of a training run on refnet's layers beside one on torch's.

    Args:
        candidate: a loop with the arguments of `train`, instead of it.

    Returns:
        An iterator over one list of rows: the losses, in training and validation, and the state of
        the net at the end.

    Example:
        >>> all(row.passed for rows in training_rows() for row in rows)
        True
    """
    case, nan = "batch norm, dropout, 3 epochs", math.nan
    try:
        ours = _run(refnet.nn, candidate or train)
        yield compare(SUBJECT, case, ours, _builtin(), _builtin(perturbed=True))
    except Exception as error:  # a loop that crashes gets a row
        note = f"{type(error).__name__}: {error}".splitlines()[0]
        yield [Row(SUBJECT, case, "-", "float64", nan, nan, nan, "runs", ANOTHER, note)]


def train(net: nn.Module, x: Tensor, y: Tensor, dev_x: Tensor, dev_y: Tensor) -> Recording:
    """Train a net for three epochs, with a validation after each.

    Args:
        net: of class scores, (N, inputs) -> (N, classes).
        x: inputs to train on, (N, inputs).
        y: their classes, (N).
        dev_x: inputs to validate on, (N', inputs).
        dev_y: their classes, (N').

    Returns:
        The loss of every batch and validation, the state of the net, its largest gradients.
    """
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": 0.01}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    generator = torch.Generator().manual_seed(0)
    gradients = {name: np.zeros(p.shape) for name, p in net.named_parameters()}
    losses, epochs = [], 3
    for _ in range(epochs):
        net.train()
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x), SIZE):
            rows = order[start : start + SIZE]
            optimizer.zero_grad()
            loss = focal_loss(net, x, y, rows)
            torch.autograd.backward(loss)
            clip_grad_norm_(net.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
            _keep_largest(gradients, net)
        schedule.step()
        net.eval()
        with torch.no_grad():
            losses.append(cross_entropy(net(dev_x), dev_y).item())
    state = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    return Recording(np.array(losses), state, gradients)


def focal_loss(net: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Mean of (1 − a_y) · −log a_y over the rows, where the first factor counts as a constant."""
    scores = net(x[rows])
    losses = cross_entropy(scores, y[rows], reduction="none")
    probability = (-losses).exp()
    focus = (1 - probability).detach()
    loss = (focus * losses).mean()
    return loss


def _keep_largest(gradients: dict[str, Floats], net: nn.Module) -> None:
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            size = parameter.grad.abs().numpy()
            gradients[name] = np.maximum(gradients[name], size)


@functools.cache
def _builtin(perturbed: bool = False) -> Recording:
    return _run(nn, train, perturbed)


def _run(layers: ModuleType, loop: Loop, perturbed: bool = False) -> Recording:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, dev_x = torch.randn(90, 6).double(), torch.randn(40, 6).double()
        y, dev_y = ((a[:, 0] * a[:, 1] > 0).long() + 2 * (a[:, 2] > 0) for a in (x, dev_x))
        net = nn.Sequential(
            layers.Linear(6, 12, bias=False),
            layers.BatchNorm1d(12),
            layers.ReLU(),
            layers.Dropout(0.2),
            layers.Linear(12, 4),
        ).double()
        if perturbed:
            perturb(net)
        return loop(builtin_masks(net), x, y, dev_x, dev_y)
