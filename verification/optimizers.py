"""Run an optimizer's table: whole trajectories, parameters and state compared after every step."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from verification.cases.optimizers import GRADIENT_SCALES, Case, OptimizerTable
from verification.cases.pairs import coverage
from verification.ops import nudge, round_to, short, to_numpy
from verification.oracles import exact
from verification.report import ANOTHER, AS_GOOD, INCONCLUSIVE, Row
from verification.tolerance import Judgement, Sample, same_algorithm, same_precision
from verification.trajectories import beside_builtin, beside_oracle, own_precision

SHAPE = (3, 4)
DRAWS = 3
Make = Callable[..., Any]
Gradients = list[Any]  # one per step, None where there is none
Tensors = tuple[torch.Tensor, list[torch.Tensor | None]]  # a parameter and its gradients
Steps = list[dict[str, Any]]  # after each step: "param" and the state, by name


def optimizer_rows(
    table: OptimizerTable,
    candidate: Callable[..., torch.optim.Optimizer] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seeds: int = 3,
    steps: int = 30,
    device: str = "cpu",
    own: bool = False,
) -> Iterator[list[Row]]:
    """Yield the rows of each case of an optimizer's table.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.
        dtypes: what candidate and builtin compute in.
        seeds: how many draws of parameters and gradients.
        steps: length of a trajectory.
        device: where candidate and builtin compute.
        own: hold it to refnet's own, stricter targets, those of `verification.trajectories`: in
            float64 the builtin to 1e-12 and the oracle to 1e-11, in the other dtypes 1.25 times the
            builtin's error; and count the pairs of options that the table holds.

    Returns:
        An iterator over lists of rows, a list per case; `own` adds one for the count.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(optimizer_rows(optimizer_tables()["SGD"], seeds=1, steps=5))
        >>> all(row.passed for row in rows)
        True
    """
    make = table.candidate if candidate is None else candidate
    for case in table.cases:
        yield [
            row
            for dtype in dtypes
            for row in _verify(table, case, make, dtype, seeds, steps, torch.device(device), own)
        ]
    if own:
        yield [_coverage(table)]


def _coverage(table: OptimizerTable) -> Row:
    dtypes = table.pairs.values["dtype"]
    held = [{**case.values, "dtype": d} for case in table.cases if case.values for d in dtypes]
    found = coverage(table.pairs, held)
    verdict, note = (INCONCLUSIVE, str(found.missing)) if found.missing else (AS_GOOD, "")
    pairs = f"{len(found.covered)} pairs"
    return Row(table.name, "options", "pairs missing", "all", len(found.missing), math.nan, 0.0,
               pairs, verdict, note)  # fmt: skip


def _verify(
    table: OptimizerTable,
    case: Case,
    candidate: Make,
    dtype: torch.dtype,
    seeds: int,
    steps: int,
    device: torch.device,
    own: bool,
) -> list[Row]:
    rng = np.random.default_rng(zlib.crc32(f"{table.name} {case.name}".encode()))
    try:
        samples = _samples(table, case, candidate, dtype, rng, (seeds, steps), device)
    except Exception as error:  # a candidate that crashes gets a row
        nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
        return [Row(table.name, case.name, "-", short(dtype), nan, nan, nan, "runs", ANOTHER, note)]
    return _worst(table, case, dtype, samples, own)


@np.errstate(all="ignore")  # NaN and ∞ are among the values
def _samples(
    table: OptimizerTable,
    case: Case,
    candidate: Make,
    dtype: torch.dtype,
    rng: np.random.Generator,
    size: tuple[int, int],
    device: torch.device,
) -> dict[tuple[str, float], list[Sample]]:
    """Draw parameters and gradients and run the three parties on them; a sample per seed.

    An optimizer works element by element, so that the draws of all seeds fit into one tensor.
    """
    seeds, steps = size
    shape = (seeds, *SHAPE)
    params = [round_to(rng.standard_normal(shape), dtype) for _ in GRADIENT_SCALES]
    grads = [_gradients(rng, scale, steps, shape, dtype) for scale in GRADIENT_SCALES]

    def tensor(array: Any) -> Any:
        return None if array is None else torch.tensor(array, dtype=dtype, device=device)

    tensors = [(tensor(p), [tensor(g) for g in gs]) for p, gs in zip(params, grads, strict=True)]
    builtin = _run(table.builtin, case, tensors)
    ours = _run(candidate, case, tensors, candidate if table.own_state else table.builtin)
    _require_same_state(table, ours, builtin)
    samples = {}
    for i, scale in enumerate(GRADIENT_SCALES):
        arguments = {n: _plain(v) for n, v in _arguments(case, i).items()}
        oracle = table.oracle(params[i], grads[i], **arguments)
        responses = _responses(table, arguments, params[i], grads[i], dtype, rng)
        for quantity in oracle[-1]:
            known = builtin is not None and quantity not in table.own_state
            mine = _values(ours[i], quantity)
            theirs = _values(builtin[i], quantity) if known else None
            right = _column(oracle, quantity)
            others = [_column(response, quantity) for response in responses]
            samples[quantity, scale] = [
                Sample(
                    candidate=_of_seed(mine, seed, shape),
                    builtin=_of_seed(theirs, seed, shape),
                    oracle=_of_seed(right, seed, shape),
                    responses=[_of_seed(other, seed, shape) for other in others],
                    independent=math.prod(SHAPE),
                )
                for seed in range(seeds)
            ]
    return samples


def _arguments(case: Case, index: int) -> dict[str, Any]:
    """Return what the optimizer is told about a tensor: the second group has every other one."""
    return {**case.arguments, **(case.group if index % 2 else {})}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def _of_seed(column: Any, seed: int, shape: tuple[int, ...]) -> Any:
    """Take a seed's part of a trajectory; a count of steps, or a wrong shape, is left whole."""
    return column[:, seed] if column is not None and column.shape[1:] == shape else column


