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
from verification.tolerance import (
    DRAWS,
    Judgement,
    Sample,
    beside_builtin,
    own_target,
    same_algorithm,
    same_bits,
    same_precision,
    well_conditioned,
)


def op_rows(
    table: OpTable,
    candidate: Callable[..., Any] | None = None,
    *,
    dtypes: Sequence[torch.dtype] = (torch.float64, torch.float32),
    seeds: int = 5,
    device: str = "cpu",
    own: bool = False,
) -> Iterator[list[Row]]:
    """Yield the rows of each case of an op's table.

    float64 answers whether the candidate is the oracle's function, any other dtype whether it is as
    accurate as the builtin; where bits are due, they are compared in every dtype.

    Args:
        table: the op.
        candidate: a function with the signature of refnet's, which is the builtin's; dropout's has
            a keyword `mask` as well, since masks drawn apart can't be compared.
        dtypes: what candidate and builtin compute in, each where a case's values fit into it.
        seeds: how many draws of each case.
        device: where candidate and builtin compute.
        own: hold it to refnet's own, stricter targets: in float64 the builtin to 1e-12 as well, in
            the other dtypes `tolerance.own_target` in place of `tolerance.same_precision`.

    Returns:
        An iterator over lists of rows, a list per case.

    Example:
        >>> from verification.cases import op_tables
        >>> rows = next(op_rows(op_tables()["relu"], seeds=1))
        >>> sorted({row.quantity for row in rows}), all(row.passed for row in rows)
        (['grad input', 'output'], True)
    """
    function = table.adapt(table.candidate if candidate is None else candidate)
    for case in table.cases:
        yield [
            row
            for dtype in dtypes
            if short(dtype) in case.dtypes and (own or not case.hard or dtype == torch.float64)
            for row in _verify_case(table, case, function, dtype, seeds, torch.device(device), own)
        ]


def _verify_case(
    table: OpTable,
    case: Case,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    seeds: int,
    device: torch.device,
    own: bool,
) -> list[Row]:
    samples: dict[str, list[Sample]] = {}
    kinds: dict[str, torch.dtype] = {}
    for seed in range(seeds):
        try:
            drawn = _samples(table, case, candidate, dtype, seed, device, kinds)
        except Exception as error:  # a candidate that crashes gets a row
            return [_crash(table, case, dtype, error)]
        for quantity, sample in drawn.items():
            samples.setdefault(quantity, []).append(sample)
    beside = own and dtype == torch.float64 and well_conditioned(samples.values())
    return [
        Row(table.name, case.name, quantity, short(dtype), **vars(judged))
        for quantity, found in samples.items()
        for judged in _judge(found, kinds[quantity], table.bitwise, own, beside)
    ]


def _judge(
    samples: list[Sample], dtype: torch.dtype, bitwise: bool, own: bool, beside: bool
) -> Iterator[Judgement]:
    """Put the questions that a quantity of a dtype is asked."""
    if bitwise or not dtype.is_floating_point:
        yield same_bits(samples)
    if not dtype.is_floating_point:
        return
    eps = torch.finfo(dtype).eps
    if dtype == torch.float64:
        yield same_algorithm(samples)
        if beside:
            yield beside_builtin(samples)
    else:
        yield own_target(samples, eps) if own else same_precision(samples, eps)


