"""Run an optimizer's table: whole trajectories, parameters and state compared after every step."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from verification.cases.optimizers import GRADIENT_SCALES, OptimizerTable, Options
from verification.ops import nudge, round_to, to_numpy
from verification.oracles import exact
from verification.report import ANOTHER, Row
from verification.tolerance import Sample, same_algorithm, same_precision

SHAPE = (3, 4)
DRAWS = 3
Gradients = list[Any]  # one per step, None where there is none
Steps = list[dict[str, Any]]  # after each step: "param" and the state, by name


def verify_optimizer(
    table: OptimizerTable,
    candidate: Callable[..., torch.optim.Optimizer] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seeds: int = 3,
    steps: int = 30,
    device: str = "cpu",
) -> Iterator[list[Row]]:
    """Yield the rows of each set of options of an optimizer's table.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.
        dtypes: what candidate and builtin compute in.
        seeds: how many draws of parameters and gradients.
        steps: length of a trajectory.
        device: where candidate and builtin compute.

    Returns:
        An iterator over lists of rows, a list per set of options.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(verify_optimizer(optimizer_tables()["SGD"], seeds=1, steps=5))
        >>> all(row.passed for row in rows)
        True
    """
    make = table.candidate if candidate is None else candidate
    for options in table.options:
        yield [
            row
            for dtype in dtypes
            for row in _verify(table, options, make, dtype, seeds, steps, torch.device(device))
        ]


def describe(options: Options) -> str:
    """Return the options as a case's name.

    Example:
        >>> describe({"lr": 0.1, "nesterov": True})
        'lr=0.1 nesterov=True'
    """
    return " ".join(f"{name}={value}" for name, value in options.items())


def _verify(
    table: OptimizerTable,
    options: Options,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    seeds: int,
    steps: int,
    device: torch.device,
) -> list[Row]:
    case, short = describe(options), str(dtype).removeprefix("torch.")
    samples: dict[tuple[str, float], list[Sample]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng([seed, zlib.crc32(f"{table.name} {case}".encode())])
        try:
            drawn = _samples(table, options, candidate, dtype, rng, steps, device)
        except Exception as error:  # a candidate that crashes gets a row
            nan, note = float("nan"), f"{type(error).__name__}: {error}".splitlines()[0]
            return [Row(table.name, case, "-", short, nan, nan, nan, "runs", ANOTHER, note)]
        for key, sample in drawn.items():
            samples.setdefault(key, []).append(sample)
    return _worst(table, case, dtype, samples)


@np.errstate(all="ignore")  # NaN and ∞ are among the values
def _samples(
    table: OptimizerTable,
    options: Options,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    rng: np.random.Generator,
    steps: int,
    device: torch.device,
) -> dict[tuple[str, float], Sample]:
    """Draw parameters and gradients once and run the three parties on them."""
    params = [round_to(rng.standard_normal(SHAPE), dtype) for _ in GRADIENT_SCALES]
    grads = [_gradients(rng, scale, steps, dtype) for scale in GRADIENT_SCALES]
    builtin = _run(table.builtin, options, params, grads, dtype, device)
    ours = _run(candidate, options, params, grads, dtype, device)
    _require_same_state(table, ours, builtin)
    samples = {}
    for i, scale in enumerate(GRADIENT_SCALES):
        oracle = table.oracle(params[i], grads[i], **options)
        responses = _responses(table, options, params[i], grads[i], dtype, rng)
        for quantity in oracle[-1]:
            known = builtin is not None and quantity not in table.own_state
            samples[quantity, scale] = Sample(
                candidate=_values(ours[i], quantity),
                builtin=_values(builtin[i], quantity) if known else None,
                oracle=_column(oracle, quantity),
                responses=[_column(response, quantity) for response in responses],
                independent=params[i].size,
            )
    return samples


def _responses(
    table: OptimizerTable,
    options: Options,
    param: Any,
    grads: Gradients,
    dtype: torch.dtype,
    rng: np.random.Generator,
) -> list[Steps]:
    """Run the oracle on inputs changed by ±1 ulp, its values kept in the tested dtype."""

    def store(value: Any) -> Any:
        return exact(round_to(value.astype(np.float64), dtype))

    return [
        table.oracle(
            nudge(param, dtype, rng), [nudge(g, dtype, rng) for g in grads], store=store, **options
        )
        for _ in range(DRAWS)
    ]


def _worst(
    table: OptimizerTable,
    case: str,
    dtype: torch.dtype,
    samples: dict[tuple[str, float], list[Sample]],
) -> list[Row]:
    """Judge every tensor by its own scale; a quantity's row is that of its worst tensor."""
    eps = torch.finfo(dtype).eps
    rows: dict[str, Row] = {}
    for (quantity, _), found in samples.items():
        judged = same_algorithm(found) if dtype == torch.float64 else same_precision(found, eps)
        row = Row(table.name, case, quantity, str(dtype).removeprefix("torch."), **vars(judged))
        used = rows.get(quantity)
        if used is None or (row.passed, -_use(row)) < (used.passed, -_use(used)):
            rows[quantity] = row
    return list(rows.values())


