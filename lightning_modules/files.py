"""Files: configurations and checkpoints by their short names, and what is written, as a whole."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lightning_modules.errors import UserError

SUBCOMMANDS = ("fit", "validate", "test")
CONFIGS = Path(str(files("lightning_modules"))) / "configs"


def packaged_configs() -> list[str]:
    """Return the names of the configurations that come with this package.

    Example:
        >>> packaged_configs()
        ['conv', 'mlp']
    """
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def find_config(name: str) -> Path:
    """Return the file for `mlp`, `mlp.yaml` or a path; a file of the user's comes first.

    Raises:
        UserError: if there is none; the message lists the packaged ones.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            try:
                path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"--config: {name!r} is no readable UTF-8 text") from error
            return path
    raise UserError(
        f"--config: {name!r} is no file and none of the packaged configurations: "
        + ", ".join(packaged_configs())
    )


def find_checkpoint(value: str, runs: Path) -> Path:
    """Return the file for a path, or for "best" or "last" that of the newest run.

    Args:
        value: as typed.
        runs: folder of the runs of this configuration, with version_0, version_1, ... inside.

    Raises:
        UserError: if there is no such file.
    """
    if value in ("best", "last"):
        found = sorted(runs.glob(f"version_*/checkpoints/{value}.ckpt"), key=_version)
        if not found:
            raise UserError(f"--ckpt_path {value}: no run with a checkpoint in {runs}")
        return found[-1]
    if not Path(value).is_file():
        raise UserError(f"--ckpt_path: no checkpoint file at {value!r}")
    return Path(value)


def _version(checkpoint: Path) -> int:
    return int(re.sub(r"\D", "", checkpoint.parent.parent.name) or -1)


def config_beside(checkpoint: str) -> Path | None:
    """Return the configuration of the run that a checkpoint belongs to, if it is in its place."""
    path = Path(checkpoint).parent.parent / "config.yaml"
    return path if path.is_file() else None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, refusing anything but tensors and plain types.

    Raises:
        UserError: if the file is no checkpoint of Lightning's.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        checkpoint["state_dict"], checkpoint["epoch"], checkpoint["loops"]
    except Exception as error:  # unpickling an arbitrary file can raise anything
        raise UserError(f"--ckpt_path: {path} is not a readable checkpoint") from error
    return checkpoint


def relative(path: str | Path) -> str:
    """Return the path relative to the current directory where it lies below it."""
    short = os.path.relpath(path) if path else ""
    return str(path) if short.startswith("..") else short


def check_folder(option: str, folder: str | Path) -> None:
    """Refuse a folder that can't be made or written to; nothing is left behind.

    Raises:
        UserError: naming the option and what is in the way.
    """
    there = Path(folder).absolute()
    try:
        while not (there.exists() or there.is_symlink()):
            there = there.parent
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"{option} {folder}: {there} is no folder that can be written to ({error.strerror})"
        ) from error


def with_configs(args: list[str]) -> list[str]:
    """Replace the name behind each `--config` by its file; without one, use the checkpoint's.

    Example:
        >>> with_configs(["fit", "--config=mlp"])[2].endswith("configs/mlp.yaml")
        True
    """
    flat: list[str] = []
    for arg in args:
        option, equals, value = arg.partition("=")
        known = equals and option in ("-c", "--config", "--ckpt_path")
        flat += [option, value] if known else [arg]
    options = dict(pairwise(flat))
    for i, option in enumerate(flat[:-1], start=1):
        if option in ("-c", "--config"):
            flat[i] = str(find_config(flat[i]))
    if flat[:1] and flat[0] in SUBCOMMANDS and not options.keys() & {"-c", "--config"}:
        checkpoint = options.get("--ckpt_path", "best")
        if checkpoint not in ("best", "last") and not Path(checkpoint).is_file():
            raise UserError(f"--ckpt_path: no checkpoint file at {checkpoint!r}")
        if beside := config_beside(checkpoint):
            flat[1:1] = ["--config", str(beside)]
        elif not any(arg.startswith(("--model", "--print_config", "--help", "-h")) for arg in flat):
            raise UserError(
                f"{flat[0]} needs --config: a file or one of {', '.join(packaged_configs())}"
            )
    return flat


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there as a whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


# What JSON has no number for, as JavaScript's Number() and Python's float() read it.
_NO_NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: Any) -> str:
    """Return strict JSON, in which a number that is not finite is the text of it.

    Example:
        >>> text = to_json({"loss": [0.5, math.nan, -math.inf]})
        >>> json.loads(text, parse_constant=print)
        {'loss': [0.5, 'NaN', '-Infinity']}
        >>> from_json(text)
        {'loss': [0.5, nan, -inf]}
    """
    return json.dumps(_each(value, _named), indent=2, allow_nan=False)


def from_json(text: str) -> Any:
    """Return what `to_json` was given."""
    return _each(json.loads(text), lambda leaf: _NO_NUMBERS.get(leaf, leaf))


def _named(leaf: Any) -> Any:
    if not isinstance(leaf, float) or math.isfinite(leaf):
        return leaf
    return "NaN" if math.isnan(leaf) else "Infinity" if leaf > 0 else "-Infinity"


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _each(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each(inner, change) for inner in value]
    return change(value)


def command() -> str:
    """Return what starts this program, as it can be typed here."""
    python = sys.executable
    on_path = shutil.which("python")
    if on_path == python:
        python = "python"
    return f"{relative(python)} -m lightning_modules"
