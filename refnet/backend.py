"""Which implementation runs, and what torch is doing around a call.

`use_backend` forces an implementation, `choose` picks one for a call, `recording` tells which ran.

The rest asks torch; the names for it, some of them private, stand here in one place. Forward mode
and higher orders come from differentiating an op's reference equations, so an op has to know when a
forward-mode level is open; a check that reads a tensor's values has to know when there are none to
read (under `torch.compile`, `torch.func`, fake tensors).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

AUTO, REFERENCE, CPU, CUDA = BACKENDS = ("auto", "reference", "cpu", "cuda")
PLAIN = (Tensor, torch.nn.Parameter)
_default = os.environ.get("REFNET_BACKEND") or AUTO  # read once


class _Thread(threading.local):
    backend = ""  # empty: the default
    ran: list[tuple[str, str]] | None = None


_thread = _Thread()


class use_backend:
    """Force an implementation, in this thread, from here on or for the body of a `with`.

    Args:
        name: "auto", the fastest that serves a call; "reference", the equations in plain torch;
            "cpu", the compiled loops; "cuda", the Triton kernels. Without a call, the environment's
            REFNET_BACKEND decides, else "auto".

    Raises:
        ValueError: another name.
        NotImplementedError: in a call that the forced implementation cannot serve. Under transforms
            (torch.func, forward mode, compilation) and for second derivatives the reference runs,
            whatever is forced.

    Example:
        >>> with use_backend("reference"):
        ...     forced()
        'reference'
        >>> use_backend("gpu")
        Traceback (most recent call last):
        ValueError: backend must be one of auto, reference, cpu, cuda, but got 'gpu'
    """

    def __init__(self, name: str) -> None:
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, but got {name!r}")
        self._before = _thread.backend
        _thread.backend = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        _thread.backend = self._before


def forced() -> str:
    """Return the name that `use_backend` or REFNET_BACKEND gives for this thread, or "auto".

    Raises:
        ValueError: REFNET_BACKEND is no such name.
    """
    name = _thread.backend or _default
    if name not in BACKENDS:
        raise ValueError(f"REFNET_BACKEND must be one of {', '.join(BACKENDS)}, but is {name!r}")
    return name


def choose(op: str, *args: Any, **implementations: Callable[..., str]) -> str:
    """Return the name of the implementation that runs a call: "reference", or one of those given.

    Args:
        op: the op's name.
        args: of the call.
        implementations: functions by name, the preferred first, that say why an implementation
            cannot serve a call with these arguments; an empty text if it can.

    Raises:
        NotImplementedError: one is forced that cannot.

    Example:
        >>> def unsupported(x): return "" if x.dtype.is_floating_point else f"dtype {x.dtype}"
        >>> choose("square", torch.ones(2), cpu=unsupported)
        'cpu'
        >>> choose("square", torch.tensor([2]), cpu=unsupported)
        'reference'
        >>> with use_backend("cpu"): choose("square", torch.tensor([2]), cpu=unsupported)
        Traceback (most recent call last):
        NotImplementedError: backend 'cpu' cannot run square: dtype torch.int64
    """
    name = forced()
    chosen = REFERENCE
    if name != REFERENCE and is_plain():
        for candidate, unsupported in implementations.items():
            if name in (AUTO, candidate):
                reason = unsupported(*args)
                if not reason:
                    chosen = candidate
                    break
                if name != AUTO:
                    raise cannot(op, reason)
        else:
            if name != AUTO and name not in implementations:
                raise cannot(op, "it has no such implementation")
    ran(op, chosen)
    return chosen


def cannot(op: str, reason: str) -> NotImplementedError:
    """Return the error for a forced implementation that cannot serve a call."""
    return NotImplementedError(f"backend {forced()!r} cannot run {op}: {reason}")


def ran(op: str, implementation: str) -> None:
    """Note which implementation runs, for `recording`; `choose` does it."""
    if _thread.ran is not None:
        _thread.ran.append((op, implementation))


@contextmanager
def recording() -> Iterator[list[tuple[str, str]]]:
    """Record which implementations run in this thread: pairs of an op and "cpu", "reference", ….

    Example:
        >>> with recording() as ran:
        ...     _ = choose("square")
        >>> ran
        [('square', 'reference')]
    """
    before = _thread.ran
    _thread.ran = []
    try:
        yield _thread.ran
    finally:
        _thread.ran = before


def forward_mode() -> bool:
    """Return whether a forward-mode (dual-number) level is open.

    Example:
        >>> import torch
        >>> forward_mode()
        False
        >>> with torch.autograd.forward_ad.dual_level():
        ...     forward_mode()
        True
    """
    if torch.compiler.is_compiling():
        return False
    return bool(forward_ad._current_level >= 0)  # no public way to ask


def composes() -> bool:
    """Return whether an op has to run as its equations, composed of torch's own operations.

    So it is in forward mode, whose derivative they are, and where torch lets no `autograd.Function`
    through: under `torch.func.functionalize`, and in compiled torch.func transforms.

    Example:
        >>> import torch
        >>> composes()
        False
        >>> torch.func.functionalize(lambda x: x + composes())(torch.zeros(1))
        tensor([1.])
    """
    if torch.compiler.is_compiling():
        return in_functorch()
    return forward_mode() or is_functionalized()


def in_functorch() -> bool:
    """Return whether a torch.func transform is active.

    Example:
        >>> import torch
        >>> in_functorch()
        False
        >>> torch.func.vmap(lambda x: x + in_functorch())(torch.zeros(2))
        tensor([1., 1.])
    """
    return bool(torch._C._are_functorch_transforms_active())


def is_functionalized() -> bool:
    """Return whether `torch.func.functionalize` is among the active transforms, in eager mode.

    Example:
        >>> is_functionalized()
        False
    """
    if torch.compiler.is_compiling() or not in_functorch():
        return False
    functionalize = torch._C._functorch.TransformType.Functionalize
    stack = torch._C._functorch.get_interpreter_stack() or []
    return any(interpreter.key() == functionalize for interpreter in stack)


def is_transformed() -> bool:
    """Return whether torch is compiling, or a torch.func transform is active.

    Example:
        >>> is_transformed()
        False
    """
    return torch.compiler.is_compiling() or in_functorch()


def is_plain(*tensors: Tensor) -> bool:
    """Return whether a call is eager, on dense tensors, and nothing of torch's stands in between.

    False while compiling or exporting, under torch.func transforms, in forward mode, under
    dispatch modes, for tensor subclasses (fake tensors among them), and on meta.

    Example:
        >>> import torch
        >>> is_plain(torch.zeros(3)), is_plain(torch.zeros(3, device="meta"))
        (True, False)
    """
    if (
        torch.compiler.is_compiling()
        or in_functorch()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    ):
        return False
    return not tensors or is_dense(*tensors)


def is_dense(*tensors: Tensor) -> bool:
    """Return whether tensors are torch's own, strided, and have memory that can be read.

    What a transform or a subclass shows to an op has none of its own.

    Example:
        >>> import torch
        >>> is_dense(torch.zeros(3)), is_dense(torch.zeros(3, device="meta"))
        (True, False)
    """
    for t in tensors:
        if (
            type(t) not in PLAIN
            or t.layout is not torch.strided
            or t.is_meta
            or not torch._C._has_storage(t)  # in a batched backward
        ):
            return False
    return True


def in_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is torch's own, and lies in the CPU's memory as its strides say.

    So that a loop may read it. Sparse, lazy and dead wrapped tensors have no storage, a negative
    view has other numbers in it.

    Example:
        >>> import torch
        >>> in_memory(torch.zeros(3)), in_memory(torch.zeros(3).to_sparse())
        (True, False)
    """
    return (
        type(tensor) in PLAIN
        and tensor.is_cpu
        and torch._C._has_storage(tensor)
        and not tensor.is_neg()
    )


