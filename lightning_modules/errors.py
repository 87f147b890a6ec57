"""A mistake on the command line ends in a line or two and exit code 2; a bug in a traceback."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser


class UserError(ValueError):
    """Something that was typed makes no sense; the message says what."""


def stop(message: str, hint: str = "") -> NoReturn:
    """Print the message, and a hint on a second line, and leave with exit code 2 as argparse."""
    sys.stderr.write(f"error: {message}\n" + (f"{hint}\n" if hint else ""))
    raise SystemExit(2)


@contextmanager
def explained() -> Iterator[None]:
    """Turn a rejected value into a line or two.

    Put it around what builds objects from the configuration, where a ValueError is an answer to a
    value that somebody gave, and a missing module one to an accelerator or logger. Other
    exceptions, and whatever training raises, pass as they are.
    """
    try:
        yield
    except UserError as error:
        stop(str(error))
    except (ValueError, MisconfigurationException, ModuleNotFoundError) as error:
        if _debug():
            raise
        stop(brief(str(error)), "(JSONARGPARSE_DEBUG=true shows where this was raised)")


def _debug() -> bool:
    # jsonargparse's own switch: with it, a parser raises instead of leaving.
    return os.environ.get("JSONARGPARSE_DEBUG", "").lower() == "true"


class Parser(LightningArgumentParser):
    """Lightning's parser, with short messages: no usage of sixty lines, no Python types."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong and leave with exit code 2."""
        if not self.exit_on_error or _debug():
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        prog = str(parser.prog).replace(" [options]", "")
        stop(brief(message), f"(for all options: {prog} --help)")


_NOISE = (
    r"^Expected a path but .* either not accessible or invalid$",
    r"^Does not validate against any of the Union subtypes$",
    r"^(Subtypes|Errors|Given value type):.*$",
    r"^Expected a NoneType$",
    r"^got (Namespace|NestedArg)\(.*$",
)
_REWORDED = (
    (r"^Type typing\.Callable\[.*?\] expects a function or a callable class: ", ""),
    (r"^Problem with given class_path '([^']*)':$", r"\1"),
    (r"^Expected a dot import path string: (.*)$", r"\1 is not a class path (package.Class)"),
    (r"^Given value: ", "got "),
    (r"\.? Got value: Namespace\(.*\)$", ""),
    (r"<class '(?:\w+\.)*(\w+)'>", r"\1"),
    (r"typing\.Literal\[(.*?)\]", r"value among \1"),
)


def brief(message: str) -> str:
    r"""Shorten one of jsonargparse's nested messages to a line.

    Example:
        >>> brief('Parser key "data":\n  Parser key "dev":\n    Expected a <class \'float\'>')
        '--data.dev: Expected a float'
    """
    keys, said = [], []
    for raw in message.splitlines():
        line = raw.strip().removeprefix("- ")
        for pattern, replacement in _REWORDED:
            line = re.sub(pattern, replacement, line)
        # 'Parser key "model": what is wrong' comes on one line too.
        if found := re.match(r'Parser key "([^"]*)":\s*', line):
            keys.append(found[1])
            line = line[found.end() :]
        if line and not any(re.match(pattern, line) for pattern in _NOISE):
            said.append(line)
    where = "--" + ".".join(keys) + ": " if keys else ""
    return where + ": ".join(dict.fromkeys(said))


def of_data(message: str, options: Iterable[str]) -> str:
    """Name the option of the data that a message is about, or that it is about the data.

    Args:
        message: begins with the name of an argument, if it is about one; jsonargparse's too.
        options: names of the arguments that there are.

    Example:
        >>> of_data("batch_size must be at least 1, got 0", ["batch_size"])
        '--data.batch_size must be at least 1, got 0'
        >>> of_data("the inputs must be real numbers, got object", ["batch_size"])
        '--data: the inputs must be real numbers, got object'
    """
    message = brief(message)
    first = re.match(r"[a-z_]*", message)
    return f"--data.{message}" if first and first[0] in options else f"--data: {message}"
