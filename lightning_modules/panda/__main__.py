"""`python -m lightning_modules.panda`: give orders to a training that is going on."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from lightning_modules.errors import stop
from lightning_modules.files import relative, write_whole
from lightning_modules.panda.orders import ORDERS, parse


def main(args: Sequence[str] | None = None) -> int:
    """Give an order to a run, or say how it is doing; 0, or 1 if the order was not followed.

    Raises:
        SystemExit: code 2 and a line on stderr, for a mistake in args.
    """
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.panda",
        description="Change hyperparameters of a training that is going on; without options, say "
        "how it is doing. The training needs the callback lightning_modules.panda.Panda.",
    )
    parser.add_argument("run", type=Path, help="folder of the run; of several, the newest counts")
    for name, (values, text) in ORDERS.items():
        if name == "rollback":
            parser.add_argument("--rollback", action="store_true", default=None, help=text)
        else:
            parser.add_argument(f"--{name}", metavar="X", help=f"{text}; {values}")
    parser.add_argument("--timeout", type=float, default=20, metavar="SECONDS",
        help="an order that is not taken by then is withdrawn; default 20")  # fmt: skip
    options = parser.parse_args(args)
    if not 0 < options.timeout < math.inf:
        parser.error(f"--timeout must be above 0, got {options.timeout:g}")
    runs = sorted(options.run.glob("version_*"), key=lambda path: path.stat().st_mtime)
    folder = runs[-1] if runs else options.run
    if not folder.is_dir():
        stop(f"there is no run in {folder}")
    orders = {name: v for name in ORDERS if (v := getattr(options, name)) is not None}
    if not orders:
        for name in ("panda.json", "panda.csv"):
            path = folder / name
            print(path.read_text() if path.is_file() else f"no {name} yet in {relative(folder)}")
        return 0
    text = yaml.safe_dump(orders)
    try:
        parse(text)
    except ValueError as error:
        stop(f"--{error}")
    return _order(folder, text, options.timeout)


def _order(folder: Path, text: str, timeout: float) -> int:
    path = folder / f"control-{time.time_ns()}.yaml"
    before = _rows(folder)
    write_whole(path, text)
    end = time.monotonic() + timeout
    try:
        while path.exists() and time.monotonic() < end:
            time.sleep(0.1)
    finally:  # Ctrl-C, too: nobody expects an order to be followed later
        withdrawn = path.exists()
        path.unlink(missing_ok=True)
    if withdrawn:
        print(f"not taken in {timeout:g} seconds, and withdrawn: is the training in "
              f"{relative(folder)} going on, with the callback Panda?")  # fmt: skip
    else:
        print("\n".join(_rows(folder)[len(before) :]))
    return int(withdrawn or path.with_name(f"{path.name}.rejected").exists())


def _rows(folder: Path) -> list[str]:
    path = folder / "panda.csv"
    return path.read_text().splitlines() if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
