"""How fast refnet is beside torch's builtins: `python -m lightning_modules.benchmark`."""