def apply_of(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return a Function's `apply` for calls that are plain (`is_plain`): half its time.

    It leaves out what torch does for torch.func and for `setup_context`.

    Example:
        >>> import torch
        >>> class Twice(torch.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x): return 2 * x
        >>> apply_of(Twice)(torch.ones(2))
        tensor([2., 2.])
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc, no-any-return]


def may_be_overwritten(tensor: Tensor) -> bool:
    """Return whether a `Function` may write over a tensor, as `mark_dirty` announces it.

    torch finds out too late, after the writing, that a tensor is a leaf, a view of one, or one of
    several views that a function returned. Where one of these is so, or a call is not plain
    (`is_plain`), `copy_` does better: it finds out before, and works under transforms.

    Example:
        >>> import torch
        >>> leaf = torch.ones(4, requires_grad=True)
        >>> may_be_overwritten(leaf), may_be_overwritten(leaf[:2]), may_be_overwritten(leaf * 1)
        (False, False, True)
        >>> may_be_overwritten((leaf * 1)[:2]), may_be_overwritten((leaf * 1).chunk(2)[0])
        (True, False)
    """
    if not is_plain(tensor) or not torch.is_grad_enabled():
        return False  # without a graph `copy_` keeps nothing either, and returns the same object
    base = tensor
    if tensor._is_view():
        meta = torch._C._autograd._get_creation_meta(tensor)
        if meta != torch._C._autograd.CreationMeta.DEFAULT:
            return False
        base = tensor._base  # type: ignore[assignment]
    return not (base.requires_grad and base.is_leaf)


def has_readable_values(tensor: Tensor) -> bool:
    """Return whether Python may branch on the values of `tensor` at no cost worth speaking of.

    True for a plain tensor (`is_plain`) on the CPU; False on CUDA, where reading would wait for the
    device.

    Example:
        >>> import torch
        >>> has_readable_values(torch.zeros(3)), has_readable_values(torch.zeros(3, device="meta"))
        (True, False)
    """
    return is_plain(tensor) and tensor.device.type == "cpu"


# Ops that torch computes in float32 under autocast, by device; a matmul goes the other way.
_FLOAT32 = {
    "cpu": ("cross_entropy",),
    "cuda": ("cross_entropy", "softmax", "log_softmax"),
}
_CAST = (torch.float32, torch.float16, torch.bfloat16)  # float64 stays


def autocast(op: str, *tensors: Tensor | None) -> tuple[Any, ...]:
    """Cast the tensors of an op to the dtype that torch gives it under `torch.autocast`.

    Args:
        op: name of the op in `refnet.functional`.
        tensors: its tensors, the input first; None stays.

    Returns:
        The tensors; outside autocast, or for an op that follows its input, as they are.

    Example:
        >>> import torch
        >>> x, w = torch.zeros(2, 3), torch.zeros(4, 3)
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     [t.dtype for t in autocast("linear", x, w)]
        [torch.bfloat16, torch.bfloat16]
    """
    first = tensors[0]
    if not torch._C._is_any_autocast_enabled() or not isinstance(first, Tensor):
        return tensors
    device = first.device.type
    available = device == "cpu" or torch.amp.is_autocast_available(device)
    if not available or not torch.is_autocast_enabled(device):
        return tensors
    if op == "linear":
        dtype = torch.get_autocast_dtype(device)
    elif op in _FLOAT32.get(device, ()):
        dtype = torch.float32
    else:
        return tensors
    return tuple(t.to(dtype) if t is not None and t.dtype in _CAST else t for t in tensors)
