"""Gradient checking, checked: it passes right gradients, finds wrong ones, and agrees with torch's.

ratio = ‖dθ_approx − dθ‖₂ / (‖dθ_approx‖₂ + ‖dθ‖₂), above 1e-3 for a bug, below 1e-6 without one
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from refnet import chain, nn
from refnet.regularization import l2_penalty
from verification.functions.gradient_checks import gradient_check
from verification.report import ANOTHER, AS_GOOD, Row

SUBJECT = "gradient_check"
ACTIVATIONS = ("sigmoid", "tanh", "leaky_relu")
RIGHT, BUG = 1e-6, 1e-3  # the lecture: 1e-7 is great, above 1e-3 there is a bug
STRENGTH, EXAMPLES = 3.0, 12  # λ and m

# What a mistake makes of the gradients of W, γ, β …: by name.
WRONG: dict[str, Callable[[str, Tensor, Tensor], Tensor]] = {
    "one sign turned": lambda name, p, g: -g if name == "linear1.weight" else g,
    "a bias forgotten": lambda name, p, g: 0 * g if name == "logits.bias" else g,
    "the penalty forgotten": lambda name, p, g: g - STRENGTH / EXAMPLES * p if p.dim() > 1 else g,
    "5 % too large": lambda name, p, g: 1.05 * g,
    "one element off": lambda name, p, g: g + (torch.arange(g.numel()) == 1).view_as(g) * 0.1,
}


def gradient_check_rows(*, quick: bool = False) -> Iterator[list[Row]]:
    """Yield the rows of each activation: the ratio of right gradients, and of wrong ones.

    Args:
        quick: has no effect: all of it takes a second.

    Example:
        >>> rows = next(gradient_check_rows())
        >>> rows[0].case, rows[0].quantity, all(row.passed for row in rows)
        ('sigmoid, right gradients', 'ratio', True)
    """
    for activation in ACTIVATIONS:
        try:
            yield list(_rows(activation))
        except Exception as error:  # code that crashes gets a row
            nan, note = math.nan, f"{type(error).__name__}: {error}".splitlines()[0]
            yield [Row(SUBJECT, activation, "-", "float64", nan, nan, nan, "runs", ANOTHER, note)]


def _rows(activation: str) -> Iterator[Row]:
    """A net with batch norm and dropout, whose cost has the regularization term."""
    generator = torch.Generator().manual_seed(ACTIVATIONS.index(activation))
    net = chain.net([4, 5, 3], [activation])
    net.add_module("dropout", nn.Dropout(0.2))  # its masks have to be frozen
    net = net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.7 + 0.1)
    x = torch.randn(EXAMPLES, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (EXAMPLES,), generator=generator)

    def loss() -> Tensor:
        value: Tensor = nn.CrossEntropyLoss()(net(x), y) + l2_penalty(net, STRENGTH, EXAMPLES)
        return value

    named = dict(net.named_parameters())
    torch.manual_seed(0)
    right = dict(zip(named, torch.autograd.grad(loss(), list(named.values())), strict=True))
    torch.manual_seed(0)  # the masks of the gradients above
    yield _judged(f"{activation}, right gradients", gradient_check(loss, net).ratio, RIGHT)
    # torch's own check, at a point without dropout, on the same gradients
    net.eval()
    values = tuple(named.values())
    found = torch.autograd.gradcheck(lambda *ps: loss(), values, raise_exception=False)
    differs = found != (gradient_check(loss, net).ratio <= RIGHT)
    verdict = ANOTHER if differs else AS_GOOD
    yield Row(SUBJECT, f"{activation}, right gradients", "verdict", "float64", float(differs),
              math.nan, 0.0, "torch's gradcheck", verdict)  # fmt: skip
    net.train()
    for bug, change in WRONG.items():
        wrong = [change(name, p.detach(), right[name]) for name, p in named.items()]
        torch.manual_seed(0)
        report = gradient_check(loss, net, gradients=wrong)
        yield _judged(f"{activation}, {bug}", report.ratio, BUG, bug=True)


def _judged(case: str, ratio: float, bound: float, *, bug: bool = False) -> Row:
    """A bug has to be above its bound: the row has the bound over the ratio, which is to be < 1."""
    error, most = (bound / ratio if ratio else math.inf, 1.0) if bug else (ratio, bound)
    verdict = AS_GOOD if error <= most else ANOTHER
    rule = f"ratio > {BUG:g}" if bug else f"ratio < {RIGHT:g}"
    return Row(SUBJECT, case, "ratio", "float64", error, math.nan, most, rule, verdict,
               f"ratio {ratio:.1e}")  # fmt: skip
