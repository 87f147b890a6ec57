"""The linear layer: any leading shape, with and without a bias, cancellation in the sums."""

from __future__ import annotations

import numpy as np
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import Arrays, Case, OpTable, normal
from verification.oracles.linear import linear as oracle


def _case(name: str, *leading: int, inputs: int, outputs: int = 6, bias: bool = True,
          scale: float = 1.0, offset: float = 0.0) -> Case:  # fmt: skip
    def draw(rng: np.random.Generator) -> Arrays:
        return {
            "input": normal(rng, *leading, inputs, scale=scale, offset=offset),
            "weight": normal(rng, outputs, inputs),
            "bias": normal(rng, outputs) if bias else None,
            "cotangent": normal(rng, *leading, outputs),
        }

    return Case(name, draw)


TABLES = (
    OpTable(
        name="linear",
        candidate=functional.linear,
        builtin=builtin.linear,
        oracle=oracle,
        differentiable=("input", "weight", "bias"),
        cases=(
            _case("easy", 32, inputs=8),
            _case("no bias", 32, inputs=8, bias=False),
            _case("one example, no batch", inputs=8),
            _case("one example", 1, inputs=8),
            _case("(2, 3, 4, in)", 2, 3, 4, inputs=8),
            _case("(2, 1, 3, 1, 2, in)", 2, 1, 3, 1, 2, inputs=8),
            _case("no examples", 0, inputs=8),
            _case("1 input, 1 output", 16, inputs=1, outputs=1),
            _case("1000 inputs", 16, inputs=1000),
            _case("scale 1e6", 32, inputs=8, scale=1e6),
            _case("scale 1e-6", 32, inputs=8, scale=1e-6),
            _case("offset 1e4", 32, inputs=100, offset=1e4),
        ),
    ),
)
