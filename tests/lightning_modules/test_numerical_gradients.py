"""The command that shows the errors of difference quotients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from lightning_modules.numerical_gradients import main, measure


@pytest.mark.parametrize("function", ["cube", "exp", "sigmoid", "sin", "tanh"])
def test_golden_slopes(function: str) -> None:
    one, two = measure(function, "one-sided"), measure(function, "two-sided")
    assert one["slope"] == pytest.approx(1, abs=0.05)
    assert two["slope"] == pytest.approx(2, abs=0.05)
    assert two["best_eps"] > one["best_eps"]
    assert two["least_error"] < one["least_error"] / 10
    assert two["error_at_lectures_eps"] < one["error_at_lectures_eps"]
    for found in (one, two):
        assert found["slope_of_rounding"] == pytest.approx(-1, abs=0.2)


def test_table_picture_and_numbers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--function", "sigmoid", "exp", "--out", "found"]) == 0
    printed = capsys.readouterr().out
    assert "2.000" in printed
    assert "sigmoid" in printed
    found = json.loads((here / "found/numerical_gradients.json").read_text())
    assert len(found["runs"]) == 4
    assert len(found["eps"]) == len(found["runs"][0]["errors"]) == 57
    picture = imread(here / "found/numerical_gradients.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 50
