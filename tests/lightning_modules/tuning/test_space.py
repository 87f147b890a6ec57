"""What is searched, and that it is uniform on the scale that the lecture asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from scipy import stats

from lightning_modules.tuning.space import (
    configured,
    find_space,
    load_space,
    space_from,
    suggest,
)
from refnet.averages import ExponentialAverage

optuna.logging.set_verbosity(optuna.logging.WARNING)
DRAWS = 500


def test_the_lectures_windows() -> None:
    def window(beta: float) -> float:
        return ExponentialAverage(beta).window

    assert window(0.9005) - window(0.9000) == pytest.approx(0.05, abs=0.001)
    assert window(0.9995) - window(0.9990) == pytest.approx(1000)
    beta = next(row for row in load_space(find_space(None, "mlp")) if row.name == "1 - beta1")
    assert (beta.low, beta.high, beta.scale) == (1e-3, 1e-1, "log")  # 10^r, r in [-3, -1]
    assert beta.written(1e-1) == pytest.approx(0.9)
    assert beta.written(1e-3) == pytest.approx(0.999)


@pytest.fixture(scope="module")
def draws() -> dict[str, np.ndarray[Any, Any]]:
    """What the search itself draws from the shipped space, by name."""
    from lightning_modules.tuning.search import CoarseToFine

    study = optuna.create_study(sampler=CoarseToFine(seed=1, rounds=1, size=DRAWS, best=2))
    space = load_space(find_space(None, "mlp"))
    rows = [suggest(space, study.ask()) for _ in range(DRAWS)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("learning rate", 1e-4, 1e-1), ("1 - beta1", 1e-3, 1e-1), ("weight decay", 1e-6, 1e-2)],
)
def test_r_is_uniform_between_the_logarithms(
    draws: dict[str, Any], name: str, low: float, high: float
) -> None:
    m, n = np.log10(low), np.log10(high)
    r = np.log10(draws[name])
    assert stats.kstest(r, "uniform", (m, n - m)).pvalue > 0.05
    # The test tells scales apart: on a linear one 90 % would lie in the last decade.
    assert stats.kstest(draws[name], "uniform", (low, high - low)).pvalue < 1e-50


@pytest.mark.parametrize(("name", "low", "high"), [("keep_prob", 0.5, 1), ("lr decay", 0.7, 1)])
def test_shares_are_uniform(draws: dict[str, Any], name: str, low: float, high: float) -> None:
    assert stats.kstest(draws[name], "uniform", (low, high - low)).pvalue > 0.05


@pytest.mark.parametrize(("name", "low", "high"), [("layers", 1, 3), ("units", 32, 512)])
def test_layers_and_units_are_uniform_whole_numbers(
    draws: dict[str, Any], name: str, low: int, high: int
) -> None:
    values = draws[name]
    assert values.dtype.kind == "i"
    assert (low, high) == (min(values), max(values)) or name == "units"
    bins = 3 if name == "layers" else 13  # 13 divides 481
    counts = np.histogram(values, bins=bins, range=(low - 0.5, high + 0.5))[0]
    assert stats.chisquare(counts).pvalue > 0.05


def test_hyperparameters_are_drawn_independently(draws: dict[str, Any]) -> None:
    numbers = np.array([draws[name] for name in sorted(draws)], dtype=float)
    correlations = stats.spearmanr(numbers.T).statistic - np.eye(len(numbers))
    assert np.abs(correlations).max() < 4.2 / DRAWS**0.5  # 36 pairs, each about N(0, 1/n)


def test_values_go_where_the_command_line_has_them() -> None:
    base = {
        "model": {"optimizer": {"class_path": "refnet.optim.Adam", "init_args": {"lr": 1.0}}},
        "data": {"batch_size": 64},
    }
    share = {"low": 0.1, "high": 0.9}
    space = space_from(
        {
            "α": {"key": "model.optimizer.lr", **share},
            "1 - β1": {"key": "model.optimizer.betas.0", **share, "complement": True},
            "1 - β2": {"key": "model.optimizer.betas.1", **share, "complement": True},
            "size": {"key": "data.batch_size", "choices": [1, 2]},
            "widths": {"key": "model.net.channels", "choices": [[4], [4, 8]]},
            "units": {"key": "model.net.hidden", "low": 1, "high": 9},
            "layers": {"repeats": "units", "low": 0, "high": 3},
        }
    )  # fmt: skip
    drawn = {"α": 0.2, "1 - β1": 0.25, "1 - β2": 0.5, "size": 2}
    config = configured(base, space, {**drawn, "widths": "[4, 8]", "units": 7, "layers": 3})
    arguments = {"lr": 0.2, "betas": [0.75, 0.5]}
    assert config["model"]["optimizer"]["init_args"] == arguments
    assert config["model"]["net"] == {"channels": [4, 8], "hidden": [7, 7, 7]}
    assert config["data"] == {"batch_size": 2}
    assert base["data"] == {"batch_size": 64}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"low": 1, "high": 2}, "needs a key"),
        ({"key": "a", "low": 2, "high": 1}, "low must be below high, got 2 and 1"),
        ({"key": "a", "low": 0, "high": 1, "scale": "log"}, "low must be above 0 on a log scale"),
        ({"key": "a", "low": 1, "high": 2, "scale": "ln"}, "scale must be linear or log"),
        ({"key": "a", "low": "1e-3", "high": 2}, "low must be a number"),
        ({"key": "a", "choices": 3}, "choices must be a list, got 3"),
        ({"key": "a", "choices": [3], "low": 1}, "choices go without"),
        ({"key": "a", "lo": 1}, r"takes choices.*; got \['lo'\]"),
        ({"repeats": "b", "low": 1, "high": 2}, "repeats 'b', which is none of"),
        ({"repeats": "b", "low": 0.5, "high": 2}, "whole numbers"),
        (3, "got 3"),
    ],
)
def test_mistakes_are_named(row: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"x: .*{message}"):
        space_from({"x": row})


def test_files_are_found_or_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="no search space 'mine': give a file, or one of conv, mlp"
    ):
        find_space(None, "configs/mine.yaml")
    path = tmp_path / "mine.yaml"
    path.write_text("a: {key: b, low: 2, high: 1}")
    with pytest.raises(ValueError, match=r"--space .*mine.yaml: a: low must be below high"):
        load_space(find_space(str(path), "mlp"))
    space = space_from({"x": {"key": "a.b.c", "low": 1, "high": 2}})
    with pytest.raises(ValueError, match=r"no place for a\.b\.c"):
        configured({"a": {"b": 3}}, space, {"x": 1})
