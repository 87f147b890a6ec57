"""What turns Python into a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, func
from torch.fx.experimental.proxy_tensor import make_fx

from verification.transforms.modules import Net, forwarded, make, module_gradients
from verification.transforms.trial import Run, Trial, Wrong, gradients


def by(backend: Any, **options: Any) -> Callable[[Any], Any]:
    """Return `torch.compile` without a graph break, and without a memory of what was before."""

    def compiled(function: Any) -> Any:
        torch._dynamo.reset()
        return torch.compile(function, fullgraph=True, backend=backend, **options)

    return compiled


def compiled(t: Trial, backend: str) -> Any:
    """Forward and backward."""
    return gradients(replace(t, function=by(backend)(t.function)))


def compiled_dynamic(t: Trial) -> Any:
    """Two sizes of the batch.

    Raises:
        Wrong: the graph of the first size doesn't fit the second.
    """
    graphs = []

    def backend(graph: Any, examples: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, examples)

    size = t.inputs[0].shape[0]
    smaller = t.mapped(lambda x: (x[1:] if x.shape[:1] == (size,) else x).clone())
    function = by(backend, dynamic=True)(t.function)
    gradients(replace(smaller, function=function))
    before = len(graphs)
    found = gradients(replace(t, function=function))
    if len(graphs) > before:
        raise Wrong("compiled again for another size of the batch")
    return found


def compiled_module(t: Trial) -> Any:
    """A net, parameters and buffers included."""
    net = Net(make(t))
    return module_gradients(t, net.layer, by("aot_eager")(net))


def compiled_with(run: Run) -> Run:
    """Return a run in which a transform of `torch.func` is in the graph, too."""

    def compile_and_run(t: Trial) -> Any:
        def function(inputs: Any, tangents: Any) -> Any:
            return run(replace(t, inputs=inputs, tangents=tangents))

        return by("aot_eager")(function)(t.inputs, t.tangents)

    return compile_and_run


def exported(t: Trial, strict: bool) -> Any:
    """`torch.export` in evaluation mode, and with everything decomposed."""
    inputs = forwarded(t, t.inputs)
    program = torch.export.export(make(t).eval(), inputs, strict=strict)
    return program.module()(*inputs), program.run_decompositions().module()(*inputs)


def traced(t: Trial, tracing_mode: Any) -> Any:
    """`make_fx` of the backward."""

    def function(inputs: Any, fixed: Any, buffers: Any, cotangent: Any) -> Any:
        own = {"inputs": inputs, "fixed": fixed, "buffers": buffers, "cotangent": cotangent}
        return gradients(replace(t, **own))

    def arguments(t: Trial) -> tuple[Any, ...]:
        return t.inputs, t.fixed, t.buffers, t.cotangent

    copies = t.mapped(torch.clone)  # tracing runs the function as well
    return make_fx(function, tracing_mode=tracing_mode)(*arguments(copies))(*arguments(t))


def refuses_labels(t: Trial, call: Callable[[Any], Any], error: Any) -> Any:
    """Labels just outside the classes are an error.

    Raises:
        Wrong: they give a number.
    """
    labels, *others = t.fixed
    for wrong in (-1, t.inputs[0].shape[1]):
        bad = labels.clone()
        bad[0] = wrong
        try:
            found: Tensor = call(t.function)(*t.inputs, bad, *others)
        except error:
            continue
        raise Wrong(f"the label {wrong} gives {found.flatten()[0].item():.3g}")
    return []


def eagerly(function: Any) -> Any:
    """Change nothing."""
    return function


def by_vmap(function: Any) -> Any:
    """Call with one example of scores and labels."""
    return lambda z, y, w: func.vmap(function, (0, 0, None))(z[None], y[None], w)
