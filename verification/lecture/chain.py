"""The whole chain: the lecture's gradients of a deep net, by hand and through refnet's layers.

Both are held against the oracle, which has examples in columns and goes back through batch norm
step by step, and to 1e-12 against torch twice: its builtin layers, and its autograd on the bare
formulas of the forward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import refnet.nn
from refnet import chain
from verification.oracles import Exact, exact
from verification.oracles.chain import chain as oracle
from verification.report import ANOTHER, Row
from verification.tolerance import (
    DRAWS,
    Judgement,
    Sample,
    beside_builtin,
    same_algorithm,
    worst,
)

SUBJECT = "chain"
DEPTHS = range(1, 7)
SIZES, QUICK_SIZES = (2, 3, 16, 64), (2, 16)  # of a mini-batch
ACTIVATIONS = ("sigmoid", "tanh", "relu", "leaky_relu")
INPUTS, UNITS, CLASSES = 5, (7, 6, 8), 4  # the layers take turns
Found = dict[str, Exact]  # "cost" and "grad <parameter>"


def chain_rows(
    candidate: Callable[..., Any] | None = None, *, quick: bool = False
) -> Iterator[list[Row]]:
    """Yield the rows of each depth: every activation, and all in turn, for every batch size.

    Args:
        candidate: a function with the arguments of `refnet.chain.gradients`, instead of it.
        quick: two sizes of a batch.

    Returns:
        An iterator over lists of rows; a row's note names the parameter that comes closest to its
        bound.

    Example:
        >>> rows = next(chain_rows(quick=True))
        >>> rows[0].case, rows[0].quantity, all(row.passed for row in rows)
        ('1 layer, sigmoid, m=2', 'cost by hand', True)
    """
    for depth in DEPTHS:
        rows: list[Row] = []
        for name in (*ACTIVATIONS, "all in turn"):
            turn = ACTIVATIONS if name == "all in turn" else (name,)
            activations = [turn[i % len(turn)] for i in range(depth)]
            for m in QUICK_SIZES if quick else SIZES:
                case = f"{depth} layer{'s' * (depth > 1)}, {name}, m={m}"
                rows += _rows(case, activations, m, candidate or chain.gradients)
        yield rows


def _rows(case: str, activations: list[str], m: int, by_hand: Callable[..., Any]) -> Iterator[Row]:
    net, x, y = _draw(activations, m)
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    right, scales, responses = _oracle(parameters, x, y, activations)
    torchs = _through(_copy(net, activations, nn), nn, x, y)
    plain = _autograd(parameters, x, y, activations)
    parties: dict[str, Callable[[], Found]] = {
        "by hand": lambda: _found(*by_hand(parameters, x, y, activations)),
        "through refnet's layers": lambda: _through(net, refnet.nn, x, y),
    }
    for party, run in parties.items():
        try:
            found = run()
            judged = {}
            for name, want in right.items():
                values = (found[name], want, [r[name] for r in responses], scales.get(name))
                judged[name] = worst(
                    [_judge(same_algorithm, torchs[name], *values)]
                    + [_judge(beside_builtin, b[name], *values) for b in (torchs, plain)]
                )
        except Exception as error:  # a candidate that crashes gets a row
            nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
            yield Row(SUBJECT, case, party, "float64", nan, nan, nan, "runs", ANOTHER, note)
            continue
        cost = judged.pop("cost")
        decides = worst(judged.values())
        of = next(name for name, j in judged.items() if j is decides)
        yield Row(SUBJECT, case, f"cost {party}", "float64", **_data(cost, ""))
        yield Row(SUBJECT, case, f"gradients {party}", "float64", **_data(decides, of))


def _judge(
    rule: Callable[[list[Sample]], Judgement],
    builtin: Exact,
    candidate: Exact,
    want: Exact,
    responses: list[Exact],
    scale: float | None,
) -> Judgement:
    return rule([Sample(candidate, builtin, want, responses, scale)])


def _data(judged: Judgement, of: str) -> dict[str, Any]:
    note = "; ".join(filter(None, (of.removeprefix("grad "), judged.note)))
    return vars(judged) | {"note": note, "seed": None}


def _draw(activations: Sequence[str], m: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A net with weights of the lecture's size and a γ and β of its own, and a mini-batch."""
    generator = torch.Generator().manual_seed(len(activations))
    units = [UNITS[i % len(UNITS)] for i in range(len(activations))]
    net = chain.net([INPUTS, *units, CLASSES], activations).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.normal_(0, 1, generator=generator)
            if p.dim() > 1:
                p.mul_(math.sqrt(2 / p.shape[1]))
            elif name.startswith("norm") and name.endswith("weight"):
                p.mul_(0.3).add_(1)
    x = torch.randn(m, INPUTS, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (m,), generator=generator)
    return net, x, y


def _oracle(
    parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, activations: Sequence[str]
) -> tuple[Found, dict[str, float], list[Found]]:
    """The oracle's values and scales, and its values for inputs changed by ±1 ulp."""
    arrays: dict[str, Any] = {name: p.numpy() for name, p in parameters.items()}
    columns, labels = x.numpy().T, y.numpy()
    rng = np.random.default_rng(0)

    def ulp(a: Any) -> Exact:
        return exact(exact(a) + np.spacing(np.abs(a)) * rng.choice([-1, 1], a.shape))

    right = oracle(arrays, columns, labels, activations)
    responses = [
        oracle({n: ulp(a) for n, a in arrays.items()}, ulp(columns), labels, activations).values
        for _ in range(DRAWS)
    ]
    return right.values, right.scales, responses


def _found(cost: Tensor, gradients: Mapping[str, Tensor]) -> Found:
    grads = {f"grad {name}": g.detach().numpy() for name, g in gradients.items()}
    return {"cost": cost.detach().numpy(), **grads}


def _copy(net: nn.Module, activations: Sequence[str], layers: Any) -> nn.Module:
    units = [UNITS[i % len(UNITS)] for i in range(len(activations))]
    new = chain.net([INPUTS, *units, CLASSES], activations, layers).double()
    new.load_state_dict(net.state_dict())
    return new


def _through(net: nn.Module, layers: Any, x: Tensor, y: Tensor) -> Found:
    """Layers and loss, backwards through torch's engine."""
    cost = layers.CrossEntropyLoss()(net(x), y)
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(cost, list(parameters.values()))
    return _found(cost, dict(zip(parameters, gradients, strict=True)))


def _autograd(
    parameters: Mapping[str, Tensor], x: Tensor, y: Tensor, activations: Sequence[str]
) -> Found:
    """The formulas of the forward and nothing else, differentiated by torch."""
    p = {name: w.clone().requires_grad_() for name, w in parameters.items()}
    a = x
    for i, name in enumerate(activations, start=1):
        z = a @ p[f"linear{i}.weight"].T
        mu = z.mean(0)
        z_norm = (z - mu) / (((z - mu) ** 2).mean(0) + 1e-5).sqrt()
        a = _FORMULAS[name](p[f"norm{i}.weight"] * z_norm + p[f"norm{i}.bias"])
    z = a @ p["logits.weight"].T + p["logits.bias"]
    cost = -(z.exp() / z.exp().sum(1, keepdim=True))[range(len(y)), y].log().mean()
    return _found(cost, dict(zip(p, torch.autograd.grad(cost, list(p.values())), strict=True)))


_FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "tanh": lambda z: (z.exp() - (-z).exp()) / (z.exp() + (-z).exp()),
    "relu": lambda z: z * (z > 0),
    "leaky_relu": lambda z: torch.where(z > 0, z, 0.01 * z),
}