def _responses(
    table: OptimizerTable,
    arguments: Mapping[str, Any],
    param: Any,
    grads: Gradients,
    dtype: torch.dtype,
    rng: np.random.Generator,
) -> list[Steps]:
    """Run the oracle on inputs changed by ±1 ulp, its values kept in the tested dtype."""

    def store(value: Any) -> Any:
        return exact(round_to(value.astype(np.float64), dtype))

    def changed(value: Any) -> Any:  # all draws in one array
        if value is None:
            return None
        return nudge(np.broadcast_to(value, (DRAWS, *value.shape)), dtype, rng)

    steps = table.oracle(changed(param), [changed(g) for g in grads], store=store, **arguments)
    return [
        [{n: v[draw] if v.ndim > param.ndim else v for n, v in step.items()} for step in steps]
        for draw in range(DRAWS)
    ]


def _worst(
    table: OptimizerTable,
    case: Case,
    dtype: torch.dtype,
    samples: dict[tuple[str, float], list[Sample]],
    own: bool,
) -> list[Row]:
    """Judge every tensor by its own scale; a quantity's row is that of its worst tensor."""
    rows: dict[tuple[str, int], Row] = {}
    for (quantity, _), found in samples.items():
        for i, judged in enumerate(_judge(found, dtype, own)):
            row = Row(table.name, case.name, quantity, short(dtype), **vars(judged))
            used = rows.get((quantity, i))
            if used is None or (row.passed, -_use(row)) < (used.passed, -_use(used)):
                rows[quantity, i] = row
    return list(rows.values())


def _judge(samples: list[Sample], dtype: torch.dtype, own: bool) -> Iterator[Judgement]:
    eps, builtin = torch.finfo(dtype).eps, samples[0].builtin
    if dtype == torch.float64:
        yield beside_oracle(samples) if own else same_algorithm(samples)
        if own and builtin is not None:
            yield beside_builtin(samples)
    elif own and builtin is not None:
        yield own_precision(samples, eps)
    else:
        yield same_precision(samples, eps)


def _use(row: Row) -> float:
    return row.error / row.bound if row.bound else row.error


def _gradients(
    rng: np.random.Generator, scale: float, steps: int, shape: tuple[int, ...], dtype: torch.dtype
) -> Gradients:
    """Gradients of one decade, of every size within it, now and then zero or absent."""
    found: Gradients = []
    for _ in range(steps):
        size = scale * 10 ** rng.uniform(-1, 0, shape)
        kind = rng.choice(["none", "zero", "some"], p=[0.1, 0.1, 0.8])
        values = size * rng.choice([-1.0, 1.0], shape) * (kind == "some")
        found.append(None if kind == "none" else round_to(values, dtype))
    found[0] = found[0] if found[0] is not None else np.zeros(shape)  # so that state exists
    return found


def _run(make: Make, case: Case, tensors: list[Tensors], heir: Make | None = None) -> Any:
    """Run all tensors in one optimizer; return each tensor's trajectory, None without optimizer.

    A resumed run goes on in the heir's optimizer after a third of the steps, and after two thirds
    in one of its own again.

    Raises:
        RuntimeError: it changed a gradient, or did something else than to call the closure.
    """
    weights = [torch.nn.Parameter(param.clone()) for param, _ in tensors]
    optimizer = _make(make, case, weights)
    if optimizer is None:
        return None
    count = len(tensors[0][1])
    changes = {count // 3: heir, 2 * count // 3: make} if case.resumed and heir else {}
    found: list[Steps] = [[] for _ in weights]
    for step in range(count):
        if step in changes:
            stopped, weights = optimizer, [torch.nn.Parameter(w.detach().clone()) for w in weights]
            optimizer = _make(changes[step], case, weights) or _make(make, case, weights)
            _hand_over(stopped, optimizer)
        grads = [gradients[step] for _, gradients in tensors]
        _step(optimizer, weights, grads, case.closure)
        for weight, steps in zip(weights, found, strict=True):
            entry = {"entry": True} if weight in optimizer.state else {}
            kept = {"param": weight, **entry, **optimizer.state.get(weight, {})}
            steps.append(
                {n: torch.as_tensor(v).detach().clone() for n, v in kept.items() if v is not None}
            )
    return found


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


def _require_same_state(table: OptimizerTable, ours: Any, builtin: Any) -> None:
    """Raise a ValueError if the candidate keeps other state than the builtin: names, dtypes."""
    if ours is None:
        raise ValueError("expected an optimizer, but got None")
    if builtin is None:
        return
    for step, expected in zip(chain(*ours), chain(*builtin), strict=True):
        have = {n: t.dtype for n, t in step.items() if n not in table.own_state}
        want = {n: t.dtype for n, t in expected.items()}
        if have != want:
            raise ValueError(f"state {have}, but the builtin's is {want}")


def _values(steps: Steps, quantity: str) -> Any:
    return to_numpy(torch.stack([step[quantity] for step in steps]))


def _column(steps: Steps, quantity: str) -> Any:
    return np.stack([step[quantity] for step in steps])
