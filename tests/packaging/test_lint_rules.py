"""The lint rules catch what they are there for: a builtin called in refnet, a forbidden import."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("refnet", "verification", "lightning_modules")

BANNED = [
    "import torch.nn.functional",
    "import torch.nn.functional as F",
    "from torch.nn import functional",
    "from torch.nn import functional as F",
    "from torch.nn.functional import relu",
    "from torch import softmax",
    "from torch import softmax as s",
    "import torch\nprint(torch.softmax)",
    "import torch as t\nprint(t.softmax)",
    "import torch\nprint(torch.nn.functional.linear)",
    "from torch import nn\nprint(nn.functional.relu)",
    "import torch\nprint(torch.ops.aten.relu)",
    "from torch import special\nprint(special.expit)",
    "import torch\nprint(torch.var_mean)",
    "import torch\nprint(torch.native_batch_norm)",
    "import torch\nprint(torch.native_dropout)",
    "import torch\nprint(torch.nll_loss)",
    "from torch.optim import SGD",
    "from torch.optim.adam import Adam",
    "import torch\nprint(torch.optim.AdamW)",
    "from torch import optim\nprint(optim.RMSprop)",
    "from torch import _C\nprint(_C._nn.linear)",
]
ALLOWED = [
    "import torch\nprint(torch.matmul, torch.exp, torch.tanh, torch.rsqrt, torch.where)",
    "import torch\nprint(torch.nn.BatchNorm1d, torch.optim.Optimizer, torch.addmm)",
    "from torch.optim.lr_scheduler import LRScheduler\nprint(LRScheduler)",
]


def banned_calls(source: str, filename: str) -> str:
    """Return what ruff's ban on builtins says about ``source``, as if it stood in ``filename``."""
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise"]
    command += ["--select=TID251", f"--stdin-filename={filename}", "-"]
    checked = subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True)
    assert checked.returncode in (0, 1), checked.stderr
    assert ("TID251" in checked.stdout) == (checked.returncode == 1), checked.stdout
    return checked.stdout if checked.returncode else ""


@pytest.mark.parametrize("source", BANNED)
def test_a_builtin_in_refnet_is_flagged(source: str) -> None:
    assert banned_calls(source, "refnet/x.py")
    assert banned_calls(source, "refnet/ops/linear/x.py")


@pytest.mark.parametrize("source", ALLOWED)
def test_what_refnet_needs_is_not_flagged(source: str) -> None:
    assert not banned_calls(source, "refnet/x.py")


@pytest.mark.parametrize("package", ["verification", "lightning_modules", "scripts", "tests"])
def test_builtins_are_free_outside_refnet(package: str) -> None:
    assert not banned_calls("\n".join(BANNED), f"{package}/x.py")


def names_hidden_from_ruff(source: str) -> list[str]:
    """Return the expressions by which ``source`` gives torch a name that ruff cannot follow.

    ruff resolves the aliases made by imports, and not ``t = torch``, ``nn = torch.nn`` or
    ``getattr(torch, name)``.
    """
    hidden = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            value = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "vars"}:
            value = node.args[0]
        else:
            continue
        if ast.unparse(value) in {"torch", "torch.nn", "torch.special", "torch.optim", "torch._C"}:
            hidden.append(ast.unparse(node))
    return hidden


@pytest.mark.parametrize(
    "source", ["t = torch", "nn = torch.nn", "t: object = torch", "getattr(torch, 'softmax')"]
)
def test_a_hidden_name_is_found(source: str) -> None:
    assert names_hidden_from_ruff(source) == [source]


def test_refnet_hides_no_name_from_ruff() -> None:
    files = sorted((ROOT / "refnet").rglob("*.py"))
    assert files
    assert {f.name: h for f in files if (h := names_hidden_from_ruff(f.read_text("utf-8")))} == {}


FORBIDDEN = [
    ("refnet/__init__.py", "import verification", "one way"),
    ("refnet/functional.py", "import lightning_modules", "one way"),
    ("verification/__init__.py", "import lightning_modules", "one way"),
    ("lightning_modules/__init__.py", "import scripts.train", "neither the scripts"),
    ("refnet/functional.py", "import rich", "torch alone"),
    ("refnet/__init__.py", "from sklearn import datasets", "torch alone"),
    ("verification/__init__.py", "import pytorch_lightning", "neither Lightning"),
    ("verification/__init__.py", "import matplotlib.pyplot", "neither Lightning"),
    ("verification/oracles/__init__.py", "import torch", "independent"),
    ("verification/oracles/__init__.py", "import refnet.functional", "independent"),
]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages and of their lint rules, free to be broken."""
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True)


def test_imports_go_one_way(copy: Path) -> None:
    linted = lint_imports(copy)
    assert linted.returncode == 0, linted.stdout
    assert "5 kept, 0 broken" in linted.stdout


@pytest.mark.parametrize(("file", "line", "contract"), FORBIDDEN)
def test_a_forbidden_import_is_caught(copy: Path, file: str, line: str, contract: str) -> None:
    with (copy / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    linted = lint_imports(copy)
    assert linted.returncode == 1, linted.stdout
    broken = [text for text in linted.stdout.splitlines() if text.endswith("BROKEN")]
    assert any(contract in text for text in broken), linted.stdout
