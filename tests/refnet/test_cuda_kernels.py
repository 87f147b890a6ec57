"""The Triton kernels under Triton's interpreter, on a CPU, in processes of their own.

Triton decides at the decoration of a kernel who runs it, so the tests are in files that this one
runs with TRITON_INTERPRET=1. They need triton, which comes with torch on CUDA machines alone.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from refnet._triton import Kernels
from refnet.optim._base import _plans

FILES = sorted(Path(__file__).parent.glob("kernels/*.py"))
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="no triton here: pip install triton, in the version that belongs to torch",
)


@needs_triton
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_under_the_interpreter(file: Path) -> None:
    interpreted = "0" if file.stem == "compiled" else "1"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-W", "ignore::RuntimeWarning", str(file)],
        env={**os.environ, "TRITON_INTERPRET": interpreted, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-1000:]


def test_no_triton_is_imported_for_a_cpu() -> None:
    code = (
        "import sys, torch, refnet.functional as f; x = torch.ones(2, 3, requires_grad=True);"
        "f.cross_entropy(f.dropout(f.softmax(x, 1)), torch.tensor([0, 1])).backward();"
        "print('triton' in sys.modules, 'refnet.ops.softmax.cuda' in sys.modules)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["False", "False"]


def test_without_triton_the_reference_runs_after_one_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # what an import of it then raises
    monkeypatch.setattr("refnet._triton.INTERPRETED", True)
    monkeypatch.setattr("refnet._triton._failure", "")
    kernels = Kernels("refnet.ops.softmax.cuda")
    with pytest.warns(UserWarning, match="no CUDA kernels here .*triton"):
        assert "triton" in kernels.unsupported(torch.ones(2), 0, torch.float32)
    assert "triton" in kernels.unsupported(torch.ones(2), 0, torch.float32)


def test_what_is_on_a_gpu_decides_on_a_groups_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(param: torch.Tensor) -> str:
        return "the CPU" if param.is_cpu else ""

    kernels = SimpleNamespace(unavailable=unavailable, Plan=SimpleNamespace(backend="cuda"))
    monkeypatch.setattr("refnet.optim._base.cuda", kernels)
    on_cpu, elsewhere = torch.ones(2), torch.ones(2, device="meta")
    kinds = [_plans(params, "auto") for params in ([on_cpu], [on_cpu, elsewhere], [elsewhere])]
    assert [[kind.backend for kind in found] for found in kinds] == [["cpu"], ["cuda"], ["cuda"]]
    assert [kind.backend for kind in _plans([elsewhere], "cpu")] == ["cpu"]
