"""Which parameters of a group the kernels update, and whether that still holds a step later."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter, gt, is_
from typing import Any, ClassVar

import torch
from torch import Tensor

from refnet._compile import Kernel, unavailable
from refnet.optim._table import REAL, Table, count

__all__ = ["Plan", "unsupported"]

State = dict[str, Any]

_CPU = torch.device("cpu")
_PLAIN = {Tensor, torch.nn.Parameter}
_address, _numel, _strides = Tensor.data_ptr, Tensor.numel, Tensor.stride
_is_neg, _is_conj, _is_complex = Tensor.is_neg, Tensor.is_conj, Tensor.is_complex
_dtype = attrgetter("dtype")


class Plan:
    """Tables for what a kernel supports; the rest is `left` to the reference.

    Where state is None, it is made for what the kernel gets.

    Args:
        kernel: the update rule.
        rows: names of the state that it knows, in its order.
        names: of those that the options ask for.
        params: parameters that have a gradient.
        grads: their gradients.
        states: their state; nothing where none is kept.

    Attributes:
        left: the parameters that the kernel doesn't update.
        reason: why it doesn't update the first of them.
    """

    # What a plan for another device has its own of.
    backend: ClassVar[str] = "cpu"
    table: ClassVar[Any] = Table

    @classmethod
    def rule(cls, kernel: Kernel) -> Any:
        """What a table runs."""
        return kernel

    @classmethod
    def kind(cls, param: Tensor, step: Tensor | None) -> Any:
        """What parameters of one table have in common."""
        return REAL[param.dtype], getattr(step, "dtype", None)

    @classmethod
    def unsupported(
        cls, kernel: Kernel, param: Tensor, grad: Tensor, state: State, names: Sequence[str]
    ) -> str:
        """Return why a kernel cannot update a parameter, or an empty text if it can."""
        return unsupported(kernel, param, grad, state, names)

    def __init__(
        self,
        kernel: Kernel,
        rows: Sequence[str],
        names: Sequence[str],
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[State],
    ) -> None:
        states = states or [{} for _ in params]
        self._rule, self._names, self._params = self.rule(kernel), names, params
        each = zip(params, grads, states, strict=True)
        reasons = [self.unsupported(kernel, *parameter, names) for parameter in each]
        able = [i for i, reason in enumerate(reasons) if not reason]
        of_able = [grads[i] for i in able]
        if _Memory(_written(params, states, names, able), of_able).clashes(of_able):
            able, reasons = [], ["tensors that share memory"] * len(params)
        self.left = [param for param, reason in zip(params, reasons, strict=True) if reason]
        self.reason = next(filter(None, reasons), "")

        fresh = {i for i in able if any(states[i][name] is None for name in names)}
        for i in fresh:
            states[i].update({name: torch.empty_like(grads[i]) for name in names})
        kinds: dict[Any, list[int]] = {}
        for i in able:
            kinds.setdefault(self.kind(params[i], states[i].get("step")), []).append(i)
        self._tables = [
            (i, self.table([params[k] for k in i], [states[k] for k in i],
                      names, rows, [k in fresh for k in i]))
            for i in kinds.values()
        ]  # fmt: skip
        self._held = _values(states)
        self._seen = None if self.left else _look(params, grads, self._held)
        self._memory = _Memory(_written(params, states, names, able), of_able)
        self._point([0 if r else g.data_ptr() for g, r in zip(grads, reasons, strict=True)])

    def holds(
        self,
        names: Sequence[str],
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: Sequence[State],
    ) -> bool:
        """Return whether this is the plan for a step, and note where the gradients are now."""
        held = _values(states)
        if not (
            self._seen is not None
            and names == self._names
            and len(params) == len(self._params)
            and len(held) == len(self._held)
            and all(map(is_, params, self._params))
            and all(map(is_, held, self._held))
            and _look(params, grads, held) == self._seen
        ):
            return False
        addresses = [*map(_address, grads)]
        if addresses != self._grads:
            if self._memory.clashes(grads):
                return False
            self._point(addresses)
        return True

    def run(self, numbers: Sequence[Any]) -> None:
        """Make the step."""
        for _, table in self._tables:
            table.run(self._rule, numbers)

    def _point(self, grads: list[int]) -> None:
        self._grads = grads
        for indices, table in self._tables:
            table.point(grads if len(indices) == len(grads) else [grads[i] for i in indices])


def unsupported(
    kernel: Kernel, param: Tensor, grad: Tensor, state: State, names: Sequence[str]
) -> str:
    """Return why a kernel cannot update a parameter, or an empty text if it can.

    Example:
        >>> from refnet.optim import cpu
        >>> w = torch.ones(2, 3)
        >>> unsupported(cpu.sgd, w, torch.ones(2, 3), {"v": None}, ["v"])
        ''
        >>> unsupported(cpu.sgd, w, torch.ones(3, 2).t(), {}, [])
        'strides (3, 1) beside (1, 2)'
        >>> unsupported(cpu.sgd, w.bfloat16(), w.bfloat16(), {}, [])
        'dtype torch.bfloat16'
    """
    if param.dtype not in REAL:
        return f"dtype {param.dtype}"
    if reason := mismatch(param, grad, state, names, _CPU):
        return reason
    if "step" in state:
        step = state["step"]
        if not step.is_cpu or step.numel() != 1 or step.dtype not in (torch.float32, torch.float64):
            return f"a step count of {step.numel()} elements and {step.dtype}"
        if count.get(step.dtype) is None:
            return unavailable()
    return "" if kernel.get(REAL[param.dtype]) else unavailable()


def mismatch(
    param: Tensor, grad: Tensor, state: State, names: Sequence[str], device: torch.device
) -> str:
    """Return why these tensors cannot be worked through side by side, or an empty text."""
    for tensor in (param, grad, *state.values()):
        if tensor is not None and (reason := _not_plain(tensor)):
            return reason
    for tensor in (param, grad, *(state[n] for n in names if state[n] is not None)):
        if tensor.device != device:
            return f"a tensor of layout {tensor.layout} on {tensor.device}"
    for tensor in (grad, *(state[name] for name in names if state[name] is not None)):
        if tensor.dtype != param.dtype:
            return f"dtype {param.dtype} beside {tensor.dtype}"
        if tensor.shape != param.shape:
            return f"shape {tuple(param.shape)} beside {tuple(tensor.shape)}"
        if _order(tensor) != _order(param):
            return f"strides {param.stride()} beside {tensor.stride()}"
    if not _is_dense(param):
        return f"shape {tuple(param.shape)} with strides {param.stride()}"
    return ""


def _not_plain(tensor: Any) -> str:
    if type(tensor) not in _PLAIN:
        return f"a {type(tensor).__name__}"
    if tensor.layout is not torch.strided:
        return f"a tensor of layout {tensor.layout} on {tensor.device}"
    if tensor.is_conj() or tensor.is_neg() or tensor.is_inference():
        return "a conjugate or negative view, or an inference tensor"
    return ""


def _order(tensor: Tensor) -> list[int]:
    """Return the strides that say in which order the elements lie in memory."""
    return [s for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1]


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements fill a piece of memory, without gaps or overlaps."""
    expected = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1:
            if stride != expected:
                return tensor.numel() == 0
            expected *= length
    return True


