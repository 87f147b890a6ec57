"""What is written: where it can't be, said before the work; numbers that JSON lacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules import (
    accuracy,
    cli,
    data_samples,
    experiments,
    learning_curves,
    numerical_gradients,
)
from lightning_modules.comparison import __main__ as comparison
from lightning_modules.gradient_flow import __main__ as gradient_flow
from lightning_modules.tuning import __main__ as tuning

# command, its arguments, the option of a folder
COMMANDS: dict[str, tuple[Callable[..., Any], list[str], str]] = {
    "accuracy": (accuracy.main, [], "--out"),
    "comparison": (comparison.main, [], "--out"),
    "comparison, runs": (comparison.main, [], "--runs"),
    "comparison, tune": (comparison.main, ["--tune"], "--runs"),
    "data_samples": (data_samples.main, [], "--out"),
    "fit": (cli.main, ["fit", "--config", "mlp"], "--trainer.default_root_dir"),
    "gradient_flow": (gradient_flow.main, [], "--out"),
    "learning_curves": (learning_curves.main, [], "--out"),
    "numerical_gradients": (numerical_gradients.main, [], "--out"),
    "tuning": (tuning.main, [], "--out"),
}
PLACES = {
    "a file": "taken",
    "below a file": "taken/new",
    "below a link to nothing": "dangling/new",
    "no folder for files": "/proc/new",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_to_is_refused_before_the_work(
    name: str, place: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main, args, option = COMMANDS[name]
    (here / "taken").write_text("mine")
    (here / "dangling").symlink_to("nowhere")
    path = PLACES[place]
    if name in ("accuracy", "comparison, runs", "comparison, tune"):
        path += "/file.json"
    with pytest.raises(SystemExit) as stopped:
        main([*args, option, path])
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert f"error: {option} {PLACES[place]}" in said.err
    assert "is no folder that can be written to" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
    assert (here / "taken").read_text() == "mine"
    assert sorted(p.name for p in here.iterdir()) == ["dangling", "taken"]


def test_a_file_of_runs_is_no_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        accuracy.main(["--out", "."])
    assert stopped.value.code == 2
    assert "--out: . is not a file that this command wrote" in capsys.readouterr().err


def test_runs_that_diverged_are_strict_json(tmp_path: Path) -> None:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    path = tmp_path / "runs.json"
    run = {"loss": [1.0, math.inf, -math.inf, math.nan], "of": "Infinity and NaN", "none": None}
    experiments.save(path, {"a": run})
    experiments.save(path, {"b": {"loss": 2.0}})  # reads and writes the first one again
    json.loads(path.read_text(), parse_constant=refuse)
    found = experiments.load(path)
    assert found["b"] == {"loss": 2.0}
    assert found["a"]["loss"][:3] == run["loss"][:3]  # type: ignore[index]
    assert math.isnan(found["a"]["loss"][3])
    assert (found["a"]["of"], found["a"]["none"]) == (run["of"], None)
