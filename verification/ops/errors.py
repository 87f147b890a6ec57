"""Calls that are wrong, and calls that are only odd: a candidate treats them as the builtin does.

The builtin decides: where it raises, the candidate has to raise an exception of that type, whatever
it says; where it returns, the candidate has to return a tensor of that shape and dtype. A candidate
may take more than the builtin does where that has one meaning: integers for the numbers they are,
parameters of another dtype. It has to return then what it returns for the call that is meant, and
the row says that it is looser. Where a call has no meaning, a class that is not there, shapes that
don't fit, it has to be refused; and what the builtin takes may not be refused. Calls in which
refnet means to differ from torch are left out; the comments say why.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as builtins

from verification.cases import OpTable
from verification.limits import time_limit as limited
from verification.ops.odd_calls import CALLS, Function, Maker, Odd
from verification.report import ANOTHER, AS_GOOD, WORSE, Row
from verification.tensors import short


def error_rows(
    table: OpTable,
    candidate: Function | None = None,
    *,
    device: str = "cpu",
    time_limit: float | None = None,
    asked: Callable[[str], bool] = lambda name: True,
) -> Iterator[list[Row]]:
    """Yield a row for each wrong or odd call of an op.

    Args:
        table: the op; one without such calls, such as a module, yields nothing.
        candidate: a function with torch's signature, instead of refnet's.
        device: where it computes.
        time_limit: seconds that a call may take.
        asked: which of the calls, by name.

    Returns:
        An iterator over lists of one row; "worse" is an exception of another type, "another
        function" a call that works and should not, or does not and should. "as good" with a note
        that begins with "looser" is a call that the builtin refuses and that has one meaning.

    Example:
        >>> from verification.cases import op_tables
        >>> rows = next(error_rows(op_tables()["softmax"]))
        >>> rows[0].case, rows[0].note
        ('dimension 2 of 2', 'both IndexError')
    """
    function, builtin = candidate or table.candidate, getattr(builtins, table.name, None)
    for odd in _calls(table, device):
        if builtin is not None and asked(odd.name):
            yield [_row(table.name, odd, function, builtin, device, time_limit)]


def error_cases(table: OpTable, device: str = "cpu") -> list[str]:
    """Return the names of an op's wrong and odd calls."""
    return [odd.name for odd in _calls(table, device)]


def _calls(table: OpTable, device: str) -> list[Odd]:
    return [odd for odd in CALLS.get(table.name, ()) if odd.anywhere or device == "cpu"]


def _row(
    op: str, odd: Odd, function: Function, builtin: Function, device: str, time_limit: float | None
) -> Row:
    theirs = _result(odd.call, builtin, device, None)
    ours = _result(odd.call, function, device, time_limit)
    meant = None
    if odd.meant and isinstance(theirs, BaseException) and isinstance(ours, Tensor):
        meant = _result(odd.meant, function, device, time_limit)
    verdict, note = _compare(ours, theirs, meant)
    nan = math.nan
    return Row(op, odd.name, "error", "-", nan, nan, nan, "builtin's error", verdict, note)


def _result(
    call: Callable[[Function, Maker], Any], function: Function, device: str,
    time_limit: float | None,
) -> Any:  # fmt: skip
    with warnings.catch_warnings(), torch.random.fork_rng(), torch.enable_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            with limited(time_limit):
                return call(function, Maker(device))
        except (Exception, SystemExit) as error:
            return error


def _compare(ours: Any, theirs: Any, meant: Any) -> tuple[str, str]:
    said = [_said(result) for result in (ours, theirs)]
    differ = f"{said[0]}; the builtin {said[1]}"
    if isinstance(theirs, BaseException):
        if not isinstance(ours, BaseException):
            looser = isinstance(meant, Tensor) and _same(ours, meant)
            return (AS_GOOD, f"looser: {differ}") if looser else (ANOTHER, differ)
        alike = _kin(type(ours), type(theirs))
        return (AS_GOOD, f"both {type(theirs).__name__}") if alike else (WORSE, differ)
    if isinstance(ours, BaseException):
        return ANOTHER, f"stricter: {differ}"
    if _facts(ours) != _facts(theirs):
        return ANOTHER, differ
    return AS_GOOD, f"both work: {_said(theirs)}"


def _same(ours: Tensor, meant: Tensor) -> bool:
    """Tell whether two results of a candidate are one but for the dtype: to 8 eps of the wider."""
    if ours.shape != meant.shape or not ours.numel():
        return False
    dtypes = [t.dtype for t in (ours, meant) if t.is_floating_point()]
    eps = max((torch.finfo(dtype).eps for dtype in dtypes), default=0.0)
    a, b = ours.detach().double(), meant.detach().double()
    return bool((a - b).abs().max() <= 8 * eps * b.abs().max())  # False for NaN


def _kin(ours: type[BaseException], theirs: type[BaseException]) -> bool:
    """Return whether one is a kind of the other, such as NotImplementedError of RuntimeError."""
    return issubclass(ours, theirs) or (issubclass(theirs, ours) and ours is not Exception)


def _facts(result: Any) -> Any:
    return (result.dtype, result.shape) if isinstance(result, Tensor) else type(result)


def _said(result: Any) -> str:
    if isinstance(result, Tensor):
        return f"returns {short(result.dtype)} {list(result.shape)}"
    if isinstance(result, BaseException):
        return f"raises {type(result).__name__}: {result}".splitlines()[0][:100]
    return f"returns {type(result).__name__}"
