"""Every planted bug turns its part of the suite red, and nothing stays behind."""

from __future__ import annotations

import pytest
import torch

from refnet.functional import relu
from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.mutants import Mutant, mutants, planted
from verification.ops import op_rows
from verification.optimizers import optimizer_rows
from verification.report import Row

DTYPES = (torch.float64, torch.float32)


def first_failure(subject: str) -> Row | None:
    """Run a part of the suite until a row fails."""
    optimizers = optimizer_tables()
    for dtype in DTYPES:
        if subject in optimizers:
            lists = optimizer_rows(optimizers[subject], dtypes=[dtype], seeds=1)
        else:
            lists = op_rows(op_tables()[subject], dtypes=[dtype], seeds=1)
        for rows in lists:
            for row in rows:
                if not row.passed:
                    return row
    return None


@pytest.mark.parametrize("mutant", mutants(), ids=lambda m: f"{m.subject}: {m.bug}")
@pytest.mark.filterwarnings("ignore")
def test_the_suite_notices(mutant: Mutant) -> None:
    with planted(mutant):
        assert first_failure(mutant.subject) is not None


def test_every_op_and_optimizer_has_eight_bugs() -> None:
    planted_in = [mutant.subject for mutant in mutants()]
    few = {s: planted_in.count(s) for s in (*op_tables(), *optimizer_tables())}
    # an activation is two lines: five bugs are all there are
    least = {s: 5 if s in ("relu", "leaky_relu", "tanh", "sigmoid") else 8 for s in few}
    assert {s: n for s, n in few.items() if n < least[s]} == {}


def test_a_bug_is_gone_afterwards() -> None:
    bug = next(m for m in mutants() if m.bug == "absolute value")
    with planted(bug):
        assert relu(torch.tensor([-2.0])).item() == 2
    assert relu(torch.tensor([-2.0])).item() == 0


def test_a_bug_is_gone_after_an_error() -> None:
    bug = next(m for m in mutants() if m.bug == "absolute value")
    with pytest.raises(KeyError), planted(bug):
        raise KeyError
    assert relu(torch.tensor([-2.0])).item() == 0


def test_an_outdated_table_is_an_error() -> None:
    stale = Mutant("relu", "stale", "ops.activations.reference", "no such text", "")
    with pytest.raises(ValueError, match="stands 0 times"), planted(stale):
        pass