def _values(states: Sequence[State]) -> list[Any]:
    values: list[Any] = []
    for state in states:
        values += state.values()
    return values


def _written(
    params: Sequence[Tensor], states: Sequence[State], names: Sequence[str], able: Iterable[int]
) -> list[Tensor]:
    """Return what a step writes."""
    tensors = [[params[i], *(states[i][name] for name in names)] for i in able]
    return [tensor for each in tensors for tensor in each if tensor is not None]


def _look(params: Sequence[Tensor], grads: Sequence[Tensor], held: Sequence[Tensor]) -> Any:
    """Return what may have changed about these tensors since a plan was made; None forbids any.

    But for the gradients' places. Parameters and state are the same objects, gradients are new, and
    torch sees to it that they have their parameter's shape and device.
    """
    if not {*map(type, grads)} <= _PLAIN or any(map(_is_neg, grads)):
        return None
    try:
        return [
            *map(_address, params), *map(_strides, params), *map(_address, held),
            *map(_numel, grads), *map(_strides, grads), *map(_dtype, grads),
            *(map(_is_conj, grads) if any(map(_is_complex, params)) else ()),
        ]  # fmt: skip
    except RuntimeError:  # sparse gradients have no strides
        return None


class _Memory:
    """The pieces of memory that a step writes.

    Args:
        tensors: what it writes.
        others: tensors whose sizes are those of what is asked for later.
    """

    def __init__(self, tensors: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        pieces = sorted((t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors if t.numel())
        self._starts = [start for start, _ in pieces]
        self._ends = [0, *(end for _, end in pieces)]
        self._sizes = [other.nbytes for other in others]
        self._shared = any(map(gt, self._ends, self._starts))
        self._starts.append(2**63)

    def clashes(self, others: Sequence[Tensor]) -> bool:
        """Return whether two pieces overlap, or another tensor overlaps one."""
        if self._shared:
            return True
        for other, size in zip(others, self._sizes, strict=True):
            start = other.data_ptr()
            after = bisect_right(self._starts, start)
            if self._ends[after] > start or self._starts[after] < start + size:
                return True
        return False
