"""The schedules of the learning rate: refnet's pass in every use, and wrong ones don't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from verification.optimizers.schedules import _PLAIN, USES, schedule_rows, schedule_tables
from verification.oracles import schedules
from verification.report import Row


def rows_of(name: str, candidate: Any = None) -> list[Row]:
    return [row for rows in schedule_rows(name, candidate) for row in rows]


@pytest.mark.parametrize("name", schedule_tables())
def test_refnets_pass_in_every_use(name: str) -> None:
    lists = list(schedule_rows(name))
    assert len(lists) == len(USES)
    assert all(row.passed and row.error < 1e-14 for rows in lists for row in rows)


@pytest.mark.parametrize("name", schedule_tables())
def test_torchs_own_pass(name: str) -> None:
    assert all(row.passed for row in rows_of(name, schedule_tables()[name].builtin))


def test_a_schedule_that_multiplies_is_another_one_in_a_chain() -> None:
    failing = {row.case for row in rows_of("ExponentialDecay", ExponentialLR) if not row.passed}
    assert "chained, gamma=0.95" in failing
    assert not any(case.startswith(_PLAIN) for case in failing)


def test_a_small_difference_shows_where_the_rate_is_small() -> None:
    def almost(optimizer: Any, gamma: float, last_epoch: int = -1) -> Any:
        return LambdaLR(optimizer, lambda epoch: gamma**epoch + 1e-15, last_epoch)

    failing = {row.case for row in rows_of("ExponentialDecay", almost) if not row.passed}
    assert "by step, gamma=0.5" in failing
    assert "by step, gamma=1" not in failing


def test_a_candidate_that_crashes_gets_rows() -> None:
    def crashing(*args: Any, **options: Any) -> Any:
        raise ArithmeticError("no rate")

    rows = rows_of("InverseSqrtDecay", crashing)
    assert rows
    assert {(row.rule, row.verdict) for row in rows} == {("runs", "another function")}
    assert rows[0].note == "ArithmeticError: no rate"


def test_an_unknown_schedule() -> None:
    with pytest.raises(ValueError, match=r"name must be one of InverseTimeDecay, .* got 'Step'"):
        next(schedule_rows("Step"))


def test_the_oracles_first_epochs() -> None:
    np.testing.assert_array_equal(
        schedules.inverse_time(0.2, [0, 1], 1.0).astype(float), [0.2, 0.1]
    )
    np.testing.assert_array_equal(schedules.exponential(2.0, [0, 1], 0.5).astype(float), [2, 1])
    np.testing.assert_array_equal(schedules.inverse_sqrt(1.0, [0, 3]).astype(float), [1, 0.5])
