"""Whole training runs: a loop by hand, and runs in lockstep."""
