"""Masks of a dropout that takes none from outside."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from verification.cases import OpTable
from verification.limits import time_limit as limited

Function = Callable[..., Any]


def with_own_masks(table: OpTable, candidate: Function) -> OpTable:
    """Return the table of a dropout that takes no mask, with the masks that it draws itself.

    The mask is what it keeps of ones under the seed of the case; the builtin is the product that
    torch makes of that mask, and the candidate may round it in another way.

    Args:
        table: any op's; one that is no dropout, and that of a dropout with a mask, stay as they
            are.
        candidate: the dropout.

    Returns:
        The table for `op_rows`.
    """
    if not is_random(table) or _takes_mask(candidate):
        return table

    def call(input: Tensor, seed: Tensor, mask: Tensor, **options: Any) -> Any:
        devices = [seed.device] if seed.is_cuda else []
        with warnings.catch_warnings(), torch.random.fork_rng(devices):
            warnings.simplefilter("ignore")
            torch.manual_seed(int(seed))
            return candidate(input, **options)

    def complete(tensors: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        ones, p = torch.ones_like(tensors["input"]), options["p"]
        kept = call(ones, tensors["seed"], ones, p=p).detach() != 0
        return {**tensors, "mask": kept}

    return replace(
        table, builtin=_product, complete=complete, adapt=lambda function: call, bitwise=False
    )  # fmt: skip


def _product(
    input: Tensor, seed: Tensor, mask: Tensor, p: float, training: bool = True,
    inplace: bool = False,
) -> Tensor:  # fmt: skip
    if not training or not p:
        return input
    scale = mask.to(input.dtype) / (1 - p or 1)
    return input.mul_(scale) if inplace else input * scale


def is_random(table: OpTable) -> bool:
    """Return whether an op is a dropout."""
    return "mask" in inspect.signature(table.candidate).parameters


def _takes_mask(candidate: Function) -> bool:
    try:
        parameters = inspect.signature(candidate).parameters
    except (TypeError, ValueError):  # compiled code without a signature
        return False
    if "mask" in parameters:
        return True
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return False
    ones = torch.ones(2, 2, 1)
    try:  # it may hand them on
        with limited(10.0), torch.random.fork_rng([]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            candidate(ones, p=0.5, mask=ones > 0)
    except TypeError:
        return False
    except (Exception, SystemExit):
        return True
    return True
