"""Call a party with copies of a case's tensors, and find what it did that it may not do."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from verification.cases import Arrays, Case, OpTable
from verification.tensors import lay_out, short, to_numpy

Function = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """What a call leaves.

    Attributes:
        values: "output", "grad <input>" and the buffers, by name.
        shared: names of the arguments whose memory the output lies in.
    """

    values: dict[str, torch.Tensor]
    shared: frozenset[str]


def torchs_way(table: OpTable, function: Function) -> Function:
    """Let a function be called as torch's usually is, whatever it calls its first arguments.

    Args:
        table: the op; what has no default in its signature is passed by position.
        function: takes torch's arguments.

    Returns:
        A function that takes them all by name.

    Example:
        >>> from verification.cases import op_tables
        >>> call = torchs_way(op_tables()["linear"], lambda x, w, bias=None: x @ w.T)
        >>> call(input=torch.ones(1, 2), weight=torch.ones(1, 2))
        tensor([[2.]])
    """
    required = [
        parameter.name
        for parameter in inspect.signature(table.adapt(table.candidate)).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]

    def call(**arguments: Any) -> Any:
        first = [arguments.pop(name) for name in required if name in arguments]
        return function(*first, **arguments)

    return call


def run(
    table: OpTable,
    case: Case,
    function: Function,
    tensors: Arrays,
    options: Mapping[str, Any],
    like: Outcome | None = None,
    *,
    frozen: Collection[str] = (),
    grad: bool = True,
) -> Outcome:
    """Call a party on copies, and back-propagate the cotangent.

    Args:
        table: the op.
        case: says how the tensors are to be laid out.
        function: takes the case's names.
        tensors: of the case, the cotangent among them.
        options: the arguments that are no tensors.
        like: what the builtin left; without it nothing is asked of types, shapes and devices.
        frozen: names of the inputs that require no gradient.
        grad: whether a graph is recorded; without it there are no gradients.

    Returns:
        Output, gradients and buffers.

    Raises:
        RuntimeError: it changed an argument that is no buffer, or the cotangent; did not write over
            the input though it was told to; returned memory of an argument though the builtin does
            not; or some gradient is missing.
        TypeError: what it returned is no tensor, or of another dtype than the builtin's.
        ValueError: likewise, on another device, or of another shape.
    """
    inplace = bool(options.get("inplace"))
    copies: Arrays = {name: None if t is None else t.clone() for name, t in tensors.items()}
    if not inplace:
        copies = {n: lay_out(n, t, case, table) for n, t in copies.items()}
    inputs = {
        name: copies[name].requires_grad_()
        for name in table.differentiable
        if name not in frozen and copies.get(name) is not None and copies[name].is_floating_point()
    }
    arguments = {name: copy for name, copy in copies.items() if name != "cotangent"}
    if inplace:  # a leaf may not be written over
        arguments["input"] = lay_out("input", copies["input"] * 1, case, table)
    with (
        _autocast(case, tensors),
        torch.set_grad_enabled(grad),
    ):  # put back
        output = function(**arguments, **options)
        if torch.is_grad_enabled() != grad:
            raise RuntimeError(f"global state: gradient mode: {grad} became {not grad}")
    shared = frozenset(n for n, t in arguments.items() if _share(output, t))
    if like is not None:
        _require_like("output", output, like)
        if not output.requires_grad:
            raise RuntimeError("the output has no gradient: it is cut off from the inputs")
        if not inplace and shared - like.shared:
            raise RuntimeError(
                f"the output lies in the memory of {sorted(shared - like.shared)}, "
                "the builtin's does not"
            )
    if inplace and output.data_ptr() != arguments["input"].data_ptr():
        raise RuntimeError("inplace: the result is not where the input was")
    gradients = {}
    if grad and inputs:
        found = torch.autograd.grad(
            output, list(inputs.values()), copies["cotangent"], allow_unused=True
        )  # fmt: skip
        gradients = {f"grad {name}": g for name, g in zip(inputs, found, strict=True)}
    for name, copy in copies.items():
        if name not in table.buffers and not _equal(copy, tensors[name]):
            raise RuntimeError(f"the argument {name!r} was changed")
    buffers = {name: copies[name] for name in table.buffers if copies[name] is not None}
    values = {"output": output, **gradients, **buffers}
    if like is not None:
        for name, value in values.items():
            _require_like(name, value, like)
    return Outcome(values, shared)


def _autocast(case: Case, tensors: Arrays) -> AbstractContextManager[object]:
    device = next(t.device.type for t in tensors.values() if t is not None)
    return torch.autocast(device, torch.bfloat16) if case.autocast else nullcontext()


def _require_like(name: str, value: Any, like: Outcome) -> None:
    expected = like.values[name]
    if value is None and name.startswith("grad "):
        raise RuntimeError(f"{name} is missing: the output does not depend on it")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, expected a tensor")
    if value.dtype != expected.dtype:
        found = f"{short(value.dtype)}, the builtin's is {short(expected.dtype)}"
        raise TypeError(f"{name} is {found}")
    if value.device != expected.device:
        raise ValueError(f"{name} is on {value.device}, the builtin's on {expected.device}")
    if value.shape != expected.shape:
        shapes = f"{list(value.shape)}, the builtin's is {list(expected.shape)}"
        raise ValueError(f"{name} is of shape {shapes}")


def different_layout(ours: Outcome, builtin: Outcome) -> str:
    """Return in words how the output lies otherwise in memory than the builtin's; "" if it doesn't.

    Dimensions of size 1 have any stride; where the builtin returns its input, a copy will do.
    """
    a, b = ours.values["output"], builtin.values["output"]
    strides = [[s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1] for t in (a, b)]
    if not a.numel() or builtin.shared or strides[0] == strides[1]:
        return ""
    return f"strides {a.stride()}, the builtin's are {b.stride()}"


def _share(a: Any, b: Any) -> bool:
    if not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)) or a.is_meta or b.is_meta:
        return False
    if a.layout != torch.strided or not a.numel():
        return False
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _equal(a: Any, b: Any) -> bool:
    return (a is None and b is None) or np.array_equal(to_numpy(a), to_numpy(b), equal_nan=True)
