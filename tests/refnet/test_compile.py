"""Kernels: their names on disk, what happens without numba or a disk, forks and threads."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch

from refnet import _compile, _threads
from refnet._compile import ELEMENTS, SUMS, Bytes, Doubles, Ints, Pointers, Reals, compiled, inlined

STEP = """
import torch, warnings
from refnet import backend, optim
w = torch.nn.Parameter(torch.ones(3))
w.grad = torch.ones(3)
with backend.recording() as ran:
    optimizer = optim.SGD([w], lr=0.5)
    optimizer.step()
    optimizer.step()
print(*sorted({name for _, name in ran}), w.tolist())
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=variables, check=True, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@inlined
def twice(x: float) -> float:
    return 2 * x


@compiled()
def scale(x: Reals, y: Reals, n: int, a: float, negative: bool) -> None:
    real = type(x[0])
    for i in range(n):
        y[i] = -real(a) * x[i] if negative else twice(real(a) * x[i])


@compiled(SUMS)
def masked_sum(x: Doubles, mask: Bytes, order: Ints, n: int) -> float:
    total = 0.0
    for i in range(n):
        if mask[order[i]]:
            total += x[order[i]]
    return total


@inlined(ELEMENTS)
def rounded(x: float) -> float:
    return (x + 1e16) - 1e16


@compiled(SUMS)
def sum_of_rounded(x: Doubles, n: int) -> float:
    total = 0.0
    for i in range(n):
        total += rounded(x[i])
    return total


@compiled()
def find(rows: Pointers, n: int, value: float) -> int:
    for k in range(n):
        if rows[k][0] == value:
            return k
    return -1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_kernel_does_what_its_python_does(dtype: torch.dtype) -> None:
    x = torch.randn(37, dtype=dtype)
    y, z = torch.empty_like(x), torch.empty_like(x)
    for negative in (False, True):
        scale.get(dtype)(x.data_ptr(), y.data_ptr(), 37, 0.3, negative)  # type: ignore[misc]
        scale.function(x.numpy(), z.numpy(), 37, 0.3, negative)
        assert torch.equal(y, z)


def test_what_is_no_address_is_an_error_of_pythons() -> None:
    call = scale.get(torch.float32)
    assert call is not None
    for wrong in (None, "x", 1.5, torch.ones(3)):
        with pytest.raises(TypeError):
            call(wrong, 0, 0, 0.3, False)


def test_pointers_and_results() -> None:
    x, order = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.tensor([2, 0, 1])
    mask = torch.tensor([True, False, True])
    call = masked_sum.get(torch.float32)
    assert call is not None
    assert call(x.data_ptr(), mask.data_ptr(), order.data_ptr(), 3) == 5
    rows = np.array([x[i:].data_ptr() for i in range(3)])
    call = find.get(torch.float64)
    assert call is not None
    assert [call(rows.ctypes.data, 3, v) for v in (4.0, 1.0, 3.0)] == [2, 0, -1]


def test_an_inlined_function_can_keep_its_order_in_a_sum() -> None:
    x = torch.full((20,), 3.0, dtype=torch.float64)
    call = sum_of_rounded.get(torch.float32)
    assert call is not None
    assert call(x.data_ptr(), 20) == sum_of_rounded.function(x.numpy(), 20) == 80


@pytest.mark.parametrize("value", [nan, inf, -inf, 1e-41])
def test_nan_infinity_and_denormals_go_through(value: float) -> None:
    x = torch.full((40,), value)
    y = torch.empty_like(x)
    scale.get(torch.float32)(x.data_ptr(), y.data_ptr(), 40, 1.0, True)  # type: ignore[misc]
    assert torch.equal(y, -x) or (value != value and bool(y.isnan().all()))


