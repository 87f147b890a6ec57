"""A model, its optimizer and its loss as one party of a comparison: set its state, run it, record.

All tensors are named as the reference names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from verification.models.trees import clone, largest, map_tensors, tensors_of

Loss = Callable[[nn.Module, Any], Any]
Gradients = dict[str, Tensor | None]
OptimizerState = dict[str, dict[str, Any]]


class WrongLoss(TypeError):
    """A loss that cannot be called with a model and a batch."""


@dataclass
class State:
    """Values of parameters and buffers, and what the optimizer keeps for each parameter."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: OptimizerState


@dataclass
class Call:
    """A call of a layer.

    Attributes:
        arguments: args and kwargs.
        buffers: their values before it.
        random: the random state before it.
        entered: which of all calls began it.
        left: which of all calls ended with it.
        output: by its place in what was returned.
    """

    arguments: Any
    buffers: dict[str, Tensor]
    random: Any
    entered: int
    left: int = -1
    output: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Step:
    """A forward and a backward: calls by layer, the loss, gradients, and buffers afterwards."""

    calls: dict[str, list[Call]]
    loss: Tensor
    gradients: Gradients
    buffers: dict[str, Tensor]

    def terms(self, buffer: str) -> float:
        """Return the size of what went into the layer that has a buffer."""
        calls = self.calls.get(buffer.rpartition(".")[0], [])
        return max((largest(call.arguments) for call in calls), default=0.0)


class Party:
    """One of the models that run in lockstep.

    Args:
        model: its layers are changed by running them.
        optimizer: of its parameters; None for a forward and a backward alone.
        loss: of the model and a batch.
        layers: names of the layers to record.
        parameters: for each name that the reference gives, the model's own.
        buffers: likewise.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        loss: Loss,
        layers: Sequence[str],
        parameters: Mapping[str, str],
        buffers: Mapping[str, str],
    ) -> None:
        self.model, self.optimizer, self.loss, self.layers = model, optimizer, loss, layers
        self.keeps_own_state = False  # its optimizer knows nothing of the reference's state
        self.modules = dict(model.named_modules())
        own = dict(model.named_parameters())
        self.parameters = {name: own[mine] for name, mine in parameters.items()}
        # A buffer may become another tensor: it is asked of its home each time.
        self._homes = {name: mine.rpartition(".")[::2] for name, mine in buffers.items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers that both models have."""
        return self.buffers_of("")

    def buffers_of(self, layer: str) -> dict[str, Tensor]:
        """Return those in one of the model's layers."""
        return {
            name: buffer for name, (home, local) in self._homes.items()
            if not layer or f"{home}.".startswith(f"{layer}.")
            if (buffer := self.modules[home]._buffers[local]) is not None
        }  # fmt: skip

    @property
    def optimizer_state(self) -> OptimizerState:
        """What the optimizer keeps, but for what is None."""
        states = {} if self.optimizer is None else self.optimizer.state
        return {
            name: {key: value for key, value in states[p].items() if value is not None}
            for name, p in self.parameters.items() if p in states
        }  # fmt: skip

    def options(self, parameter: str) -> dict[str, Any]:
        """Return the options that the optimizer has for a parameter, none where it has not that."""
        own = self.parameters[parameter]
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        for group in groups:
            if any(p is own for p in group["params"]):
                return {name: value for name, value in group.items() if name != "params"}
        return {}

    def state(self) -> State:
        """Return copies of everything."""
        return State(*(_detached(v) for v in (self.parameters, self.buffers, self.optimizer_state)))

    def load(self, state: State) -> None:
        """Take over copies of everything that both models have."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state.parameters[name])
        self.load_buffers(state.buffers)
        if self.optimizer is None or self.keeps_own_state:
            return
        held = {p for group in self.optimizer.param_groups for p in group["params"]}
        for name, parameter in self.parameters.items():
            if name in state.optimizer and parameter in held:
                self.optimizer.state[parameter] = _detached(state.optimizer[name])
            else:
                self.optimizer.state.pop(parameter, None)

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Take over copies of buffers."""
        with torch.no_grad():
            for name, buffer in self.buffers.items():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])

    def run(self, batch: Any, seed: int) -> Step:
        """Run forward and backward on a copy of a batch."""
        for parameter in self.model.parameters():
            parameter.grad = None
        torch.manual_seed(seed)
        with recorded(self, self.layers) as calls:
            loss = self._loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: None if p.grad is None else p.grad.detach().clone()
            for name, p in self.parameters.items()
        }
        return Step(calls, loss.detach(), gradients, _detached(self.buffers))

    def _loss(self, batch: Any) -> Tensor:
        called: list[bool] = []
        handle = self.model.register_forward_pre_hook(lambda *_: called.append(True))
        try:
            return scalar(self.loss(self.model, clone(batch)))
        except (TypeError, AttributeError) as error:
            if called:  # the model's own, or what the loss makes of its output
                raise
            types = f"{type(self.model).__name__}, {type(batch).__name__}"
            raise WrongLoss(
                f"loss is called with a model and a batch, here loss({types}), and raised "
                f"{type(error).__name__} before it called the model: {error}. A function of output "
                "and target is loss=lambda model, batch: function(model(batch[0]), batch[1])"
            ) from error
        finally:
            handle.remove()

    def step(self, gradients: Gradients) -> State:
        """Make a step of the optimizer with given gradients and return what it leads to."""
        for name, parameter in self.parameters.items():
            gradient = gradients.get(name)
            parameter.grad = None if gradient is None else gradient.clone()
        if self.optimizer is not None:
            self.optimizer.step()
        return self.state()


def scalar(loss: Any) -> Tensor:
    """Return the loss itself of what a model or a training step returns.

    Raises:
        TypeError: there is none.
    """
    if isinstance(loss, Mapping):
        loss = loss.get("loss")
    loss = getattr(loss, "loss", loss)
    if not isinstance(loss, Tensor):
        raise TypeError(f"loss must return a tensor, or something with a loss, got {type(loss)}")
    return loss


@contextmanager
def recorded(party: Party, layers: Sequence[str]) -> Iterator[dict[str, list[Call]]]:
    """Record every call of the layers."""
    calls: dict[str, list[Call]] = {name: [] for name in layers}
    counter = iter(range(2**62))
    handles = []
    for name in layers:

        def before(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            held = {n: buffer.clone() for n, buffer in party.buffers_of(name).items()}
            call = Call(clone((args, kwargs)), held, random_state(), next(counter))
            calls[name].append(call)

        def after(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            call = [call for call in calls[name] if call.left < 0][-1]
            call.left = next(counter)
            call.output = {path: t.detach().clone() for path, t in tensors_of(output)}

        module = party.modules[name]
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def random_state() -> tuple[Tensor, list[Tensor]]:
    """Return the random states of torch, on the CPU and on the GPUs in use."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), cuda


def set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    """Go back to a random state."""
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Put torch's random states back at the end."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)


def _detached(value: Any) -> Any:
    return map_tensors(lambda t: t.detach().clone(), dict(value))
