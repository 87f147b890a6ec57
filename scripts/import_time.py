"""Print how long `import refnet` takes over `import torch`: `python scripts/import_time.py`."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

# Both in one process: a busy machine then slows the two alike, and their difference is exact.
TIMER = """
from time import perf_counter as now
start = now()
import torch
after_torch = now()
import refnet
print(after_torch - start, now() - after_torch)
"""


def seconds() -> tuple[float, float]:
    """Return the seconds of `import torch`, and of `import refnet` after it, in a new process."""
    environment = os.environ.copy()
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    command = [sys.executable, "-c", TIMER]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    torch, refnet = map(float, printed.stdout.split())
    return torch, refnet


def main() -> None:
    """Print the medians over several fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="number of processes (default 9)")
    repeats = parser.parse_args().repeats
    if repeats < 1:
        parser.error(f"--repeats must be at least 1, got {repeats}")

    seconds()  # writes the bytecode and warms the disk cache
    torch, refnet = zip(*(seconds() for _ in range(repeats)), strict=True)
    print(f"import torch       {statistics.median(torch):6.3f} s")
    print(f"import refnet adds {statistics.median(refnet):6.3f} s")
    print(f"(medians of {repeats} fresh processes)")


if __name__ == "__main__":
    main()
