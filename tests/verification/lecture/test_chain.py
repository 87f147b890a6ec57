from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refnet import chain
from verification.lecture.chain import ACTIVATIONS, chain_rows
from verification.mutants import Mutant, planted
from verification.mutants.chain import ROWS
from verification.oracles import exact
from verification.oracles.chain import chain as oracle


def test_by_hand_and_through_the_layers_as_the_oracle() -> None:
    rows = [row for rows in chain_rows() for row in rows]
    assert [row for row in rows if not row.passed] == []
    assert max(row.used for row in rows) < 0.1  # of 1e-12
    assert len(rows) == 6 * (len(ACTIVATIONS) + 1) * 4 * 2 * 2


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_planted_bugs_are_caught(row: Any) -> None:
    with planted(Mutant(*row)):
        assert any(not row.passed for rows in chain_rows(quick=True) for row in rows)


def test_a_candidate_that_crashes_or_forgets_a_parameter_fails() -> None:
    def crash(*args: Any) -> Any:
        raise RuntimeError("no")

    def forgets(*args: Any) -> Any:
        cost, gradients = chain.gradients(*args)
        del gradients["logits.bias"]
        return cost, gradients

    for candidate, note in ((crash, "RuntimeError: no"), (forgets, "KeyError: 'grad logits.bias'")):
        rows = next(chain_rows(candidate, quick=True))
        failed = [row for row in rows if not row.passed]
        assert len(failed) == len(rows) / 3
        assert {(row.quantity, row.note) for row in failed} == {("by hand", note)}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_oracle_agrees_with_differences(activation: str) -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "linear1.weight": (4, 3), "norm1.weight": (4,), "norm1.bias": (4,),
        "linear2.weight": (5, 4), "norm2.weight": (5,), "norm2.bias": (5,),
        "logits.weight": (3, 5), "logits.bias": (3,),
    }  # fmt: skip
    parameters = {name: exact(rng.normal(size=shape)) for name, shape in shapes.items()}
    x, y, step = exact(rng.normal(size=(3, 8))), rng.integers(3, size=8), np.longdouble(1e-6)
    right = oracle(parameters, x, y, [activation] * 2).values
    for name, values in parameters.items():
        for place in np.ndindex(values.shape):
            costs = []
            for sign in (1, -1):
                moved = {n: v.copy() for n, v in parameters.items()}
                moved[name][place] += sign * step
                costs.append(oracle(moved, x, y, [activation] * 2).values["cost"])
            slope = (costs[0] - costs[1]) / (2 * step)
            assert abs(slope - right[f"grad {name}"][place]) < 1e-9, name
