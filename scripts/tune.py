"""Search for hyperparameters: `python scripts/tune.py --config mlp --trials 40 --workers 2`."""

from __future__ import annotations

import sys

from lightning_modules.tuning.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