def _samples(
    table: OpTable,
    case: Case,
    candidate: Callable[..., Any],
    dtype: torch.dtype,
    seed: int,
    device: torch.device,
    kinds: dict[str, torch.dtype],
) -> dict[str, Sample]:
    """Draw a case once and run the three parties on it; note the dtypes of what comes back."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{table.name} {case.name}".encode())])
    arrays = {name: round_to(value, dtype) for name, value in case.draw(rng).items()}
    arrays = {n: repeated(n, a, case.layout, table.expanded) for n, a in arrays.items()}
    options = dict(case.options)
    tensors = as_tensors(table, case, arrays, dtype, device)
    laid_out = {name: lay_out(name, t, case, table) for name, t in tensors.items()}
    tensors = table.complete(laid_out, options) | tensors
    arrays = {**arrays, **{n: to_numpy(t) for n, t in tensors.items() if n not in arrays}}

    expected = table.oracle(**arrays, **options)
    responses = [
        table.oracle(**{n: nudge(a, dtype, rng) for n, a in arrays.items()}, **options)
        for _ in range(DRAWS)
    ]
    builtin = _run(table, case, table.builtin, tensors, options)
    ours = _run(table, case, candidate, tensors, options)
    for quantity, value in builtin.items():
        if ours[quantity].dtype != value.dtype:
            found = f"{short(ours[quantity].dtype)}, the builtin's is {short(value.dtype)}"
            raise TypeError(f"{quantity} is {found}")
        kinds[quantity] = value.dtype
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
    table: OpTable,
    case: Case,
    function: Callable[..., Any],
    tensors: Arrays,
    options: dict[str, Any],
) -> dict[str, torch.Tensor]:
    """Call a party on copies; return its output, gradients and buffers.

    Raises:
        RuntimeError: it changed an argument that is no buffer, or the cotangent, or did not write
            over the input though it was told to.
    """
    inplace = bool(options.get("inplace"))
    copies: Arrays = {name: None if t is None else t.clone() for name, t in tensors.items()}
    if not inplace:
        copies = {n: lay_out(n, t, case, table) for n, t in copies.items()}
    inputs = {
        name: copies[name].requires_grad_()
        for name in table.differentiable
        if copies[name] is not None and copies[name].is_floating_point()
    }
    arguments = {name: copy for name, copy in copies.items() if name != "cotangent"}
    if inplace:  # a leaf may not be written over
        arguments["input"] = lay_out("input", copies["input"] * 1, case, table)
    output = function(**arguments, **options)
    if inplace and output.data_ptr() != arguments["input"].data_ptr():
        raise RuntimeError("inplace: the result is not where the input was")
    gradients = torch.autograd.grad(output, list(inputs.values()), copies["cotangent"])
    for name, copy in copies.items():
        if name not in table.buffers and not _equal(copy, tensors[name]):
            raise RuntimeError(f"the argument {name!r} was changed")
    values = {"output": output}
    values |= {f"grad {name}": g for name, g in zip(inputs, gradients, strict=True)}
    return values | {name: copies[name] for name in table.buffers if copies[name] is not None}


def _equal(a: Any, b: Any) -> bool:
    return (a is None and b is None) or np.array_equal(to_numpy(a), to_numpy(b), equal_nan=True)


# The tensors whose layout in memory a case chooses.
LAID_OUT = {"input", "target", "cotangent"}


def repeated(name: str, value: Any, layout: str, dim: int) -> Any:
    """Make an array repeat itself along a dimension if it is to be laid out expanded."""
    if layout != "expanded" or name not in LAID_OUT or value is None:
        return value
    if value.dtype.kind != "f" or not value.size or not value.ndim:
        return value
    return np.broadcast_to(np.take(value, [0], dim), value.shape).copy()


def lay_out(name: str, tensor: Any, case: Case, table: OpTable) -> Any:
    """Lay a tensor out in memory as its case wants it; differentiable."""
    if name not in LAID_OUT or tensor is None or not tensor.numel():
        return tensor
    if case.layout == "channels-last" and tensor.dim() > 2:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if case.layout == "sliced":  # every other place holds something that must not be read
        junk = torch.nan if tensor.is_floating_point() else 100
        return torch.stack([tensor, torch.full_like(tensor, junk)], -1)[..., 0]
    if case.layout == "expanded" and tensor.is_floating_point() and tensor.dim():
        return tensor.narrow(table.expanded, 0, 1).expand(tensor.shape)
    return tensor


def round_to(value: Any, dtype: torch.dtype) -> Any:
    """Round floats to the tested dtype, in a float64 array; leave integers and None."""
    if value is None or value.dtype.kind != "f" or dtype == torch.float64:
        return value
    return torch.tensor(value).to(dtype).to(torch.float64).numpy()


def as_tensors(
    table: OpTable, case: Case, arrays: Arrays, dtype: torch.dtype, device: torch.device
) -> Arrays:
    """Make tensors of a case's arrays: floats in the tested dtype, wide parameters in float32."""
    half = dtype in (torch.bfloat16, torch.float16)

    def tensor(name: str, value: Any) -> Any:
        if value is None:
            return None
        kind = torch.float32 if half and case.wide and name in table.parameters else dtype
        return torch.tensor(value, dtype=kind if value.dtype.kind == "f" else None, device=device)

    return {name: tensor(name, value) for name, value in arrays.items()}


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
    return Row(table.name, case.name, "-", short(dtype), nan, nan, nan, "runs", ANOTHER, note)


def short(dtype: torch.dtype) -> str:
    """Return a dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")
