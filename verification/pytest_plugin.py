"""Fixtures by which a test of an op, an optimizer, a function or a model is two lines.

    def test_my_batch_norm(verify_op):
        verify_op(my_batch_norm, like="batch_norm")

Each is the function of its name in `verification`; it returns the report, and raises an
AssertionError that lists the failures. pytest finds them where refnet is installed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # pytest starts without torch
    from verification.report import Report

Check = Callable[..., "Report"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of `pytest --help`."""
    group = parser.getgroup("verification", "compare ops, optimizers and models with torch's")
    group.addoption(
        "--verification-profile", choices=("quick", "full"), metavar="NAME",
        help="how much the fixtures check, where a test doesn't say: quick or full",
    )  # fmt: skip
    group.addoption(
        "--verification-time-limit", type=float, metavar="SECONDS",
        help="for each case, as far as code can be interrupted within a process",
    )  # fmt: skip
    group.addoption(
        "--verification-html", type=Path, metavar="DIR",
        help="write a page for each report, named after the test",
    )  # fmt: skip


@pytest.fixture
def verify_op(request: pytest.FixtureRequest) -> Check:
    """`verification.verify_op`: compare an op with torch's."""
    return _checked("verify_op", request)


@pytest.fixture
def verify_optimizer(request: pytest.FixtureRequest) -> Check:
    """`verification.verify_optimizer`: compare an optimizer with torch's."""
    return _checked("verify_optimizer", request)


@pytest.fixture
def verify_function(request: pytest.FixtureRequest) -> Check:
    """`verification.verify_function`: compare a function with any reference."""
    return _checked("verify_function", request)


@pytest.fixture
def verify_module(request: pytest.FixtureRequest) -> Check:
    """`verification.verify_module`: compare a module with any reference."""
    return _checked("verify_module", request)


@pytest.fixture
def compare_models(request: pytest.FixtureRequest) -> Check:
    """`verification.compare_models`: two models in lockstep."""
    return _checked("compare_models", request)


def _checked(name: str, request: pytest.FixtureRequest) -> Check:
    pages: list[Path] = []

    def check(*args: Any, **options: Any) -> Report:
        __tracebackhide__ = True
        import verification

        function = getattr(verification, name)
        for option in ("profile", "time_limit"):
            value = request.config.getoption(f"verification_{option}")
            if value is not None and option in inspect.signature(function).parameters:
                options.setdefault(option, value)
        report: Report = function(*args, **options)
        folder = request.config.getoption("verification_html")
        if folder is not None:
            pages.append(_page(folder, request.node.nodeid, len(pages)))
            pages[-1].parent.mkdir(parents=True, exist_ok=True)
            pages[-1].write_text(report.to_html(), encoding="utf-8")
        report.raise_if_failed()
        return report

    return check


def _page(folder: Path, test: str, count: int) -> Path:
    """Return where a test's page goes; no two tests, nor two reports of one, have the same."""
    name = re.sub(r"[^\w.-]+", "-", test).strip("-")
    return folder / f"{name}{f'-{count + 1}' if count else ''}.html"
