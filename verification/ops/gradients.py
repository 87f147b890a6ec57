"""First and second derivatives against difference quotients, for every pair of an op's options.

`torch.autograd.gradcheck` and `gradgradcheck` in float64. Reverse mode, once and twice, is asked of
everybody; of refnet forward mode, and cotangents that are batched or undefined, as well.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from verification.cases import Arrays, Case, OpTable
from verification.limits import time_limit as limited
from verification.ops.rows import prepared
from verification.report import ANOTHER, AS_GOOD, Row
from verification.tensors import as_tensors, lay_out

# What torch's checkers find out, and how they are asked: of refnet, and of anybody.
CHECKS: dict[str, Callable[..., bool]] = {
    "reverse mode": lambda f, inputs: gradcheck(f, inputs, check_batched_grad=True),
    "forward mode": lambda f, inputs: gradcheck(
        f, inputs, check_forward_ad=True, check_backward_ad=False,
        check_batched_forward_grad=True, check_undefined_grad=False, check_batched_grad=False,
    ),
    "reverse over reverse": lambda f, inputs: gradgradcheck(f, inputs, check_batched_grad=True),
    "forward over reverse": lambda f, inputs: gradgradcheck(
        f, inputs, check_fwd_over_rev=True, check_rev_over_rev=False, check_undefined_grad=False,
    ),
}  # fmt: skip
# Sums may run in another order each time.
_ANYBODY: dict[str, Any] = {
    "check_batched_grad": False,
    "check_undefined_grad": False,
    "nondet_tol": 1e-9,
}
REVERSE: dict[str, Callable[..., bool]] = {
    "reverse mode": lambda f, inputs: gradcheck(f, inputs, **_ANYBODY),
    "reverse over reverse": lambda f, inputs: gradgradcheck(f, inputs, **_ANYBODY),
}


def verify_gradients(
    table: OpTable,
    candidate: Callable[..., Any] | None = None,
    *,
    device: str = "cpu",
    own: bool = False,
    time_limit: float | None = None,
) -> Iterator[list[Row]]:
    """Yield a row for each check of each case that stands for a pair of options.

    Args:
        table: the op.
        candidate: as in `op_rows`.
        device: where it computes.
        own: hold it to all that refnet supports, `CHECKS` in place of `REVERSE`.
        time_limit: seconds that a check of a case may take.

    Returns:
        An iterator over lists of rows, a list per case; an empty one where the builtin's output is
        no number, as is a mean over no rows.

    Example:
        >>> from verification.cases import op_tables
        >>> rows = next(verify_gradients(op_tables()["tanh"]))
        >>> len(rows), all(row.passed for row in rows)
        (2, True)
    """
    table, function = prepared(table, candidate)
    checks = CHECKS if own else REVERSE
    for case in table.cases:
        if case.values and "float64" in case.dtypes:
            try:
                rows = _verify_case(table, case, function, device, checks, time_limit)
            except (Exception, SystemExit) as error:  # a candidate that cannot say its mask
                rows = [_failure(table, case, name, error) for name in checks]
            yield rows


def _verify_case(
    table: OpTable,
    case: Case,
    function: Callable[..., Any],
    device: str,
    checks: Mapping[str, Callable[..., bool]],
    time_limit: float | None,
) -> list[Row]:
    rng = np.random.default_rng(zlib.crc32(f"{table.name} {case.name}".encode()))
    arrays = case.draw(rng)
    arrays.pop("cotangent")
    options = dict(case.options)
    tensors = as_tensors(table, case, arrays, torch.float64, torch.device(device))
    laid_out = {name: lay_out(name, t, case, table) for name, t in tensors.items()}
    tensors = table.complete(laid_out, options) | tensors
    names = [n for n in table.differentiable if tensors[n] is not None and _is_real(tensors[n])]

    def run(party: Callable[..., Any], *inputs: Tensor) -> Tensor:
        fresh: Arrays = {n: None if t is None else t.clone() for n, t in tensors.items()}
        given = dict(zip(names, inputs, strict=True))
        if options.get("inplace"):  # difference quotients need the input as it was
            given["input"] = given["input"].clone()
        arguments = {n: lay_out(n, t, case, table) for n, t in (fresh | given).items()}
        output: Tensor = party(**arguments, **options)
        return output

    def call(*inputs: Tensor) -> Tensor:
        return run(function, *inputs)

    inputs = [tensors[name].clone().requires_grad_() for name in names]
    if not run(table.builtin, *inputs).isfinite().all():
        return []
    return [
        _row(table, case, name, partial(check, call, inputs), time_limit)
        for name, check in checks.items()
    ]


def _row(
    table: OpTable, case: Case, name: str, check: Callable[[], bool], time_limit: float | None
) -> Row:
    nan = float("nan")
    try:
        with warnings.catch_warnings(), torch.random.fork_rng([]), limited(time_limit):
            warnings.simplefilter("ignore")  # of batching rules that are slow
            torch.manual_seed(0)  # the checkers draw directions
            check()
    except (Exception, SystemExit) as error:  # a wrong derivative, or a candidate that crashes
        return _failure(table, case, name, error)
    return Row(table.name, case.name, name, "float64", nan, nan, nan, "gradcheck", AS_GOOD)


def _failure(table: OpTable, case: Case, name: str, error: BaseException) -> Row:
    nan, note = float("nan"), " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Row(table.name, case.name, name, "float64", nan, nan, nan, "gradcheck", ANOTHER, note)


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point()
