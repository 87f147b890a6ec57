"""What is done to modules: copies, state dicts, ensembles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, func

from verification.cases.transforms import Party
from verification.transforms.trial import BATCH, Run, Trial, Wrong, derivatives, each, grad, value


class Net(torch.nn.Module):
    """Somebody's net, of one layer."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor, target: Tensor | None = None) -> Any:
        """Call the layer."""
        return self.layer(input) if target is None else self.layer(input, target)


def make(t: Trial, party: Party | None = None) -> Any:
    """Return the op's module, with the trial's numbers in it."""
    module = t.op.module((party or t.party).nn).to(t.inputs[0])
    with torch.no_grad():
        for parameter, number in zip(module.parameters(), t.inputs[t.op.forwarded :], strict=True):
            parameter.copy_(number)
        for own, number in zip(module.buffers(), t.buffers, strict=False):
            own.copy_(number)
    return module


def forwarded(t: Trial, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what the module is called with: inputs that are no parameters, and labels."""
    return (*inputs[: t.op.forwarded], *(t.fixed[:1] if "labels" in t.op.kinds else ()))


def module_gradients(t: Trial, module: Any, call: Any = None) -> Any:
    """Return what `gradients` does, and leave the module's buffers in the trial's.

    Raises:
        Wrong: the batch has not been counted.
    """
    inputs = t.leaves()[: t.op.forwarded]
    output = (module if call is None else call)(*forwarded(t, inputs))
    found = grad(output, (*inputs, *module.parameters()), t.cotangent)
    for buffer, own in zip(t.buffers, module.buffers(), strict=False):
        buffer.copy_(own)
    counter = getattr(module, "num_batches_tracked", None)
    if counter is not None and counter != module.training:
        raise Wrong(f"num_batches_tracked is {counter.item()}")
    return output, found


def after(change: Callable[[Any], Any]) -> Run:
    """Return a run of what becomes of the module."""
    return lambda t: module_gradients(t, change(make(t)))


def exchange_states(t: Trial) -> Any:
    """Load the module's state into the other party's, and that one's into a new module.

    Raises:
        Wrong: they have other keys.
    """
    module, other = make(t), make(t, t.other)
    if list(module.state_dict()) != list(other.state_dict()):
        raise Wrong(f"{list(module.state_dict())}, the other's {list(other.state_dict())}")
    other.load_state_dict(module.state_dict())
    module = make(t.mapped(torch.zeros_like))
    module.load_state_dict(other.state_dict())
    return module_gradients(t, module)


def same_repr(t: Trial) -> Any:
    """The text is the other party's.

    Raises:
        Wrong: it isn't.
    """
    ours, theirs = repr(make(t)), repr(make(t, t.other))
    if ours != theirs:
        raise Wrong(f"{ours}, the other's {theirs}")
    return []


def ensemble(t: Trial, wrap: Callable[[Any], Any] = lambda function: function) -> Any:
    """Several models at once, by stacked parameters and buffers: outputs, gradients, buffers."""
    models = [make(t.example(number)) for number in range(BATCH)]
    parameters, buffers = func.stack_module_state(models)

    def loss(parameters: Any, buffers: Any, *inputs: Tensor) -> Any:
        state = (parameters, buffers)
        clones = tuple(x.clone() for x in inputs)  # from a layer before
        output = func.functional_call(models[0], state, forwarded(t, clones))
        return (t.cotangent * output.sin()).sum(), output

    inputs = t.inputs[: t.op.forwarded]
    slopes = func.grad(loss, argnums=(0, *range(2, 2 + len(inputs))), has_aux=True)
    of_all = wrap(func.vmap(slopes, randomness="different"))
    found, output = of_all(parameters, buffers, *inputs)
    by_parameters, *by_inputs = found
    return output, by_inputs, by_parameters, list(buffers.values())[: len(t.buffers)]


def model_by_model(t: Trial) -> Any:
    """The truth of `ensemble`."""

    def one(t: Trial) -> Any:
        moved = t.op.moved(*t.arguments) if t.op.moved else t.buffers
        return value(t), derivatives(t), moved

    return each(one)(t)
