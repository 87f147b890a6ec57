"""Random cases: possible, broad, the same from the same seed or line, and the builtin passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies

from verification.cases import op_tables
from verification.cases.optimizers import optimizer_tables
from verification.cases.pairs import combinations
from verification.cases.random_cases import (
    Table,
    as_text,
    case_from_values,
    case_of,
    random_case,
    rows_of,
    space_of,
    values_strategy,
)

OPS = op_tables()
TABLES: dict[str, Table] = {**OPS, **optimizer_tables()}


@pytest.mark.parametrize("name", TABLES)
def test_a_seed_is_a_case_that_is_possible(name: str) -> None:
    table = TABLES[name]
    cases = [random_case(table, seed) for seed in range(30)]
    assert [case.values for case in cases] == [random_case(table, s).values for s in range(30)]
    assert len({case.name for case in cases}) > 20
    assert not any(space_of(table).reason(case.values) for case in cases)


@pytest.mark.parametrize("name", TABLES)
def test_every_value_occurs(name: str) -> None:
    space = space_of(TABLES[name])
    cases = [random_case(TABLES[name], seed).values for seed in range(200)]
    for option, words in space.values.items():
        assert {values[option] for values in cases} == set(words), option


@pytest.mark.parametrize("name", TABLES)
def test_random_cases_have_all_options_of_the_pairs(name: str) -> None:
    table = TABLES[name]
    options: Any = getattr(table, "options", None) or getattr(table, "pairs", None)
    if options is not None:
        for option in options.values.keys() - {"dtype"}:
            assert set(space_of(table).values[option]) >= set(options.values[option])


@pytest.mark.parametrize("name", OPS)
def test_a_case_is_what_its_values_say(name: str) -> None:
    for seed in range(30):
        case = random_case(OPS[name], seed)
        input = case.draw(np.random.default_rng(0))["input"]  # type: ignore[union-attr]
        values = case.values
        dims = int(values["dims"])
        assert input.ndim == dims
        if dims > 1:
            assert input.shape[0] == int(values["n"])
        if input.size > 50:
            expected = float(values["scale"]), float(values.get("offset", 0))
            assert input.std() == pytest.approx(expected[0], rel=0.5)
            assert input.mean() == pytest.approx(expected[1], abs=expected[0])


@pytest.mark.parametrize("name", TABLES)
def test_pairs_keep_their_sizes(name: str) -> None:
    """Cases without sizes are those that the coverage of pairs has always had."""
    table = TABLES[name]
    options: Any = getattr(table, "options", None) or getattr(table, "pairs", None)
    make: Any = table.make
    if options is not None:
        made = [make(values).name for values in combinations(options)]
        assert set(made) <= {case.name for case in table.cases}


def test_a_line_gives_the_same_numbers() -> None:
    table = OPS["linear"]
    case = random_case(table, 5)
    again = case_from_values(table, case.name)
    assert again.values == case.values
    draws = [c.draw(np.random.default_rng(1)) for c in (case, again)]  # type: ignore[union-attr]
    np.testing.assert_array_equal(draws[0]["input"], draws[1]["input"])


@pytest.mark.parametrize("name", TABLES)
def test_lines_are_read_back(name: str) -> None:
    for seed in range(10):
        case = random_case(TABLES[name], seed)
        again = case_from_values(TABLES[name], as_text(case.values))
        assert (again.name, again.values) == (case.name, case.values)


def test_what_a_line_leaves_out_is_simple() -> None:
    case = case_from_values(OPS["batch_norm"], "n=7 training=False")
    assert case.values["n"] == "7"
    assert case.values["training"] == "False"
    assert case.values["channels"] == "1"
    adam = case_from_values(TABLES["Adam"], "steps=3 'betas=(0.5, 0.9)'")
    assert adam.values["steps"] == "3"
    assert getattr(adam, "arguments", {})["betas"] == (0.5, 0.9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m=2", "values: batch_norm has no 'm'; it has training, "),
        ("n", "values: n=''; batch_norm has '2', '1'"),
        ("n=two", "values: n='two'; batch_norm has '2', '1'"),
        ("training=False statistics=False", "nothing to evaluate by"),
        ("dims=2 n=1", "one value per channel"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"values: .*{message.removeprefix('values: ')}"):
        case_from_values(OPS["batch_norm"], text)


@pytest.mark.parametrize("name", ["batch_norm", "cross_entropy", "SGD"])
def test_the_strategy_gives_possible_cases(name: str) -> None:
    table = TABLES[name]

    @settings(
        max_examples=10, database=None, derandomize=True, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(values_strategy(table), strategies.sampled_from([torch.float64, torch.float32]))
    def builtin_passes(values: dict[str, str], dtype: torch.dtype) -> None:
        rows = rows_of(table, case_of(table, values), table.builtin, dtype, seeds=2)
        assert [row for row in rows if not row.passed and row.verdict != "inconclusive"] == []

    builtin_passes()
