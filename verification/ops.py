"""Run an op's case table: candidate, builtin and oracle on the same inputs."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from verification.cases import Arrays, Case, OpTable
from verification.oracles import Result
from verification.report import ANOTHER, Row
from verification.tolerance import Judgement, Sample, same_algorithm, same_bits, same_precision

DRAWS = 3  # of ±1 ulp, for the oracle's response


def verify_op(
    table: OpTable,
    candidate: Callable[..., Any] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seeds: int = 5,
    device: str = "cpu",
) -> Iterator[list[Row]]:
    """Yield the rows of each case of an op's table.

    float64 answers whether the candidate is the oracle's function, any other dtype whether it is as
    accurate as the builtin; where bits are due, they are compared in every dtype.

    Args:
        table: the op.
        candidate: a function with the signature of refnet's, which is the builtin's; dropout's has
            a keyword `mask` as well, since masks drawn apart can't be compared.
        dtypes: what candidate and builtin compute in.
        seeds: how many draws of each case.
        device: where candidate and builtin compute.

    Returns:
        An iterator over lists of rows, a list per case.

    Example:
        >>> from verification.cases import op_tables
        >>> rows = next(verify_op(op_tables()["relu"], seeds=1))
        >>> sorted({row.quantity for row in rows}), all(row.passed for row in rows)
        (['grad input', 'output'], True)
    """
    function = table.adapt(table.candidate if candidate is None else candidate)
    for case in table.cases:
        yield [
            row
            for dtype in dtypes
            for row in _verify_case(table, case, function, dtype, seeds, torch.device(device))
        ]


def _verify_case(
    table: OpTable,
    case: Case,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    seeds: int,
    device: torch.device,
) -> list[Row]:
    samples: dict[str, list[Sample]] = {}
    for seed in range(seeds):
        try:
            drawn = _samples(table, case, candidate, dtype, seed, device)
        except Exception as error:  # a candidate that crashes gets a row
            return [_crash(table, case, dtype, error)]
        for quantity, sample in drawn.items():
            samples.setdefault(quantity, []).append(sample)
    rules: dict[str, Callable[[list[Sample]], Judgement]] = {}
    if table.bitwise:
        rules["bits"] = same_bits
    if dtype == torch.float64:
        rules["algorithm"] = same_algorithm
    else:
        eps = torch.finfo(dtype).eps
        rules["precision"] = lambda found: same_precision(found, eps)
    return [
        Row(table.name, case.name, quantity, _short(dtype), **vars(rule(found)))
        for quantity, found in samples.items()
        for rule in rules.values()
    ]


def _samples(
    table: OpTable,
    case: Case,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    seed: int,
    device: torch.device,
) -> dict[str, Sample]:
    """Draw a case once and run the three parties on it."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{table.name} {case.name}".encode())])
    arrays = {name: round_to(value, dtype) for name, value in case.draw(rng).items()}
    options = dict(case.options)
    tensors = table.complete(_tensors(arrays, dtype, device), options)
    arrays = {**arrays, **{n: to_numpy(t) for n, t in tensors.items() if n not in arrays}}

    expected = table.oracle(**arrays, **options)
    responses = [
        table.oracle(**{n: nudge(a, dtype, rng) for n, a in arrays.items()}, **options)
        for _ in range(DRAWS)
    ]
    builtin = _run(table, table.builtin, tensors, options)
    ours = _run(table, candidate, tensors, options)
    for quantity, value in builtin.items():
        if ours[quantity].dtype != value.dtype:
            kinds = f"{_short(ours[quantity].dtype)}, the builtin's is {_short(value.dtype)}"
            raise TypeError(f"{quantity} is {kinds}")
    return {
        quantity: Sample(
            candidate=to_numpy(ours[quantity]),
            builtin=to_numpy(builtin[quantity]),
            oracle=value,
            responses=[response.values[quantity] for response in responses],
            scale=expected.scales.get(quantity),
        )
        for quantity, value in _wanted(expected, table).items()
    }


def _wanted(expected: Result, table: OpTable) -> dict[str, Any]:
    names = {"output", *table.buffers, *(f"grad {name}" for name in table.differentiable)}
    return {name: value for name, value in expected.values.items() if name in names}


def _run(
    table: OpTable, function: Callable[..., Any], tensors: Arrays, options: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Call a party on copies; return its output, gradients and buffers.

    Raises:
        RuntimeError: it changed an argument that is no buffer, or the cotangent.
    """
    copies: Arrays = {name: None if t is None else t.clone() for name, t in tensors.items()}
    arguments = {name: copy for name, copy in copies.items() if name != "cotangent"}
    inputs = {
        name: copies[name].requires_grad_()
        for name in table.differentiable
        if copies[name] is not None and copies[name].is_floating_point()
    }
    output = function(**arguments, **options)
    gradients = torch.autograd.grad(output, list(inputs.values()), copies["cotangent"])
    for name, copy in copies.items():
        if name not in table.buffers and not _equal(copy, tensors[name]):
            raise RuntimeError(f"the argument {name!r} was changed")
    values = {"output": output}
    values |= {f"grad {name}": g for name, g in zip(inputs, gradients, strict=True)}
    return values | {name: copies[name] for name in table.buffers if copies[name] is not None}


def _equal(a: Any, b: Any) -> bool:
    return (a is None and b is None) or np.array_equal(to_numpy(a), to_numpy(b), equal_nan=True)


def round_to(value: Any, dtype: torch.dtype) -> Any:
    """Round floats to the tested dtype, in a float64 array; leave integers and None."""
    if value is None or value.dtype.kind != "f" or dtype == torch.float64:
        return value
    return torch.tensor(value).to(dtype).to(torch.float64).numpy()


def _tensors(arrays: Arrays, dtype: torch.dtype, device: torch.device) -> Arrays:
    def tensor(value: Any) -> Any:
        if value is None:
            return None
        kind = dtype if value.dtype.kind == "f" else None
        return torch.tensor(value, dtype=kind, device=device)

    return {name: tensor(value) for name, value in arrays.items()}


def nudge(value: Any, dtype: torch.dtype, rng: np.random.Generator) -> Any:
    """Change floats by −1 or +1 unit in the last place of a dtype, at random; leave the rest."""
    if value is None or value.dtype.kind != "f":
        return value
    finite = np.where(np.isfinite(value), value, 0)
    ulp = np.ldexp(torch.finfo(dtype).eps, np.frexp(finite)[1] - 1) * (finite != 0)
    return value + ulp * rng.choice([-1.0, 1.0], value.shape)


def to_numpy(tensor: Any) -> Any:
    """Return a tensor's values as a new array, of float32 where NumPy lacks the dtype."""
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.numpy().copy()


def _crash(table: OpTable, case: Case, dtype: torch.dtype, error: Exception) -> Row:
    note = f"{type(error).__name__}: {error}".splitlines()[0]
    nan = float("nan")
    return Row(table.name, case.name, "-", _short(dtype), nan, nan, nan, "runs", ANOTHER, note)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
