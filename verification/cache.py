"""Results that take long and are kept: where, and written so that nobody reads half a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def folder(name: str) -> Path:
    """Return where results of a kind are kept: below $REFNET_CACHE, else ~/.cache/refnet.

    Raises:
        RuntimeError: there is no home.
    """
    chosen = os.environ.get("REFNET_CACHE")
    return (Path(chosen) if chosen else Path.home() / ".cache" / "refnet") / name


def write(path: Path, text: str) -> bool:
    """Write a file all at once: another process, or a later one, finds the old one or this.

    Returns:
        Whether it could be written.

    Example:
        >>> with tempfile.TemporaryDirectory() as place:
        ...     file = Path(place) / "new" / "file.json"
        ...     write(file, "{}"), file.read_text()
        (True, '{}')
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError:
        return False
    return True
