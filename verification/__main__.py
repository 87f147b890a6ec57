"""`python -m verification`: the suite, or a command; exits with 0 passed, 1 failed, 2 wrong use."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module

EPILOG = """\
commands:
  suite         the above, and what runs without a command
  op            your own op:          op mypackage.mymodule:my_batch_norm --like batch_norm
  optimizer     your own optimizer:   optimizer path/to/file.py:MyAdam --like Adam
  models        two models in lockstep
  mutants       planted bugs: which check catches which
  false-alarms  correct implementations under many seeds: does any check flag them?
each has a --help of its own.

examples:
  python -m verification --quick
  python -m verification batch_norm Adam --html page.html
  python -m verification op mypackage.mymodule:my_batch_norm --like batch_norm
  python -m verification optimizer path/to/file.py:MyAdam --like Adam --profile full
  python -m verification mutants --help

exit code: 0 all passed, 1 a failure, 2 wrong usage
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0 all passed, 1 a failure, 2 wrong usage."""
    words = sys.argv[1:] if arguments is None else arguments
    name, rest = (words[0], words[1:]) if words else ("", [])
    if name in ("op", "optimizer"):
        from verification.commands.candidate import main as candidate

        return candidate(name, rest)
    if name in _MODULES:
        command: Callable[[list[str]], int] = import_module(_MODULES[name]).main
        return command(rest)
    from verification.commands.suite import main as suite

    return suite(rest if name == "suite" else words, EPILOG)


_MODULES = {
    "mutants": "verification.mutants.kill_matrix",
    "false-alarms": "verification.false_alarms.command",
    "models": "verification.models",
}


if __name__ == "__main__":
    sys.exit(main())
