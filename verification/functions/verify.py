"""Compare any differentiable function, or any module, with a reference.

The oracle is the reference itself in float64, unless there is a better one. The bounds are those of
`verification.tolerance`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from verification.functions.comparison import Comparison
from verification.functions.modules import holding, match, module_party, state_rows, tensors_of
from verification.functions.parties import function_party
from verification.ops.arguments import Arguments, bind
from verification.report import Report, Row

Function = Callable[..., Any]
Samples = Iterable[Any] | Callable[[int], Any]
DTYPES = (torch.float64, torch.float32)
# What a module does in each call of a row: whether it trains.
MODES = {
    "training": (True,),
    "evaluation": (False,),
    "several calls": (True, True, False, True),
}


def verify_function(
    candidate: Function,
    reference: Function,
    samples: Samples,
    *,
    oracle: Function | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    seeds: int | Sequence[int] = 3,
    device: str = "cpu",
    bitwise: bool = False,
    second: bool = True,
    time_limit: float | None = None,
    subject: str | None = None,
) -> Report:
    """Compare a differentiable function with a reference on samples of arguments.

    Outputs with their dtypes and shapes, gradients with random cotangents (also whether there is
    one), second derivatives, arguments written over, random numbers drawn, arguments that are not
    contiguous. A candidate that crashes or returns something else gives a failing row.

    Args:
        candidate: takes the arguments of `reference`.
        reference: is held to be right; run in float64 as well.
        samples: tuples of arguments or dicts of keyword arguments, with tensors anywhere in them,
            also in nested lists, tuples and dicts; or a function that draws such a sample by a
            seed. If tensors of a sample require gradients, those alone are differentiated, else all
            floats that the reference does not write over. Floats are rounded to each dtype.
        oracle: what is right, in place of the reference in float64.
        dtypes: float64 answers whether it is the same function, others whether it is as accurate.
        seeds: how many draws of cotangents and random numbers, or which.
        device: where everything is computed.
        bitwise: whether the reference's very bits are due.
        second: whether second derivatives are compared: by double backward, or where the reference
            has none with a difference quotient of the candidate's own gradient.
        time_limit: seconds for each call of the candidate, as far as it can be interrupted.
        subject: what to call the candidate in the rows.

    Returns:
        A report with a row for every quantity of every sample and dtype.

    Raises:
        ValueError: there are no samples, dtypes or seeds; a dtype is no real float.
        TypeError: a sample is neither tuple nor dict; a function is a module that holds tensors.

    Example:
        >>> def swish(x):
        ...     return x / (1 + torch.exp(-x))
        >>> x = torch.linspace(-3, 3, 50)
        >>> verify_function(swish, torch.nn.functional.silu, [(x,)]).passed
        True
        >>> report = verify_function(torch.tanh, torch.nn.functional.silu, [(x,)])
        >>> sorted({row.quantity for row in report.failures})
        ['grad input', 'output', 'second cotangent of output', 'second input']

    Source: lecture, "Gradient check for a neural network".
    """
    for name, function in (("candidate", candidate), ("reference", reference)):
        if isinstance(function, nn.Module) and tensors_of(function):
            raise TypeError(f"{name} is a module with parameters or buffers: use verify_module")
    comparison = Comparison(
        subject=subject or name_of(candidate),
        candidate=function_party(candidate),
        reference=function_party(reference),
        oracle=None if oracle is None else function_party(oracle),
        dtypes=checked_dtypes(dtypes),
        seeds=checked_seeds(seeds),
        device=torch.device(device),
        bitwise=bitwise,
        second=second,
        time_limit=time_limit,
    )
    cases = sample_cases([reference, candidate], samples)
    rows = [row for case, draw in cases.items() for row in comparison.rows(case, draw)]
    return Report(rows, f"{comparison.subject} beside {name_of(reference)}")


def verify_module(
    candidate: nn.Module,
    reference: nn.Module,
    samples: Samples,
    *,
    oracle: nn.Module | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    seeds: int | Sequence[int] = 3,
    device: str = "cpu",
    bitwise: bool = False,
    second: bool = True,
    time_limit: float | None = None,
    subject: str | None = None,
) -> Report:
    """Compare a module with a reference module on samples of arguments.

    Copies of the two, with the reference's parameters and buffers (by name, or else by order where
    shapes agree), in training and in evaluation, and in both by turns: outputs, gradients of inputs
    and parameters, buffers after the call, state-dict keys, and whether the state dict carries all
    of the state. The given modules stay as they are.

    Args:
        candidate: takes the arguments of `reference`.
        reference: is held to be right.
        samples: as in `verify_function`.
        oracle: a module that is right, in place of the reference in float64.
        dtypes: as in `verify_function`; the copies are cast.
        seeds: as in `verify_function`.
        device: as in `verify_function`.
        bitwise: as in `verify_function`.
        second: as in `verify_function`.
        time_limit: as in `verify_function`.
        subject: what to call the candidate in the rows.

    Returns:
        As `verify_function`. A parameter or buffer without counterpart is a failing row.

    Raises:
        ValueError: as in `verify_function`; a module is lazy; the oracle has other tensors than the
            reference.
        TypeError: a sample is neither tuple nor dict; a module is none.

    Example:
        >>> import refnet
        >>> x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        >>> verify_module(refnet.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4), [(x,)]).passed
        True
        >>> other = torch.nn.BatchNorm1d(4, momentum=0.9)
        >>> report = verify_module(other, torch.nn.BatchNorm1d(4), [(x,)], second=False)
        >>> sorted({row.quantity for row in report.failures})
        ['output[2]', 'self.running_mean afterwards', 'self.running_var afterwards']
    """
    for name, module in (("candidate", candidate), ("reference", reference)):
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name} is a {type(module).__name__}, must be a module")
        if any(map(torch.nn.parameter.is_lazy, tensors_of(module).values())):
            raise ValueError(f"{name} has lazy parameters: call it once before")
    found = match(candidate, reference)
    same = {name: name for name in found.names}
    exact = match(oracle or reference, reference)
    if exact.unmatched:
        raise ValueError(f"oracle has other tensors than the reference: {exact.unmatched}")
    subject = subject or name_of(candidate)
    cases = sample_cases([reference.forward, candidate.forward], samples)
    rows: list[Row] = []
    for mode, modes in MODES.items():
        comparison = Comparison(
            subject=subject,
            candidate=module_party(candidate, found.names, modes),
            reference=module_party(reference, same, modes),
            oracle=None if oracle is None else module_party(oracle, exact.names, modes),
            dtypes=checked_dtypes(dtypes),
            seeds=checked_seeds(seeds),
            device=torch.device(device),
            bitwise=bitwise,
            second=second,
            time_limit=time_limit,
        )
        for case, draw in cases.items():
            held = partial(_holding, reference, draw)
            rows += comparison.rows(f"{case}, {mode}", held, gradients=len(modes) == 1)
    rows += state_rows(comparison, next(iter(cases.values())), candidate, reference, found)
    return Report(rows, f"{subject} beside {name_of(reference)}")


def name_of(function: Any) -> str:
    """Return what a function, or a module's class, is called."""
    return str(getattr(function, "__name__", type(function).__name__))


