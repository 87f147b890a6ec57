"""The uses of an optimizer: what it is made with, and the steps that it takes.

`usage.py` has candidate and builtin go through them alike.
"""

from __future__ import annotations

from functools import partial

from verification.optimizers.uses import of_options, of_parameters, of_steps
from verification.optimizers.uses.option_tables import ARGUMENTS, OPTIONS, REFUSED
from verification.optimizers.uses.steps import DEVICE, Make, NoCount, Options, Use, Wrong

__all__ = ["DEVICE", "OPTIONS", "USES", "Make", "NoCount", "Options", "Use", "Wrong", "uses_of"]

USES: dict[str, Use] = {
    "every shape": of_parameters.every_shape,
    "complex": of_parameters.complex_numbers,
    "laid out otherwise": of_parameters.laid_out,
    "groups": of_parameters.added_group,
    "schedule": of_options.schedule,
    "gradients come and go": of_parameters.absent,
    "zero_grad": of_steps.zeroed,
    "closure": of_steps.closure,
    "in place": of_steps.in_place,
    "memory of its own": of_steps.own_memory,
    "two at once": of_steps.two_at_once,
    "resumed": of_steps.resumed,
    "no parameters": of_parameters.no_parameters,
    "defaults": of_options.defaults,
    "changed options": of_options.changed,
    "rate changed in place": of_options.tensor_rate,
    "large": of_parameters.large,
    "300 steps": of_steps.long,
    "after 100000 steps": of_steps.late,
    "NaN and inf": of_parameters.not_finite,
    "hooks": of_steps.hooks,
    "frozen with a gradient": of_parameters.frozen,
}


def uses_of(name: str) -> dict[str, Use]:
    """Return the uses of an optimizer, with those that know its arguments.

    Example:
        >>> list(uses_of("SGD"))[-3:]
        ['refuses lr=-1.0', 'refuses weight_decay=-0.1', 'refuses momentum=-0.5']
    """
    refused: dict[str, Use] = {
        f"refuses {option}={value}": partial(of_options.refused, wrong=wrong)
        for wrong in REFUSED[name]
        for option, value in wrong.items()
    }
    return {**USES, "by place": partial(of_options.by_place, arguments=ARGUMENTS[name]), **refused}
