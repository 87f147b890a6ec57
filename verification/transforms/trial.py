"""A function with its arguments, and the classic way to its derivatives.

What is here is plain autograd: one `torch.autograd.grad` after the other, and a loop over the
examples. Of a party these are transforms; of the op in elementary operations they are the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from verification.cases.transforms import Op, Party

BATCH = 3  # examples, models or cotangents at a time


@dataclass(frozen=True)
class Trial:
    """A function with its arguments, which come in this order: inputs, fixed, buffers.

    Attributes:
        op: what is tried.
        party: whose module it is.
        other: the party to exchange state dicts with.
        function: of the arguments.
        inputs: the tensors with a gradient; for vmap with the examples in a new first dimension.
        fixed: the tensors without.
        buffers: the tensors that are moved in place.
        cotangent: of the output (of one example).
        tangents: of the inputs (of one example).
    """

    op: Op
    party: Party
    other: Party
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    fixed: tuple[Tensor, ...]
    buffers: tuple[Tensor, ...]
    cotangent: Tensor
    tangents: tuple[Tensor, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the output for these inputs."""
        return self.function(*inputs, *self.fixed, *self.buffers)

    def loss(self, *inputs: Tensor) -> Tensor:
        """Return a number from a small net: something before the op, and something that bends.

        Of relu and dropout alone higher derivatives are zeros.
        """
        return (self.cotangent * self(*(x.clone() for x in inputs)).sin()).sum()

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """All arguments of the function."""
        return (*self.inputs, *self.fixed, *self.buffers)

    @property
    def all_inputs(self) -> tuple[int, ...]:
        """The `argnums` of all inputs."""
        return tuple(range(len(self.inputs)))

    def leaves(self) -> tuple[Tensor, ...]:
        """Return the inputs as leaves of a graph."""
        return tuple(t.detach().requires_grad_() for t in self.inputs)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Trial:
        """Return the trial with every tensor changed."""
        names = ("inputs", "fixed", "buffers", "tangents")
        changed: Any = {name: tuple(change(t) for t in getattr(self, name)) for name in names}
        return replace(self, cotangent=change(self.cotangent), **changed)

    def example(self, number: int) -> Trial:
        """Return the trial of one of several examples."""
        fixed = self.fixed
        if "random" in self.op.kinds:  # the masks, which the examples don't share
            fixed = tuple(mask[number] for mask in fixed)
        return replace(self, inputs=tuple(t[number] for t in self.inputs), fixed=fixed)


Run = Callable[[Trial], Any]  # returns tensors, in tuples and lists


class Wrong(Exception):
    """A transform ran, and what came of it is wrong, which no tensor shows."""


def value(t: Trial) -> Any:
    """Return the output."""
    return t(*t.inputs)


def gradients(t: Trial) -> Any:
    """Return the output, and the gradients for the cotangent."""
    inputs = t.leaves()
    output = t(*inputs)
    return output, grad(output, inputs, t.cotangent)


def derivatives(t: Trial, order: int = 1) -> Any:
    """Differentiate the loss along the tangents, `order` − 1 times, then by every input."""
    inputs = t.leaves()
    number = t.loss(*inputs)
    for _ in range(order - 1):
        slopes = grad(number, inputs, create_graph=True)
        number = torch.stack([(g * d).sum() for g, d in zip(slopes, t.tangents, strict=True)]).sum()
    return grad(number, inputs)


def jacobian(t: Trial) -> Any:
    """Return the output's derivatives by every input."""
    inputs = t.leaves()
    return _rows(t(*inputs), inputs)


def hessian(t: Trial) -> Any:
    """Return the loss' second derivatives by every pair of inputs."""
    inputs = t.leaves()
    slopes = grad(t.loss(*inputs), inputs, create_graph=True)
    return [_rows(slope, inputs) for slope in slopes]


def along_tangents(t: Trial) -> Any:
    """Return the output and its change along the tangents: the Jacobian times them."""
    output = value(t)
    pairs = zip(jacobian(t), t.tangents, strict=True)
    terms = [(j * d).flatten(output.dim()).sum(-1) for j, d in pairs]
    return output, torch.stack(terms).sum(0)


def each(truth: Run) -> Run:
    """Return the truth of several examples: a loop over them."""

    def loop(t: Trial) -> Any:
        found = [tree_leaves(truth(t.example(number))) for number in range(BATCH)]
        return [torch.stack(parts) for parts in zip(*found, strict=True)]

    return loop


def grad(
    output: Tensor, inputs: Any, cotangent: Tensor | None = None, **options: Any
) -> tuple[Tensor, ...]:
    """Return the gradients; zeros where there is none."""
    found: Any = torch.autograd.grad(output, inputs, cotangent, materialize_grads=True, **options)
    return tuple(found)


def _rows(output: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    rows = [grad(y, inputs, retain_graph=True) for y in output.flatten()]
    return [
        torch.stack(column).reshape(*output.shape, *x.shape)
        for column, x in zip(zip(*rows, strict=True), inputs, strict=True)
    ]
