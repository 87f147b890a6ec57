"""Pairs of options: every pair that can be is in the tables, and the count notices one less."""

from __future__ import annotations

import pytest

from verification.cases import LAYOUTS, Case, OpTable, op_tables
from verification.cases.pairs import Options, combinations, coverage

TABLES = {name: table for name, table in op_tables().items() if table.options is not None}

# What the tables have to hold at the least.
REQUIRED: dict[str, dict[str, set[str]]] = {
    "BatchNorm": {
        "affine": {"True", "False"},
        "bias": {"True", "False"},
        "track_running_stats": {"True", "False"},
        "training": {"True", "False"},
        "momentum": {"0.1", "0.7", "0", "None"},
        "eps": {"1e-5", "1e-3"},
        "dims": {"2", "3", "4", "5"},
    },
    "dropout": {"p": {"0", "0.1", "0.5", "0.9", "1"}, "dims": {"1", "2", "3", "4", "5"}},
    "cross_entropy": {
        "reduction": {"mean", "sum", "none"},
        "label_smoothing": {"0", "0.1", "1"},
        "ignore_index": {"", "rows of -100", "ignored rows", "all rows ignored"},
        "weight": {"no weight", "weight", "weight with a zero"},
        "target": {"indices", "probabilities"},
        "dims": {"1", "2", "3", "4", "5"},
    },
    "softmax": {"dims": {"1", "2", "3", "4", "5"}},
    "linear": {"dims": {"1", "2", "3", "4", "5"}, "bias": {"True", "False"}},
    "relu": {"dims": {"1", "2", "3", "4", "5"}, "inplace": {"True", "False"}},
}


def held(table: OpTable, without: Case | None = None) -> list[dict[str, str]]:
    return [
        {**case.values, "dtype": dtype}
        for case in table.cases
        if case.values and case is not without
        for dtype in case.dtypes
    ]


@pytest.mark.parametrize("name", TABLES)
def test_every_pair_is_there(name: str) -> None:
    table = TABLES[name]
    assert table.options is not None
    found = coverage(table.options, held(table))
    assert found.missing == ()
    assert found.covered


@pytest.mark.parametrize("name", TABLES)
def test_layouts_and_dtypes_are_options_everywhere(name: str) -> None:
    options = TABLES[name].options
    assert options is not None
    assert set(options.values["layout"]) == set(LAYOUTS)
    assert set(options.values["dtype"]) == {"float64", "float32", "bfloat16", "float16"}


@pytest.mark.parametrize("name", REQUIRED)
def test_the_values_that_are_asked_for(name: str) -> None:
    options = TABLES[name].options
    assert options is not None
    for option, values in REQUIRED[name].items():
        assert set(options.values[option]) >= values


def test_a_case_less_is_a_pair_less() -> None:
    table = TABLES["cross_entropy"]
    assert table.options is not None
    counts = [
        len(coverage(table.options, held(table, without=case)).missing)
        for case in table.cases
        if case.values
    ]
    assert max(counts) > 0


def test_cases_do_what_their_values_say() -> None:
    for case in TABLES["cross_entropy"].cases:
        if case.values:
            assert case.options["reduction"] == case.values["reduction"]
            assert case.options["label_smoothing"] == float(case.values["label_smoothing"])
            assert case.layout == case.values["layout"]
    for case in TABLES["dropout"].cases:
        if case.values:
            assert case.options["p"] == float(case.values["p"])
            assert str(case.options["training"]) == case.values["training"]


THREE = Options({"a": ("1", "2"), "b": ("1", "2"), "c": ("1", "2")})


def test_missing_and_impossible_pairs_are_told_apart() -> None:
    some = Options(THREE.values, (("never", {"a": ["1"], "b": ["1"]}),))
    found = coverage(some, [{"a": "1", "b": "2", "c": "1"}])
    assert found.covered == ("a=1, b=2", "a=1, c=1", "b=2, c=1")
    assert len(found.missing) == 8
    assert found.impossible == {"a=1, b=1": "never"}


def test_a_pair_that_three_options_rule_out_is_impossible() -> None:
    nowhere = Options(
        THREE.values,
        (
            ("no", {"a": ["1"], "b": ["1"], "c": ["1"]}),
            ("neither", {"a": ["1"], "b": ["1"], "c": ["2"]}),
        ),
    )
    assert coverage(nowhere, []).impossible == {"a=1, b=1": "in no combination"}


def test_combinations_keep_to_what_is_possible_and_are_always_the_same() -> None:
    some = Options(THREE.values, (("never", {"a": ["1"], "b": ["1"]}),))
    rows = combinations(some)
    assert rows == combinations(some)
    assert not any(some.reason(row) for row in rows)
    assert coverage(some, rows).missing == ()
