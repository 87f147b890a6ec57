"""The oracle side: does it equal torch's builtins, and would a check have noticed if not?

Example:
    >>> import torch
    >>> from verification import verify_op
    >>> report = verify_op(lambda input: input.clamp(min=0), like="tanh", cases="easy*")
    >>> report.passed, report.failures[0].verdict
    (False, 'another function')
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verification.functions.gradient_checks import gradient_check
    from verification.functions.verify import verify_function, verify_module
    from verification.models import compare_models
    from verification.public import verify_op, verify_optimizer
    from verification.report import Report, Row

# Imported when they are asked for: torch takes its time.
_HOMES = {
    "Report": "report",
    "Row": "report",
    "compare_models": "models",
    "gradient_check": "functions.gradient_checks",
    "verify_function": "functions.verify",
    "verify_module": "functions.verify",
    "verify_op": "public",
    "verify_optimizer": "public",
}

__all__ = [
    "Report",
    "Row",
    "compare_models",
    "gradient_check",
    "verify_function",
    "verify_module",
    "verify_op",
    "verify_optimizer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
