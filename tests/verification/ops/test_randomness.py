"""What a dropout draws: the builtins and refnet pass, and every wrong draw is seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from verification.cases import op_tables
from verification.ops.chance import LIMIT, correlated, divergence
from verification.ops.randomness import randomness_rows
from verification.ops.rows import op_rows
from verification.report import Report, Row, collect

TABLES = op_tables()
DROPOUTS = ["dropout", "dropout1d", "dropout2d", "dropout3d"]
Op = Callable[..., Any]


def verify(name: str, candidate: Op | None, seeds: int = 1) -> list[Row]:
    return collect(randomness_rows(TABLES[name], candidate, seeds=seeds)).rows


@pytest.mark.parametrize("name", TABLES)
def test_refnet_and_the_builtin_pass(name: str) -> None:
    builtin = getattr(F, name) if name in DROPOUTS else TABLES[name].builtin
    for candidate in (None, builtin):
        Report(verify(name, candidate, seeds=2)).raise_if_failed()


def bernoulli(input: Tensor, q: float) -> Tensor:
    return torch.rand(input.shape, device=input.device) < q


def dropout(
    mask: Op = bernoulli,
    scale: Op = lambda p: 1 / (1 - p),
    times: Op = torch.mul,
    ends: bool = True,
    evaluation: Op = lambda input, p: input,
) -> Op:
    """A dropout of which a part can be made wrong."""

    def candidate(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        if not training:
            return evaluation(input, p)
        if ends and p in (0, 1):
            factor = torch.full_like(input, 1 - p)
        else:
            kept = mask(input, 1 - p)
            factor = kept.to(input.dtype) * (scale(p) if p < 1 else 1)
        return input.mul_(factor) if inplace else times(input, factor)

    return candidate


def per_channel(input: Tensor, q: float) -> Tensor:
    batch = 2 if input.dim() in (3, 4, 5) and len(input) != 300 else 1
    shape = input.shape[:batch] + (1,) * (input.dim() - batch)
    return (torch.rand(shape) < q).expand(input.shape)


@pytest.mark.parametrize("name", DROPOUTS)
def test_a_rewrite_passes(name: str) -> None:
    candidate = dropout(bernoulli if name == "dropout" else per_channel)
    Report(verify(name, candidate, seeds=3)).raise_if_failed()


class FreshMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return input * factor

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grads[0] * factor.flatten()[torch.randperm(factor.numel())].view_as(factor), None


class Unscaled(FreshMask):
    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * (ctx.saved_tensors[0] != 0), None


def same_for_all(dim: int) -> Op:
    return lambda input, q: bernoulli(
        input.narrow(dim, 0, 1) if input.dim() > dim else input, q
    ).expand_as(input)


def every_time(input: Tensor, q: float) -> Tensor:
    return torch.rand(input.shape, generator=torch.Generator().manual_seed(7)) < q


def by_numpy(input: Tensor, q: float) -> Tensor:
    return torch.from_numpy(np.random.rand(*input.shape)) < q


def exact_number(input: Tensor, q: float) -> Tensor:
    order = torch.randperm(input.numel()).view(input.shape)
    return order < round(q * input.numel())


def twice_in_a_row(input: Tensor, q: float) -> Tensor:
    return (torch.rand(input.shape)[..., ::2] < q).repeat_interleave(2, -1)


def half_twice(input: Tensor, q: float) -> Tensor:
    half = torch.rand(-(-input.numel() // 2)) < q
    return torch.cat([half, half])[: input.numel()].view(input.shape)


def of_period(period: int) -> Op:
    def mask(input: Tensor, q: float) -> Tensor:
        whole = torch.rand(min(period, input.numel())) < q
        return whole[torch.arange(input.numel()) % period].view(input.shape)

    return mask


class Shifted:
    """Every mask is the one before it, seven places on."""

    def __init__(self) -> None:
        self.last: Tensor | None = None

    def __call__(self, input: Tensor, q: float) -> Tensor:
        if self.last is None or self.last.shape != input.shape:
            self.last = torch.rand(input.shape) < q
        self.last = self.last.flatten().roll(7).view(input.shape)
        return self.last


def where(input: Tensor, factor: Tensor) -> Tensor:
    return torch.where(factor == 0, torch.zeros_like(input), input * factor)


def draw_first(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """The builtin's results, and random numbers also where none are needed."""
    torch.rand(1)
    return F.dropout(input, p, training, inplace)


