"""Hyperparameter tuning as the lecture teaches it, on Optuna: `python -m lightning_modules.tuning`.

Random search on the right scales (`space`), coarse to fine (`search`), trials pruned early
(`prune`), many workers on one study (`workers`), and what it came to (`results`, `plots`). To watch
over a single model instead, see `lightning_modules.panda`. Optuna is imported by the submodules
alone.
"""
