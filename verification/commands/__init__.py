"""The subcommands of `python -m verification`."""