def test_changed_code_is_compiled_anew_and_not_kept(tmp_path: Path) -> None:
    source = tmp_path / "loops.py"
    source.write_text(
        "from refnet._compile import *\n"
        "@inlined\ndef offset(): return 1.0\n"
        "@compiled()\ndef shift(x: Reals) -> None:\n    x[0] = x[0] + offset()\n"
    )
    script = """
    import os, torch, loops
    from refnet import _compile
    def run():
        x = torch.zeros(1)
        loops.shift.get(torch.float32)(x.data_ptr())
        return x.item()
    files = lambda: sorted(f for f in os.listdir("__pycache__") if f.endswith(".nbi"))
    print(run(), len(files()))
    code = loops.offset.__code__
    loops.offset.__code__ = (lambda: 5.0).__code__
    _compile.forget()
    print(run(), len(files()))
    loops.offset.__code__ = code
    _compile.forget()
    print(run())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, check=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True,
    )  # fmt: skip
    assert run.stdout.split("\n")[:3] == ["1.0 1", "5.0 1", "1.0"]
    assert run.stderr.count("compiles its CPU kernels when they are first used") == 1
    source.write_text(source.read_text().replace("1.0", "3.0"))  # a constant of another function
    again = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, check=True, text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True,
    )  # fmt: skip
    assert again.stdout.startswith("3.0")


MISSING = "import sys; sys.modules['numba'] = None"
OLD = "import numba; numba.version_info = numba.version_info._replace(major=0, minor=50)"
BROKEN = "import numba; numba.njit = lambda *a, **k: 1 / 0"


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (MISSING, "ModuleNotFoundError: import of numba halted"),
        (OLD, "is older than 0.61"),
        (BROKEN, "ZeroDivisionError"),
    ],
)
def test_without_numba_the_reference_runs_after_one_warning(start: str, reason: str) -> None:
    run = python(f"{start}\n{STEP}")
    assert run.stdout == "reference [0.0, 0.0, 0.0]\n"
    assert reason in run.stderr
    assert run.stderr.count("the slower reference runs") == 1


def test_without_a_place_for_the_cache_kernels_run_after_one_warning() -> None:
    nowhere = "import numba.core.caching as c; c.CacheImpl._locator_classes = []"
    run = python(f"{nowhere}\n{STEP}")
    assert run.stdout == "cpu [0.0, 0.0, 0.0]\n"
    assert run.stderr.count("cannot be kept on disk") == 1
    assert run.stderr.count("Warning") == 1


def test_numba_waits_for_the_first_kernel() -> None:
    run = python("import refnet, sys; print('numba' in sys.modules)")
    assert run.stdout == "False\n"


FORK = """
import os, numpy as np, torch
from refnet import _threads, optim
torch.set_num_threads(1)  # for torch: a forked child hangs in a parallel loop of torch's own
torch.get_num_threads = lambda: 2
def run():
    draw = np.random.default_rng(0).standard_normal
    w = torch.nn.Parameter(torch.from_numpy(draw(300_000)))
    optimizer = optim.Adam([w], lr=0.1)
    for _ in range(3):
        w.grad = torch.from_numpy(draw(300_000))
        optimizer.step()
    return float(w.detach().numpy().sum())
expected = run()
"""
CHILD = """
child = os.fork()
if child == 0:
    os._exit(0 if _threads._pool is None and run() == expected and _threads._pool else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
WORKERS = """
class Steps(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return run()
loader = torch.utils.data.DataLoader(Steps(), num_workers=2, multiprocessing_context="fork")
print(sum(batch.item() != expected for batch in loader))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("children", [CHILD, WORKERS], ids=["a process", "workers"])
def test_forked_processes_go_on_after_their_parent_has_used_threads(children: str) -> None:
    assert python(FORK + children, PYTHONWARNINGS="ignore").stdout == "0\n"


def test_work_is_shared_and_the_callers_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)

    def run(_: int) -> list[tuple[int, int]]:
        done: list[tuple[int, int]] = []
        _threads.share(lambda first, last: done.append((first, last)), range(20))
        return sorted(done)

    with ThreadPoolExecutor(8) as pool:
        assert all(done == [(i, i + 1) for i in range(19)] for done in pool.map(run, range(200)))


def test_an_error_in_a_thread_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(first: int, last: int) -> None:
        raise KeyError(first)

    with pytest.raises(KeyError):
        _threads.share(work, range(9))


def test_a_pool_that_cannot_start_threads_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    monkeypatch.setattr(_threads, "_pool", pool)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    done: list[int] = []
    _threads.share(lambda first, last: done.append(first), range(5))
    assert done == [0, 1, 2, 3]


def test_nothing_has_failed_here() -> None:
    assert _compile.unavailable() == ""