WRONG: dict[str, tuple[Op, set[str]]] = {
    "p for 1 − p": (
        dropout(lambda x, q: bernoulli(x, 1 - q), lambda p: 1 / p), {"kept values", "keep rate"}
    ),
    "no scaling": (dropout(scale=lambda p: 1), {"kept values", "grad input"}),
    "scaling off by a millionth": (dropout(scale=lambda p: (1 + 1e-6) / (1 - p)), {"kept values"}),
    "scaled in evaluation": (dropout(evaluation=lambda x, p: x * (1 - p)), {"evaluation: values"}),
    "drops in evaluation": (dropout(evaluation=lambda x, p: F.dropout(x, p)),
                            {"evaluation: values", "evaluation: random state"}),
    "another mask in the backward": (dropout(times=FreshMask.apply), {"grad input"}),
    "no scaling in the backward": (dropout(times=Unscaled.apply), {"grad input"}),
    "where for multiply": (dropout(times=where), {"∞"}),
    "draws at p = 0 and p = 1": (
        dropout(ends=False), {"p = 0: random state", "p = 1: random state"}
    ),
    "draws always": (draw_first, {"evaluation: random state"}),
    "rate off by a hundredth": (dropout(lambda x, q: bernoulli(x, 0.99 * q)), {"keep rate"}),
    "the same mask for all examples": (dropout(same_for_all(0)), {"neighbouring examples"}),
    "the same mask for all channels": (dropout(same_for_all(1)), {"neighbouring channels"}),
    "in twos": (dropout(twice_in_a_row), {"neighbouring positions"}),
    "the same mask every time": (
        dropout(every_time),
        {"successive calls", "other seed, other mask", "random state moves", "number kept"},
    ),
    "another generator": (dropout(by_numpy), {"same seed, same mask"}),
    "the second half is the first": (
        dropout(half_twice), {"at any distance", "at any distance, many"}
    ),
    "a period of 2^16": (dropout(of_period(2**16)), {"at any distance, many"}),
    "a mask shifted": (dropout(Shifted()), {"at any distance"}),
    "an exact number": (dropout(exact_number), {"number kept"}),
    "keeps all": (dropout(lambda x, q: torch.ones_like(x)), {"keep rate"}),
    "keeps nothing": (dropout(lambda x, q: torch.zeros_like(x)), {"keep rate"}),
    "never in place": (lambda x, p=0.5, training=True, inplace=False: F.dropout(x, p, training),
                       {"in place"}),
    "a tuple": (lambda *args, **options: (F.dropout(*args, **options),), {"values"}),
    "a crash": (lambda *args, **options: 1 / 0, {"values", "rate", "independent", "in place"}),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_dropouts_fail(wrong: str) -> None:
    candidate, quantities = WRONG[wrong]
    failed = {row.quantity for row in Report(verify("dropout", candidate)).failures}
    assert quantities <= failed


@pytest.mark.parametrize("wrong", ["where for multiply", "draws always", "rate off by a hundredth",
                                   "a period of 2^16"])  # fmt: skip
def test_little_else_is_red(wrong: str) -> None:
    candidate, quantities = WRONG[wrong]
    failed = {row.quantity for row in Report(verify("dropout", candidate)).failures}
    assert failed <= quantities | {"p = 0: random state", "p = 1: random state"}


@pytest.mark.parametrize("name", DROPOUTS[1:])
def test_elements_for_channels_fail(name: str) -> None:
    failed = {row.quantity for row in Report(verify(name, F.dropout)).failures}
    assert "whole channels" in failed


def test_an_unbatched_input_has_channels_too() -> None:
    def candidate(input: Tensor, *args: Any, **options: Any) -> Tensor:
        return (F.dropout1d if input.dim() == 3 else F.dropout)(input, *args, **options)

    failed = {row.quantity for row in Report(verify("dropout1d", candidate)).failures}
    assert failed == {"whole channels, no batch"}


def test_a_layer_that_draws_fails() -> None:
    def candidate(input: Tensor) -> Tensor:
        torch.rand(1)
        return F.tanh(input)

    (row,) = verify("tanh", candidate)
    assert (row.passed, row.quantity) == (False, "random state")
    (row,) = verify("tanh", lambda input: np.random.rand() * 0 + F.tanh(input))
    assert not row.passed
    (row,) = verify("tanh", lambda input: 1 / 0)
    assert row.note == "ZeroDivisionError: division by zero"


def test_a_candidate_that_hangs_is_a_row() -> None:
    def candidate(input: Tensor, *args: Any, **options: Any) -> Tensor:
        while True:
            pass

    lists = list(randomness_rows(TABLES["dropout"], candidate, seeds=1, time_limit=0.05))
    assert all("more than 0.05 s" in rows[-1].note for rows in lists)


def test_the_random_state_is_put_back() -> None:
    before = torch.get_rng_state()
    verify("dropout", F.dropout)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_the_bound_is_chernoffs(q: float) -> None:
    """The exact tails of the binomial distribution beyond the limit are below the probability."""
    n = 400
    log_choose = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)
    ]
    mass = [
        math.exp(c + k * math.log(q) + (n - k) * math.log(1 - q)) for k, c in enumerate(log_choose)
    ]
    assert sum(mass) == pytest.approx(1)
    beyond = sum(m for k, m in enumerate(mass) if divergence(k, n, q) > LIMIT)
    assert 0 < beyond < 1e-12


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_independent_bits_stay_well_below_the_bound_of_their_correlation(q: float) -> None:
    generator = torch.Generator().manual_seed(0)
    used = [correlated(torch.rand(5000, generator=generator) < q, q)[0] for _ in range(100)]
    assert 0.2 < max(used) < 0.8


# A dropout without a mask argument in the table of values


@pytest.mark.parametrize("name", DROPOUTS)
def test_without_a_mask_the_builtin_passes_the_table_of_values(name: str) -> None:
    collect(op_rows(TABLES[name], getattr(F, name), seeds=2)).raise_if_failed()


def test_without_a_mask_a_rewrite_passes_the_table_of_values() -> None:
    def divided(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0:
            return input if inplace else input.clone()
        output = input * (torch.rand(input.shape) >= p) / (1 - p or 1)
        return input.copy_(output) if inplace else output

    collect(op_rows(TABLES["dropout"], divided, seeds=2)).raise_if_failed()


@pytest.mark.parametrize(
    "wrong", ["no scaling", "scaling off by a millionth", "where for multiply", "another generator",
              "another mask in the backward", "scaled in evaluation", "never in place"],
)  # fmt: skip
def test_without_a_mask_wrong_dropouts_fail_the_table_of_values(wrong: str) -> None:
    assert not collect(op_rows(TABLES["dropout"], WRONG[wrong][0], seeds=1)).passed
