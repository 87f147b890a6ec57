"""Time refnet against torch: `python scripts/benchmark.py --only 'Adam*' --threads 2`."""

from __future__ import annotations

import sys

from lightning_modules.benchmark.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
