"""What stands around a call: checkpoints, hooks, precision, modes of dispatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from verification.transforms.trial import Run, Trial, Wrong, grad, gradients, value


def gradients_in(mode: Callable[[], AbstractContextManager[Any]]) -> Run:
    """Return a run of forward and backward in a mode."""

    def run(t: Trial) -> Any:
        with mode():
            return gradients(t)

    return run


def copying() -> AbstractContextManager[Any]:
    """Keep copies of what is saved for the backward, and give out copies of them."""
    return saved_tensors_hooks(lambda saved: saved.clone(), lambda kept: kept.clone())


@contextmanager
def deterministic() -> Iterator[None]:
    """Refuse what isn't reproducible."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class FunctionMode(TorchFunctionMode):
    """Sees every call of torch, and lets it pass."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the function."""
        return function(*args, **(kwargs or {}))


def checkpointed(t: Trial, use_reentrant: bool) -> Any:
    """The forward runs again in the backward."""
    inputs = t.leaves()
    output = checkpoint(t, *inputs, use_reentrant=use_reentrant)
    output.backward(t.cotangent)  # a reentrant one has no autograd.grad
    return output, [x.grad for x in inputs]


def autocast(t: Trial, dtype: torch.dtype, half_input: bool) -> Any:
    """Mixed precision; the input is in float32, or as the layer before left it."""
    first, *others = t.leaves()
    if half_input:
        first = first.detach().to(dtype).requires_grad_()
    with torch.autocast(first.device.type, dtype):
        output = t(first, *others)
    return output, grad(output, (first, *others), t.cotangent.to(output.dtype))


def inference_mode(t: Trial) -> Any:
    """Tensors without a version."""
    with torch.inference_mode():
        return value(replace(t, inputs=tuple(x.clone() for x in t.inputs)))


def no_grad(t: Trial) -> Any:
    """Without a graph; buffers move all the same.

    Raises:
        Wrong: there is a graph.
    """
    with torch.no_grad():
        output = t(*t.leaves())
    if output.requires_grad:
        raise Wrong("the output requires a gradient")
    return output


def meta(t: Trial) -> Any:
    """Shapes and dtypes alone, on the device without memory."""
    return gradients(t.mapped(lambda x: x.to("meta")))


def fake(t: Trial) -> Any:
    """Shapes and dtypes alone, under a dispatch mode."""
    with FakeTensorMode() as mode:
        return gradients(t.mapped(mode.from_tensor))


def count_flops(t: Trial) -> Any:
    """A dispatch mode that sees every operation of forward and backward, and counts."""
    with FlopCounterMode(display=False) as counter:
        found = gradients(t)
    return found, torch.tensor(counter.get_total_flops())


class Subclass(Tensor):
    """A tensor of somebody's."""


def subclass(t: Trial) -> Any:
    """The output is of the inputs' class.

    Raises:
        Wrong: it isn't.
    """
    inputs = t.leaves()
    output = t(*[x.as_subclass(Subclass) for x in inputs])
    if type(output) is not Subclass:
        raise Wrong(f"the output is a {type(output).__name__}")
    return [x.as_subclass(Tensor) for x in (output, *grad(output, inputs, t.cotangent))]
