"""False alarms: rewrites are right, a wrong one is flagged, and a run that was stopped goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from verification.false_alarms import command as false_alarms
from verification.false_alarms import tallies
from verification.false_alarms.rewrites import rewrites
from verification.false_alarms.right_candidates import Right, right_candidates, subjects
from verification.false_alarms.tallies import CHUNK, ask, chunks, measure

REWRITES = rewrites()
EVERY = [right for right in right_candidates(subjects()) if right.every == 1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFNET_CACHE", str(tmp_path))
    return tmp_path


def test_three_rewrites_of_everything() -> None:
    assert REWRITES.keys() == set(subjects()) - {"BatchNorm"}  # a module; its op has them
    assert min(map(len, REWRITES.values())) >= 3


def test_rewrites_don_t_look_at_refnet() -> None:
    for path in Path(rewrites.__globals__["__file__"]).parent.glob("*.py"):
        assert "import refnet" not in path.read_text(encoding="utf-8")
        assert "from refnet" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("right", EVERY, ids=lambda right: f"{right.table.name} {right.name}")
def test_what_is_right_passes(right: Right) -> None:
    tally = ask(right, range(1000, 1003))  # seeds that the command doesn't have
    assert [(row.case, row.quantity, row.dtype, row.note) for row in tally.alarms] == []


def test_torch_is_there_in_all_its_ways() -> None:
    names = {right.name for right in right_candidates(["SGD", "batch_norm"])}
    ways = {"loop", "foreach", "fused", "compiled"}
    assert names >= {"refnet", "torch", *(f"torch {way}" for way in ways)}


def test_a_compiled_op_passes() -> None:
    (right,) = (right for right in right_candidates(["tanh"]) if right.name == "torch compiled")
    tally = ask(right, range(1))
    assert (tally.seeds, tally.alarms) == (1, [])


def a_little_more(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **options: function(*args, **options) * (1 + 1e-4)


@pytest.mark.parametrize("name", [name for name in REWRITES if name[0].islower()])
def test_a_wrong_rewrite_is_flagged(name: str) -> None:
    words, function = next(iter(REWRITES[name].items()))
    (right,) = (r for r in right_candidates([name]) if r.name == f"rewrite: {words}")
    assert ask(replace(right, function=a_little_more(function)), range(3)).alarms


@pytest.mark.parametrize("name", [name for name in REWRITES if name[0].isupper()])
def test_a_wrong_optimizer_is_flagged(name: str) -> None:
    right = next(r for r in right_candidates([name]) if r.name.startswith("rewrite"))

    def wrong(params: Any, **options: Any) -> Any:
        return right.function(params, **{**options, "lr": float(options["lr"]) * 1.01})

    assert ask(replace(right, function=wrong), range(3)).alarms


def test_chunks_hold_every_seed_once() -> None:
    todo = [task for task in chunks(["relu"], 50) if task[1] == "refnet"]
    assert [seed for _, _, first, end in todo for seed in range(first, end)] == list(range(50))
    compiled = [task[2:] for task in chunks(["relu"], 200) if task[1] == "torch compiled"]
    assert [range(*task)[0] for task in compiled] == [0, 40, 80, 120, 160]


def test_a_run_that_was_stopped_goes_on(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    asked: list[int] = []
    stop = 3

    def counted(right: Right, seeds: range) -> tallies.Tally:
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(seeds[0])
        return tallies.Tally(right.table.name, right.name, len(seeds), 2 * len(seeds))

    monkeypatch.setattr(tallies, "ask", counted)
    with pytest.raises(KeyboardInterrupt):
        measure(["relu"], 2 * CHUNK)
    assert len(list(cache.rglob("*.json"))) == 3
    stop = -1
    found = measure(["relu"], 2 * CHUNK)
    assert len(asked) == len(chunks(["relu"], 2 * CHUNK))
    assert found[0].seeds == 2 * CHUNK
    assert measure(["relu"], 2 * CHUNK) == found
    assert len(asked) == len(chunks(["relu"], 2 * CHUNK))
    measure(["relu"], 2 * CHUNK, fresh=True)
    assert len(asked) == 2 * len(chunks(["relu"], 2 * CHUNK))


def test_without_a_cache_it_works(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("REFNET_CACHE", str(cache / "file"))  # no folder can be made there
    found = measure(["tanh"], seeds=1, jobs=1)
    assert {tally.seeds for tally in found} == {1}


def test_a_damaged_file_is_done_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_refnet(monkeypatch)
    expected = measure(["relu"], 2)
    (file,) = cache.rglob("*.json")
    file.write_text(file.read_text()[:20])
    found = measure(["relu"], 2)
    assert (found[0].seeds, found[0].rows) == (expected[0].seeds, expected[0].rows)


def only_refnet(monkeypatch: pytest.MonkeyPatch, function: Any = None) -> None:
    """Leave of the implementations refnet's alone, or another function in its place."""

    def first(chosen: Any) -> list[Right]:
        found = [right for right in right_candidates(chosen) if right.name == "refnet"]
        return [replace(right, function=function or right.function) for right in found]

    monkeypatch.setattr(tallies, "right_candidates", first)


def test_the_command_prints_the_rate_and_exits_with_0(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_refnet(monkeypatch)
    file = tmp_path / "out" / "alarms.json"
    words = ["relu", "SGD", "--seeds", "3", "--jobs", "1", "--json", str(file)]
    assert false_alarms.main(words) == 0
    assert "0 false alarms of " in capsys.readouterr().out
    data = json.loads(file.read_text())
    assert data["passed"] is True
    assert [found["seeds"] for found in data["implementations"]] == [3, 3]


def test_the_command_names_alarms_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_refnet(monkeypatch, lambda input: torch.tanh(input) * math.nan)
    file = tmp_path / "alarms.json"
    assert false_alarms.main(["tanh", "--seeds", "1", "--jobs", "1", "--json", str(file)]) == 1
    out = capsys.readouterr().out
    assert "another function" in out
    assert '--values "dims=' in out
    assert json.loads(file.read_text())["passed"] is False


@pytest.mark.parametrize("words", [["nonsense"], ["relu", "--seeds", "0"], ["--jobs", "0"]])
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert false_alarms.main(words) == 2
    assert "there are batch_norm, " in capsys.readouterr().err


def test_two_processes(cache: Path) -> None:
    """What a worker returns is what this process finds, and is kept."""
    found = {t.candidate: t for t in measure(["BatchNorm"], 1, jobs=2)}
    assert found["refnet"].seeds == 1
    assert not any(tally.alarms for tally in found.values())
    assert len(list(cache.rglob("*.json"))) == len(found)
