"""Train, validate or test: `python scripts/train.py fit --config mlp`."""

from __future__ import annotations

from lightning_modules.cli import main

if __name__ == "__main__":
    main()