def _use(row: Row) -> float:
    return row.error / row.bound if row.bound else row.error


def _gradients(rng: np.random.Generator, scale: float, steps: int, dtype: torch.dtype) -> Gradients:
    """Gradients of one decade, of every size within it, now and then zero or absent."""
    found: Gradients = []
    for _ in range(steps):
        size = scale * 10 ** rng.uniform(-1, 0, SHAPE)
        kind = rng.choice(["none", "zero", "some"], p=[0.1, 0.1, 0.8])
        values = size * rng.choice([-1.0, 1.0], SHAPE) * (kind == "some")
        found.append(None if kind == "none" else round_to(values, dtype))
    found[0] = found[0] if found[0] is not None else np.zeros(SHAPE)  # so that state exists
    return found


def _run(
    make: Callable[..., torch.optim.Optimizer | None],
    options: Options,
    params: list[npt.NDArray[np.float64]],
    grads: list[Gradients],
    dtype: torch.dtype,
    device: torch.device,
) -> Any:
    """Run all tensors in one optimizer; return each tensor's trajectory, None without optimizer.

    Raises:
        RuntimeError: it changed a gradient.
    """
    weights = [torch.nn.Parameter(torch.tensor(p, dtype=dtype, device=device)) for p in params]
    optimizer = make(list(weights), **options)
    if optimizer is None:
        return None
    found: list[Steps] = [[] for _ in weights]
    for step in range(len(grads[0])):
        for weight, gradients in zip(weights, grads, strict=True):
            g = gradients[step]
            if g is None or weight.grad is None:
                weight.grad = None if g is None else torch.tensor(g, dtype=dtype, device=device)
            else:  # in place: a state that is the gradient itself shows
                weight.grad.copy_(torch.from_numpy(g))
        sent = [None if w.grad is None else w.grad.clone() for w in weights]
        optimizer.step()
        for weight, g, steps in zip(weights, sent, found, strict=True):
            if g is not None and (weight.grad is None or not torch.equal(g, weight.grad)):
                raise RuntimeError("a gradient was changed")
            entry = {"entry": True} if weight in optimizer.state else {}
            kept = {"param": weight, **entry, **optimizer.state.get(weight, {})}
            steps.append(
                {n: torch.as_tensor(v).detach().clone() for n, v in kept.items() if v is not None}
            )
    return found


def _require_same_state(table: OptimizerTable, ours: Any, builtin: Any) -> None:
    """Raise a ValueError if the candidate keeps other state than the builtin: names, dtypes."""
    if ours is None:
        raise ValueError("expected an optimizer, but got None")
    if builtin is None:
        return
    for step, expected in zip(chain(*ours), chain(*builtin), strict=True):
        have = {n: str(t.dtype) for n, t in step.items() if n not in table.own_state}
        want = {n: str(t.dtype) for n, t in expected.items()}
        if have != want:
            raise ValueError(f"state {have}, but the builtin's is {want}")


def _values(steps: Steps, quantity: str) -> Any:
    return to_numpy(torch.stack([step[quantity] for step in steps]))


def _column(steps: Steps, quantity: str) -> Any:
    return np.stack([step[quantity] for step in steps])
