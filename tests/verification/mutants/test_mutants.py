"""Every planted bug and trivial candidate turns its checks red, and nothing stays behind."""

from __future__ import annotations

import inspect
from collections import Counter

import pytest
import torch

from refnet import optim
from refnet.functional import relu
from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.mutants import Mutant, _module, changed, mutants, planted
from verification.mutants.bugs import EXPLAINED, PLANTED, RIGHT, TRIVIAL, Bug, bugs, parts_of
from verification.optimizers.schedules import schedule_tables
from verification.report import Row

WRONG = [bug for bug in bugs() if bug.kind != RIGHT and (bug.subject, bug.bug) not in EXPLAINED]
# A bug in a loop takes seconds to compile: here every fourth, `make mutants` plants them all.
LOOPS = [bug for bug in WRONG if bug.kind == PLANTED and not bug.whole]
SAMPLE = [bug for bug in WRONG if bug not in LOOPS or bug in LOOPS[::4]]


def first_failure(bug: Bug) -> Row | None:
    """Run the checks until a row fails: the quick ones, then the full ones."""
    with bug.plant() as candidate:
        for profile in ("quick", "full"):
            for part in parts_of(bug.subject, candidate, profile):
                for rows in part.run():
                    for row in rows:
                        if not row.passed:
                            return row
    return None


@pytest.mark.parametrize("bug", SAMPLE, ids=lambda b: f"{b.subject}: {b.bug}")
@pytest.mark.filterwarnings("ignore")
def test_the_checks_notice(bug: Bug) -> None:
    assert first_failure(bug) is not None


def test_every_text_stands_once() -> None:
    counts = {m: inspect.getsource(_module(m)).count(m.old) for m in mutants()}
    assert [m for m, count in counts.items() if count != 1] == []


def test_every_op_and_optimizer_has_eight_bugs() -> None:
    planted_in = [mutant.subject for mutant in mutants()]
    few = {s: planted_in.count(s) for s in (*op_tables(), *optimizer_tables())}
    # an activation is two lines: five bugs are all there are
    least = {s: 5 if s in ("relu", "leaky_relu", "tanh", "sigmoid") else 8 for s in few}
    assert {s: n for s, n in few.items() if n < least[s]} == {}


def test_schedules_and_training_have_their_bugs() -> None:
    planted_in = Counter(bug.subject for bug in bugs() if bug.kind == PLANTED)
    assert all(planted_in[schedule] >= 5 for schedule in schedule_tables())
    assert planted_in["training run"] >= 8


def test_every_op_optimizer_and_schedule_has_trivial_candidates() -> None:
    trivial = Counter(bug.subject for bug in bugs() if bug.kind == TRIVIAL)
    tables = (*op_tables(), *optimizer_tables(), *schedule_tables())
    assert all(trivial[subject] >= 8 for subject in tables)


def test_bugs_have_names_of_their_own() -> None:
    names = Counter((bug.subject, bug.bug) for bug in bugs())
    assert [name for name, count in names.items() if count > 1] == []
    assert set(EXPLAINED) <= set(names)


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


def test_a_changed_module_leaves_the_right_one_alone() -> None:
    bug = next(m for m in mutants() if m.bug == "absolute value")
    assert changed(bug).relu(torch.tensor([-2.0])).item() == 2
    assert relu(torch.tensor([-2.0])).item() == 0


def test_a_bug_in_the_equations_runs_where_a_compiled_loop_would() -> None:
    bug = next(m for m in mutants() if (m.subject, m.bug) == ("Adam", "t off by one"))

    def step() -> float:
        weight = torch.nn.Parameter(torch.ones(1))
        weight.grad = torch.ones(1)
        optim.Adam([weight], lr=0.1).step()
        return weight.item()

    right = step()
    with planted(bug):
        assert abs(step() - right) > 0.01
    assert step() == right
