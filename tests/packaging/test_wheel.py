"""The wheel holds the three packages with their data, and every dependency is pinned once."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("refnet", "verification", "lightning_modules")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
REQUIREMENTS = [*PROJECT["dependencies"], *(line for extra in EXTRAS for line in extra)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", directory]
    built = subprocess.run([*command, ROOT], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next(directory.glob("*.whl")))


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    files = {f for package in PACKAGES for f in (ROOT / package).rglob("*") if f.is_file()}
    assert packed == {f.relative_to(ROOT).as_posix() for f in files if "__pycache__" not in f.parts}
    assert {f"{package}/py.typed" for package in PACKAGES} <= packed
    assert {"lightning_modules/configs/mlp.yaml", "lightning_modules/configs/conv.yaml"} <= packed


def test_wheel_carries_the_licence_and_the_entry_point(wheel: zipfile.ZipFile) -> None:
    info = f"refnet-{PROJECT['version']}.dist-info"
    assert "MIT License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    entry_points = wheel.read(f"{info}/entry_points.txt").decode().splitlines()
    assert [line for line in entry_points if line] == [
        "[pytest11]",
        "verification = verification.pytest_plugin",
        "[pytorch_lightning.callbacks_factory]",
        "refnet = lightning_modules.sync_batchnorm:callbacks",
        "[refnet.verification]",
        "data = lightning_modules.checks.data:suite",
        "diagnosis = lightning_modules.checks.diagnosis:diagnosis",
        "early_stopping = lightning_modules.checks.tuning:early_stopping",
        "lockstep = lightning_modules.lockstep:suite",
        "panda = lightning_modules.checks.panda:panda",
        "tuning = lightning_modules.checks.tuning:tuning",
    ]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    named = {canonicalize_name(name): version for name, version in pairs}
    assert len(named) == len(pairs), "a package is pinned twice"
    return named


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_every_dependency_is_pinned_within_its_range(pins: dict[str, str], line: str) -> None:
    requirement = Requirement(line)
    assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])
