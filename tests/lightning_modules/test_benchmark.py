"""The benchmark: what is timed, what is refused, what is kept."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import refnet.functional
from lightning_modules.benchmark import __main__ as benchmark
from lightning_modules.benchmark import measured, predict, timing
from lightning_modules.benchmark.cases import OURS, cases
from lightning_modules.benchmark.results import Result, table
from verification.cases import op_tables

ONE = "relu 64×128"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no triton here"
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ROUNDS", (2, 2))
    monkeypatch.setattr(timing, "BLOCK", 1e-4)
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    measured.red.cache_clear()


def run(out: Path, *words: str) -> dict[str, object]:
    assert benchmark.main(["--seconds", "0.01", "--out", str(out), *words]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def test_every_op_and_optimizer_of_torch_is_timed() -> None:
    subjects = {case.subject for case in cases()}
    others = {"dropout1d", "dropout2d", "dropout3d"}  # dropout, with a mask per channel
    assert subjects >= op_tables().keys() - others - {"BatchNorm"}
    assert subjects >= {"SGD", "RMSprop", "Adam", "AdamW"}
    titles = [case.title for case in cases()]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("case", [c for c in cases() if c.elements < 2**20], ids=lambda c: c.title)
def test_both_parties_do_the_same(case) -> None:
    parties = case.make()
    ours, theirs = parties.pop(OURS), next(iter(parties.values()))
    if ours.forward is None or case.subject == "dropout":  # it draws
        assert ours.both() is None or len(ours.both()) == len(theirs.both())
        return
    torch.testing.assert_close(ours.forward(), theirs.forward())
    for mine, other in zip(ours.both(), theirs.both(), strict=True):
        assert mine.shape == other.shape
        assert mine.stride() == other.stride()


def test_a_case_has_figures_and_is_not_timed_again(tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "new" / "b.json"
    data = run(out, "--only", ONE)
    (result,) = data["cases"].values()
    assert (result["title"], result["best"], result["refused"]) == (ONE, "torch", "")
    assert result["ours"] > 0
    assert result["ratio"] == pytest.approx(data["geometric_mean"])
    assert result["kept"] == [0, 0]
    assert result["peak"][1] == 2 * 4 * 64 * 128  # the output and the gradient
    assert data["machine"]["torch"] == torch.__version__
    assert out.with_suffix(".png").stat().st_size > 5000
    assert ONE in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "result_of", None)
    assert run(out, "--only", ONE)["cases"] == data["cases"]


def test_an_interrupted_run_keeps_what_is_finished(tmp_path, monkeypatch) -> None:
    original = benchmark.result_of

    def interrupted(title, case, seconds, **options):
        if title != ONE:
            raise KeyboardInterrupt
        return original(title, case, seconds, **options)

    monkeypatch.setattr(benchmark, "result_of", interrupted)
    out = tmp_path / "b.json"
    with pytest.raises(KeyboardInterrupt):
        run(out, "--only", ONE, "tanh 64×128")
    assert [case["title"] for case in json.loads(out.read_text())["cases"].values()] == [ONE]


def test_what_is_wrong_gets_no_figure(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(refnet.functional, "relu", lambda input, inplace=False: input.abs())
    data = run(tmp_path / "b.json", "--only", ONE)
    (result,) = data["cases"].values()
    assert result["refused"].startswith("verification: ")
    assert result["ours"] is None
    assert math.isnan(data["geometric_mean"])


def test_figures_of_other_sources_are_not_mixed_in(tmp_path, monkeypatch) -> None:
    out = tmp_path / "b.json"
    run(out, "--only", ONE)
    monkeypatch.setattr(benchmark, "_sources", lambda: "others")
    monkeypatch.setattr(benchmark, "result_of", lambda title, *_, **__: Result(title, "relu"))
    (result,) = run(out, "--only", ONE)["cases"].values()
    assert result["ours"] is None


def test_training_steps(tmp_path) -> None:
    data = run(tmp_path / "b.json", "--only", "training steps MLP")
    (result,) = data["cases"].values()
    assert result["ratio"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nothing"], "--only: no case is like nothing"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--seconds", "nan"], "--seconds must be positive, got nan"),
    ],
)
def test_what_is_wrong_with_the_arguments(words, message, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([*words, "--out", str(tmp_path / "b.json")])
    assert message in capsys.readouterr().err


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path, capsys) -> None:
    out = tmp_path / "b.json"
    out.write_text("mine")
    with pytest.raises(SystemExit):
        run(out, "--only", ONE)
    assert out.read_text() == "mine"
    assert "is not a file that this command wrote" in capsys.readouterr().err


def test_parties_take_turns() -> None:
    calls: list[str] = []
    timing.measure({name: lambda name=name: calls.append(name) for name in "abc"}, 0.01)
    order = "".join(
        name for name, before in zip(calls, ["", *calls], strict=False) if name != before
    )
    assert order.endswith("abcbca")


def test_a_gpu_is_asked_for_where_there_is_one(capsys) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cuda"])
    assert "torch sees no CUDA device here; --predict needs none" in capsys.readouterr().err


def test_figures_of_a_device_have_columns(capsys) -> None:
    plain = Result("relu 64", "relu", ours=1e-3, ratio=2.0)
    timed = replace(plain, graph=1.5, host_ours=2e-5, host_builtin=3e-5, share=0.8)
    for results, columns in (([plain], 13), ([plain, timed], 16)):
        found = table(results)
        assert len(found.columns) == columns
        assert len(list(found.columns[-1].cells)) == len(results)
    assert list(found.columns[-1].cells)[1] == "80%"
    assert list(found.columns[-2].cells)[1] == "20.0 µs / 30.0 µs"


# What the equations ask for, in float32: reads and writes per element, both ways or in a step.
@needs_triton
def test_bytes_and_launches_are_counted_without_a_gpu(tmp_path) -> None:
    out = tmp_path / "b.json"
    only = ["softmax 1024×256", "cross_entropy 128×100", "dropout 64×128", "SGD 6*", "Adam 6*",
            "batch_norm 16×32×8×8"]  # fmt: skip
    words = [sys.executable, "-m", "lightning_modules.benchmark", "--predict", "--out", str(out)]
    done = subprocess.run([*words, "--bandwidth", "1e12", "--overhead", "1e-6", "--only", *only],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "predicted, not measured: 1 TB/s, 1 µs a launch" in done.stdout
    found = json.loads((tmp_path / "b-predicted.json").read_text(encoding="utf-8"))
    counted = {case["title"]: case for case in found["cases"]}
    assert {title: case["launches"] for title, case in counted.items()} == {
        "batch_norm 16×32×8×8": 4, "dropout 64×128": 2, "softmax 1024×256": 2,
        "cross_entropy 128×100": 3, "SGD 6 small tensors": 1, "Adam 6 small tensors": 1,
    }  # fmt: skip
    for title, case in counted.items():
        assert case["floor"] <= case["bytes"] <= 1.1 * case["floor"], title
        moved = case["bytes"] * case["elements"] / 1e12
        assert case["seconds"] == pytest.approx(moved + 1e-6 * case["launches"])


def test_kernels_are_counted_under_the_interpreter_alone(monkeypatch) -> None:
    monkeypatch.setattr(predict, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET=1"), predict.counting():
        pass
