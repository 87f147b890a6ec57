from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lightning_modules import accuracy

SHORT = ["--", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]


def test_runs_are_kept_and_repeated_only_when_fresh(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["--config", "mlp", "--seeds", "0", "1", "--implementation", "refnet"]
    assert accuracy.main([*wanted, *SHORT]) == 0
    said = capsys.readouterr()
    assert said.err.count("mlp refnet seed") == 2
    assert "median" in said.out
    found = json.loads((here / "results" / "accuracy.json").read_text())
    assert set(found["medians"]) == {"mlp refnet"}
    assert found["versions"]["torch"]
    runs = list(found["runs"].values())
    assert [run["seed"] for run in runs] == [0, 1]
    assert all(run["test_total"] == 270 for run in runs)
    assert not list(here.glob("runs*"))

    def never(*_: Any) -> dict[str, Any]:
        raise RuntimeError("ran again")

    monkeypatch.setattr(accuracy, "one_run", never)
    assert accuracy.main([*wanted, *SHORT]) == 0
    assert json.loads((here / "results" / "accuracy.json").read_text()) == found
    with pytest.raises(RuntimeError, match="ran again"):
        accuracy.main([*wanted, "--fresh", *SHORT])
    with pytest.raises(RuntimeError, match="ran again"):  # other options are other runs
        accuracy.main([*wanted, *SHORT[:-1], "3"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--seeds", "-1"], "--seeds must not be negative, got -1"),
        (["--out", "damaged.json"], "--out: damaged.json is not a file that this command wrote"),
    ],
)
def test_mistakes(
    args: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "damaged.json").write_text("{")
    with pytest.raises(SystemExit) as stopped:
        accuracy.main(args)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
