"""`torch.func`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, func

from verification.transforms.trial import BATCH, Run, Trial, Wrong, each, value


def derived(transform: Any, times: int = 1, *, loss: bool = True) -> Run:
    """Return a run of grad, jacrev, jacfwd or hessian, of the loss or of the output."""

    def run(t: Trial) -> Any:
        function: Any = t.loss if loss else t
        for _ in range(times):
            function = transform(function, argnums=t.all_inputs)
        return function(*t.inputs)

    return run


def vjp(t: Trial) -> Any:
    """The output, and the gradients for the cotangent."""
    pull: Any = func.vjp
    output, back = pull(t, *t.inputs)
    return output, back(t.cotangent)


def jvp(t: Trial) -> Any:
    """The output, and its change along the tangents."""
    return func.jvp(t, t.inputs, t.tangents)


def vmapped(run: Run, **options: Any) -> Run:
    """Return a run of all examples at once."""
    return lambda t: func.vmap(_of_inputs(run, t), **options)(*t.inputs)


def functionalized(run: Run) -> Run:
    """Return a run without mutations; the buffers are arguments, which are moved in the end."""

    def function(t: Trial) -> Any:
        def of_arguments(inputs: Any, buffers: Any) -> Any:
            return run(replace(t, inputs=inputs, buffers=buffers))

        return func.functionalize(of_arguments)(t.inputs, t.buffers)

    return function


def _of_inputs(run: Run, t: Trial) -> Any:
    return lambda *inputs: run(replace(t, inputs=inputs))


def vmap(t: Trial) -> Any:
    """Over all inputs; over the first alone; over the inputs and the fixed tensors."""
    first, *others = t.inputs
    fixed = [torch.stack([f] * BATCH) for f in t.fixed]
    dims = (0,) * len(t.inputs + t.fixed) + (None,) * len(t.buffers)
    return (
        func.vmap(t)(*t.inputs),
        func.vmap(t, (0, *[None] * len(others)))(first, *[other[0] for other in others]),
        func.vmap(t.function, dims)(*t.inputs, *fixed, *t.buffers),
    )


def loops(t: Trial) -> Any:
    """The truth of `vmap`."""
    first, *others = t.inputs
    alone = replace(t, inputs=(first, *[other[:1].expand_as(other) for other in others]))
    return each(value)(t), each(value)(alone), each(value)(t)


def vmap_of_masks(t: Trial, randomness: str) -> Any:
    """A mask for every example, or one for all; the gradients' masks are the outputs'.

    Raises:
        Wrong: the masks are the same, or different, and should not be.
    """
    output, slopes = vmapped(vjp, randomness=randomness)(t)
    masks: Tensor = output != 0
    if bool((masks == masks[0]).all()) != (randomness == "same"):
        raise Wrong(f"the masks are not {randomness}")
    return output, slopes
