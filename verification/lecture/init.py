"""Initial weights: torch's very draws, and the lecture's variances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from refnet import init
from verification.report import ANOTHER, AS_GOOD, Row
from verification.tolerance import Sample, same_bits

SUBJECT = "init"
SHAPES = {"linear": (300, 200), "convolution": (60, 20, 3, 5), "one unit": (1, 20000)}
SIGMAS = 5  # a right draw's variance is farther off once in two million times


def init_rows(*, quick: bool = False) -> Iterator[list[Row]]:
    """Yield the rows of each rule: its draws beside torch's, its variance beside the lecture's.

    Args:
        quick: has no effect: all of it takes no time.

    Example:
        >>> rows = next(init_rows())
        >>> rows[0].case, all(row.passed for row in rows)
        ('lecun_normal, linear', True)
    """
    for rule in init.RULES:
        rows: list[Row] = []
        for kind, shape in SHAPES.items():
            case = f"{rule}, {kind}"
            try:
                rows += [
                    _draws(case, rule, shape, dtype) for dtype in (torch.float64, torch.float32)
                ]
                rows.append(_variance(case, rule, shape))
            except Exception as error:  # a rule that crashes gets a row
                nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
                rows.append(Row(SUBJECT, case, "-", "-", nan, nan, nan, "runs", ANOTHER, note))
        yield rows
    yield [_by_activation(name, rule) for name, rule in _CHOSEN.items()]


def _draws(case: str, rule: str, shape: tuple[int, ...], dtype: torch.dtype) -> Row:
    ours, theirs = (
        fill(torch.empty(shape, dtype=dtype), generator=torch.Generator().manual_seed(7)).numpy()
        for fill in (init.RULES[rule], _TORCH[rule])
    )
    judged = same_bits([Sample(ours, theirs, theirs.astype(np.longdouble), [])])
    name = str(dtype).removeprefix("torch.")
    return Row(SUBJECT, case, "draws", name, **vars(judged) | {"seed": 7})


def _variance(case: str, rule: str, shape: tuple[int, ...]) -> Row:
    n_in, n_out = math.prod(shape[1:]), shape[0] * math.prod(shape[2:])
    want = {"lecun": 1 / n_in, "kaiming": 2 / n_in, "xavier": 2 / (n_in + n_out)}
    found = init.RULES[rule](
        torch.empty(shape, dtype=torch.float64), generator=torch.Generator().manual_seed(8)
    )
    right = want[rule.partition("_")[0]]
    error = abs(found.square().mean().item() / right - 1)
    # var(w²)/var(w)² is 2 for a normal distribution, 4/5 for a uniform one
    spread = math.sqrt((2 if rule.endswith("normal") else 0.8) / found.numel())
    verdict = AS_GOOD if error <= SIGMAS * spread else ANOTHER
    return Row(SUBJECT, case, "var(w)", "float64", error, math.nan, SIGMAS * spread,
               f"{SIGMAS} sigma", verdict, f"the lecture's is {right:.3g}", seed=8)  # fmt: skip


def _by_activation(activation: str, rule: str) -> Row:
    nan, chosen = math.nan, init.for_activation(activation)
    verdict = AS_GOOD if chosen == rule else ANOTHER
    return Row(
        SUBJECT,
        f"before {activation}",
        "rule",
        "-",
        nan,
        nan,
        nan,
        "the lecture's",
        verdict,
        chosen,
    )


_CHOSEN = {"tanh": "lecun_normal", "relu": "kaiming_normal", "leaky_relu": "kaiming_normal"}


def _torch(fill: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    return lambda tensor, generator: fill(tensor, **options, generator=generator)


_TORCH = {
    "lecun_normal": _torch(nn.init.kaiming_normal_, nonlinearity="linear"),
    "lecun_uniform": _torch(nn.init.kaiming_uniform_, nonlinearity="linear"),
    "kaiming_normal": _torch(nn.init.kaiming_normal_, nonlinearity="relu"),
    "kaiming_uniform": _torch(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "xavier_normal": _torch(nn.init.xavier_normal_),
    "xavier_uniform": _torch(nn.init.xavier_uniform_),
}
