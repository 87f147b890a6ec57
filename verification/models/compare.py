"""Two models in lockstep: which layer, tensor and step differ first, and by how much."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn

from verification.models.findings import FORWARD, Finding, ModelsReport, report
from verification.models.free import Free
from verification.models.matching import ROOT, Match, Matching, match_models
from verification.models.options import with_options
from verification.models.parties import Crash
from verification.models.recording import Loss, Party, WrongLoss, random_state_kept
from verification.models.teacher import Teacher
from verification.models.trees import map_tensors
from verification.training.lockstep import builtin_masks

MakeOptimizer = Callable[..., torch.optim.Optimizer]


def compare_models(
    candidate: nn.Module,
    reference: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Loss | tuple[Loss, Loss],
    optimizers: MakeOptimizer | tuple[MakeOptimizer, MakeOptimizer] | None = None,
    mode: Literal["teacher", "free"] = "teacher",
    match: Match | None = None,
    dtype: torch.dtype | None = torch.float64,
    device: str | torch.device = "cpu",
    steps: int | None = None,
    seed: int = 0,
    same_start: bool = True,
    advance: Callable[[], object] = lambda: None,
) -> ModelsReport:
    """Run two models in lockstep and say where they differ first.

    "teacher": each step of the candidate begins at the reference's parameters, buffers, optimizer
    state and random state. Outputs of layers, loss, gradients, buffers, optimizer state and
    parameters are compared after it, and where they differ each layer is run alone on the
    reference's input, which tells its own error from what it inherits.

    "free": both train on their own; how far they are apart is measured against the way travelled.

    Options that matched layers hold (eps, p, momentum, …) are compared as well, where both are of
    one class, or of a class and its subclass, and the optimizers' (lr, betas, …), where their
    classes have one name; one that differs makes the report inconclusive even if no number shows
    it.

    error ≤ 30 · max(P, eps), P what the reference itself makes of ±1 ulp in its parameters, buffers
    and inputs; both relative to the tensor's largest element.

    Args:
        candidate: a model, in the mode (train or eval) that it is to be compared in.
        reference: the model that it should equal. Neither is changed; copies run.
        batches: one per step, of whatever `loss` takes.
        loss: called with a model and a batch, returns the loss: for batches of a dict,
            `lambda model, batch: model(**batch).loss`. A module, such as `nn.CrossEntropyLoss()`,
            takes pairs of input and target: `loss(model(input), target)`. Two of these where the
            candidate has a loss of its own.
        optimizers: called with a list of parameters, returns an optimizer; two where the candidate
            has one of its own; None for a forward and a backward alone.
        mode: "teacher" or "free".
        match: the candidate's names of layers, parameters or buffers and the reference's, where
            names, or shapes and order, don't tell; a tuple of names for layers, called one after
            the other, that the other model has fused into one.
        dtype: what both compute in, batches included; None leaves everything as it is.
        device: where both compute.
        steps: how many batches to use, all if None.
        seed: of the random state before each step, and of the changes by ±1 ulp.
        same_start: whether the initial weights are to be the same, bit by bit.
        advance: called after every step, for a progress bar.

    Returns:
        A report with a row for each tensor; `first_difference`, `unmatched`, `null_directions`.

    Raises:
        ValueError: an unknown mode, a name in `match` that is not there, or no step or batch.
        TypeError: `loss` cannot be called with a model and a batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
        >>> other = copy.deepcopy(net)
        >>> other[1].eps *= 1.01
        >>> batches = [(torch.randn(5, 3), torch.randint(2, (5,))) for _ in range(2)]
        >>> found = compare_models(other, net, batches, loss=nn.CrossEntropyLoss())
        >>> found.passed, found.first_difference.layer, found.first_difference.tensor
        (False, '1', 'output')
        >>> compare_models(net, net, batches, loss=nn.CrossEntropyLoss()).passed
        True
    """
    if mode not in ("teacher", "free"):
        raise ValueError(f'compare_models: mode must be "teacher" or "free", got {mode!r}')
    if steps is not None and steps < 1:
        raise ValueError(f"compare_models: steps must be at least 1, got {steps}")
    losses = loss if isinstance(loss, tuple) else (loss, loss)
    for one in losses:
        if isinstance(one, type) or not callable(one):
            raise TypeError(
                f"compare_models: loss is called with a model and a batch, here {one!r} is "
                + (f"a class: make one, {one.__name__}()" if isinstance(one, type) else "none")
            )
    matching = match_models(candidate, reference, match)
    subject = f"{type(candidate).__name__} beside {type(reference).__name__}"
    makers = optimizers if isinstance(optimizers, tuple) else (optimizers, optimizers)
    with random_state_kept():
        ours, theirs, other = (
            _party(model, matching, i > 0, losses[i > 0], makers[i > 0], dtype, device)
            for i, model in enumerate((candidate, reference, reference))
        )
        running = (Teacher if mode == "teacher" else Free)(matching, ours, theirs, other, seed)
        found = list(_run(running, _to(batches, dtype, device), steps, same_start, advance))
    if not any(True for _ in found):
        raise ValueError("compare_models: batches must have at least one")
    name = str(_dtype(theirs.model)).removeprefix("torch.")
    ran = report(subject, name, found, [*matching.unmatched, *running.left_out])
    return with_options(ran, ours, theirs, matching)


def _party(
    model: nn.Module,
    matching: Matching,
    is_reference: bool,
    loss: Loss,
    make: MakeOptimizer | None,
    dtype: torch.dtype | None,
    device: str | torch.device,
) -> Party:
    """Copy a model, and build its optimizer."""
    own = builtin_masks(_with_hooks(copy.deepcopy(model).to(device, dtype), model))
    if isinstance(loss, nn.Module):
        loss = _criterion(copy.deepcopy(loss).to(device, dtype))
    optimizer = None if make is None else make(list(own.parameters()))
    names = [pair[is_reference] for pair in matching.layers]
    pairs = [matching.parameters, matching.buffers]
    if is_reference:
        pairs = [{name: name for name in kind} for kind in pairs]
    return Party(own, optimizer, loss, [name for group in names for name in group], *pairs)


def _with_hooks(twin: nn.Module, model: nn.Module) -> nn.Module:
    """Put the hooks of parameters on a copy, which `deepcopy` leaves behind, but keeps modules'."""
    pairs: Any = zip(twin.parameters(), model.parameters(), strict=True)
    for new, old in pairs:
        for hook in (getattr(old, "_backward_hooks", None) or {}).values():
            new.register_hook(hook)
        for hook in (getattr(old, "_post_accumulate_grad_hooks", None) or {}).values():
            new.register_post_accumulate_grad_hook(hook)
    return twin


def _criterion(module: nn.Module) -> Loss:
    def loss(model: nn.Module, batch: Any) -> Any:
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            kind = type(module).__name__
            raise WrongLoss(
                f"loss {kind} is a module, called as loss(model(input), target): each of batches "
                f"must be a pair of them, got {type(batch).__name__}"
            )
        return module(model(batch[0]), batch[1])

    return loss


def _to(
    batches: Iterable[Any], dtype: torch.dtype | None, device: str | torch.device
) -> Iterator[Any]:
    for batch in batches:
        yield map_tensors(
            lambda t: t.to(device, dtype if t.is_floating_point() else None), batch
        )  # fmt: skip


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters()), torch.get_default_dtype())


def _run(
    running: Teacher | Free,
    batches: Iterator[Any],
    steps: int | None,
    same_start: bool,
    advance: Callable[[], object],
) -> Iterator[Finding]:
    for number, batch in enumerate(islice(batches, steps)):
        if number == 0 and same_start:
            yield from running.initial()
        try:
            yield from running.step(number, batch)
        except Crash as error:
            yield Finding(number, (-1, 0), (FORWARD, ROOT, "-"), error.judged)
            return
        advance()