def checked_dtypes(dtypes: Sequence[torch.dtype]) -> Sequence[torch.dtype]:
    """Return them, or raise a ValueError."""
    if not dtypes or not all(dtype.is_floating_point for dtype in dtypes):
        raise ValueError(f"dtypes is {dtypes}, must be real floating-point dtypes")
    return dtypes


def checked_seeds(seeds: int | Sequence[int]) -> Sequence[int]:
    """Return the seeds that a number stands for, or raise a ValueError."""
    listed = range(seeds) if isinstance(seeds, int) else seeds
    if not len(listed) or min(listed) < 0:
        raise ValueError(f"seeds is {seeds}, must be a positive number or a list of such")
    return listed


def sample_cases(
    functions: Sequence[Function], samples: Samples
) -> dict[str, Callable[[int], Arguments]]:
    """Return for each case what gives its arguments for a seed.

    Raises:
        ValueError: there is none.
        TypeError: a sample is neither tuple nor dict.
    """
    if callable(samples):
        return {"drawn": lambda seed: bind(functions, samples(seed), f"samples({seed})")}
    if isinstance(samples, Mapping):
        raise TypeError("samples is a dict: put it into a list")
    named = {f"sample {i}": bind(functions, s, f"sample {i}") for i, s in enumerate(samples)}
    if not named:
        raise ValueError("samples is empty")
    return {name: partial(_always, arguments) for name, arguments in named.items()}


def _always(arguments: Arguments, _seed: int) -> Arguments:
    return arguments


def _holding(reference: nn.Module, draw: Callable[[int], Arguments], seed: int) -> Arguments:
    return holding(draw(seed), reference)
