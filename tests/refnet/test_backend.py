"""Which implementation runs: forced, chosen, per thread, from the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from threading import Thread

import pytest
import torch

import refnet
from refnet import backend, optim


def step(**options: object) -> list[tuple[str, str]]:
    w = torch.nn.Parameter(torch.ones(3, dtype=options.pop("dtype", torch.float32)))  # type: ignore[call-overload]
    w.grad = torch.ones_like(w)
    with backend.recording() as ran:
        optim.Adam([w], **options).step()  # type: ignore[arg-type]
    return ran


def test_the_kernel_runs_by_itself_and_the_reference_where_it_cannot() -> None:
    assert step() == [("Adam", "cpu")]
    assert step(dtype=torch.float64) == [("Adam", "cpu")]
    assert step(dtype=torch.bfloat16) == [("Adam", "reference")]


def test_forced_as_a_function_and_in_nested_contexts() -> None:
    with refnet.use_backend("auto"):
        refnet.use_backend("reference")
        assert step() == [("Adam", "reference")]
        with refnet.use_backend("cpu"):
            assert step() == [("Adam", "cpu")]
        assert backend.forced() == "reference"
    assert step() == [("Adam", "cpu")]


def test_it_comes_back_after_an_error() -> None:
    with pytest.raises(KeyError), refnet.use_backend("reference"):
        raise KeyError
    assert backend.forced() == "auto"


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("cpu", {"dtype": torch.bfloat16}, "Adam: dtype torch.bfloat16"),
        ("cpu", {"differentiable": True}, "Adam: a differentiable or capturable step"),
        ("cuda", {}, "Adam: a tensor on cpu"),
    ],
)
def test_a_forced_backend_says_what_it_cannot_do(
    name: str, options: dict[str, object], reason: str
) -> None:
    with refnet.use_backend(name), pytest.raises(NotImplementedError, match=reason):
        step(**options)


def test_it_is_asked_anew_in_every_step() -> None:
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.ones(3)
    optimizer = optim.Adam([w])
    optimizer.step()
    with refnet.use_backend("cuda"), pytest.raises(NotImplementedError, match="'cuda'"):
        optimizer.step()
    optimizer.param_groups[0]["differentiable"] = True
    with backend.recording() as ran, torch.no_grad():
        optimizer.step()
    assert ran == [("Adam", "reference")]


def test_every_thread_has_its_own() -> None:
    found = []
    with refnet.use_backend("reference"):
        thread = Thread(target=lambda: found.append(backend.forced()))
        thread.start()
        thread.join()
    assert found == ["auto"]


@pytest.mark.parametrize(("value", "expected"), [("", "auto"), ("reference", "reference")])
def test_the_environment_decides_where_nobody_does(value: str, expected: str) -> None:
    code = "from refnet import backend; print(backend.forced())"
    environment = {**os.environ, "REFNET_BACKEND": value}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == expected


def test_another_name_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_default", "gpu")
    with pytest.raises(ValueError, match=r"REFNET_BACKEND must be one of .*, but is 'gpu'"):
        backend.forced()


def unsupported(x: torch.Tensor) -> str:
    return "" if x.dtype.is_floating_point else f"dtype {x.dtype}"


def test_the_first_that_can_is_chosen() -> None:
    x, counts = torch.ones(2), torch.ones(2, dtype=torch.int64)
    cannot = {"cuda": lambda x: "no GPU", "cpu": unsupported}
    with backend.recording() as ran:
        assert backend.choose("square", x, **cannot) == "cpu"
        assert backend.choose("square", counts, **cannot) == "reference"
        with refnet.use_backend("reference"):
            assert backend.choose("square", x, **cannot) == "reference"
    assert [name for _, name in ran] == ["cpu", "reference", "reference"]
    for name, reason in (("cuda", "no GPU"), ("cpu", "dtype torch.int64")):
        with refnet.use_backend(name), pytest.raises(NotImplementedError, match=reason):
            backend.choose("square", counts, **cannot)


def test_under_transforms_the_reference_runs_whatever_is_forced() -> None:
    def chosen(x: torch.Tensor) -> torch.Tensor:
        assert backend.choose("square", x, cpu=unsupported) == "reference"
        return x

    with refnet.use_backend("cpu"):
        torch.func.vmap(chosen)(torch.ones(2))
        with torch.autograd.forward_ad.dual_level():
            chosen(torch.ones(2))
        torch.compile(chosen, backend="eager", fullgraph=True)(torch.ones(2))
