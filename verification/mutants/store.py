"""Where what became of the bugs is kept: a file for each subject, under a hash of the settings."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import refnet
import verification
from verification import cache
from verification.mutants import mutants
from verification.report import Kill, Row

# What is kept of a failing row; the rest follows or is not known.
FIELDS = (
    "case", "quantity", "dtype", "error", "builtin_error", "bound", "rule", "verdict", "note",
    "floor", "seed",
)  # fmt: skip
_NUMBERS = ("error", "builtin_error", "bound", "floor")
# Of verification, what has no part in these verdicts: nothing below is imported for them.
ELSEWHERE = (
    "__main__", "candidates", "commands", "false_alarms", "models", "page", "public",
    "pytest_plugin", "suite", "transforms",
)  # fmt: skip


def settings(subjects: Iterable[str], profile: str) -> dict[str, str]:
    """Return for each subject a hash of all that decides which of its bugs are caught.

    The sources of cases, oracles, tolerances, checks and bugs (seeds and dtypes stand in them), the
    modules of refnet that the subject's bugs are planted in, the versions of torch and NumPy.

    Example:
        >>> settings(["relu"], "quick") == settings(["relu"], "full")
        False
    """
    checks = _checks()
    modules: dict[str, set[str]] = {}
    for mutant in mutants():
        if not mutant.module.startswith("verification."):
            modules.setdefault(mutant.subject, set()).add(mutant.module)
    return {
        subject: digest(
            profile, torch.__version__, np.__version__, checks, subject,
            *(_module(name) for name in sorted(modules.get(subject, ()))),
        )
        for subject in subjects
    }  # fmt: skip


def digest(*texts: str) -> str:
    """Return a short hash of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def _module(name: str) -> str:
    path = Path(refnet.__path__[0], *name.split("."))
    return _text(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))


def _checks() -> str:
    root = Path(verification.__path__[0])
    paths = {path.relative_to(root).as_posix(): path for path in root.rglob("*.py")}
    parts = sorted(n for n in paths if n.partition("/")[0].removesuffix(".py") not in ELSEWHERE)
    return digest(*(text for name in parts for text in (name, _text(paths[name]))))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def read(subject: str, settings: str) -> list[Kill] | None:
    """Return what became of a subject's bugs under certain settings; None if that is not known."""
    try:
        data = json.loads(_file(subject, settings).read_text(encoding="utf-8"))
        return [_kill(subject, kill) for kill in data["kills"]]
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):  # or a file of another make
        return None


def write(subject: str, settings: str, kills: Sequence[Kill]) -> bool:
    """Keep it, all at once, so that another process reads the old file or the new one.

    Returns:
        Whether it could be written.
    """
    data = {"subject": subject, "settings": settings, "kills": [_data(kill) for kill in kills]}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        return cache.write(_file(subject, settings), text)
    except RuntimeError:  # there is no home
        return False


def read_bug(subject: str, settings: str, bug: str, profile: str) -> list[Row] | None:
    """Return the rows of one bug, of a subject that isn't done; None if they are not known."""
    try:
        data = json.loads(_bug_file(subject, settings, bug, profile).read_text(encoding="utf-8"))
        return [_row(subject, dict(zip(FIELDS, row, strict=True))) for row in data]
    except (OSError, RuntimeError, ValueError, TypeError):
        return None


def write_bug(subject: str, settings: str, bug: str, profile: str, rows: Sequence[Row]) -> None:
    """Keep the rows of one bug until its subject is done, for a run that is interrupted."""
    text = json.dumps([_fields(row) for row in rows], ensure_ascii=False, allow_nan=False)
    with suppress(RuntimeError):
        cache.write(_bug_file(subject, settings, bug, profile), text)


def forget_bugs(subject: str, settings: str) -> None:
    """Throw away what is kept bug by bug."""
    with suppress(RuntimeError):
        shutil.rmtree(_file(subject, settings).with_suffix(""), ignore_errors=True)


def _file(subject: str, settings: str) -> Path:
    return cache.folder("kills") / f"{subject.replace(' ', '-')}-{settings}.json"


def _bug_file(subject: str, settings: str, bug: str, profile: str) -> Path:
    return _file(subject, settings).with_suffix("") / f"{digest(bug, profile)}.json"


def _data(kill: Kill) -> dict[str, Any]:
    return {**vars(kill), "caught": [_fields(row) for row in kill.caught], "subject": None}


def _fields(row: Row) -> list[Any]:
    return [_plain(getattr(row, name)) for name in FIELDS]


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity; `float` reads their names."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _kill(subject: str, data: dict[str, Any]) -> Kill:
    rows = [_row(subject, dict(zip(FIELDS, row, strict=True))) for row in data["caught"]]
    return Kill(**{**data, "subject": subject, "caught": rows})


def _row(subject: str, data: dict[str, Any]) -> Row:
    return Row(subject=subject, **data | {name: float(data[name]) for name in _NUMBERS})
