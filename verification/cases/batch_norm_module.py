"""Batch norm as a module, `BatchNorm1d/2d/3d`: every pair of the constructor's options.

A module is called as a function: it is built from the options of a case, and gets the case's
tensors for its parameters and buffers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import nn as builtin

from refnet import nn
from verification.cases import (
    DTYPES,
    LAYOUTS,
    NO_LAYOUTS,
    OFFSETS,
    SCALES,
    Arrays,
    Case,
    OpTable,
    holding,
    normal,
    shape_of,
    space,
    spread,
)
from verification.cases.pairs import Options, Values, combinations
from verification.oracles import Result, exact
from verification.oracles.batch_norm import batch_norm as oracle

COUNT = 3  # batches that the module has seen before
SHAPES = {"2": (8, 3), "3": (4, 3, 2), "4": (2, 3, 2, 2), "5": (2, 3, 1, 2, 2)}
MODULES = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}

OPTIONS = Options(
    {
        "affine": ("True", "False"),
        "bias": ("True", "False"),
        "track_running_stats": ("True", "False"),
        "training": ("True", "False"),
        "momentum": ("0.1", "0.7", "0", "None"),
        "eps": ("1e-5", "1e-3"),
        "dims": tuple(SHAPES),
        "layout": LAYOUTS,
        "parameters": ("input", "float32"),
        "dtype": DTYPES,
    },
    (
        *NO_LAYOUTS,
        ("parameters are wider than a half-precision input only", {
            "parameters": ["float32"], "dtype": ["float64"]}),
    ),
)  # fmt: skip

_ONE_VALUE = [
    ("one value per channel", {option: [value], "n": ["1"], **flat})
    for option, value in (("training", "True"), ("track_running_stats", "False"))
    for flat in ({"dims": ["2"]}, {"side": ["1"]})
]


def called(namespace: ModuleType) -> Callable[..., Tensor]:
    """Return a function that builds a namespace's batch norm for a case, and calls it."""

    def call(
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        num_batches_tracked: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        training: bool,
        **options: Any,
    ) -> Tensor:
        layer = getattr(namespace, MODULES[input.dim()])
        given = {
            "weight": weight,
            "bias": bias,
            "running_mean": running_mean,
            "running_var": running_var,
            "num_batches_tracked": num_batches_tracked,
        }
        bias_option = "bias" in inspect.signature(layer).parameters  # new in torch 2.12
        if bias_option:
            options["bias"] = bias is not None
        module = layer(input.shape[1], **options).train(training)
        if not bias_option and bias is None:
            module.register_parameter("bias", None)
        tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
        result: Tensor = torch.func.functional_call(module, tensors, (input,), strict=True)
        return result

    return call


def _oracle(
    input: Any,
    running_mean: Any,
    running_var: Any,
    num_batches_tracked: Any,
    weight: Any,
    bias: Any,
    training: bool,
    momentum: float | None,
    eps: float,
    affine: bool,
    track_running_stats: bool,
    cotangent: Any,
    mean_error: float = 0.0,
) -> Result:
    by_batch = training or not track_running_stats
    share: Any = 1 / np.longdouble(COUNT + 1) if momentum is None else momentum
    result = oracle(
        input, running_mean, running_var, weight, bias,
        training=by_batch, momentum=share, eps=eps, cotangent=cotangent, mean_error=mean_error,
    )  # fmt: skip
    if num_batches_tracked is not None:
        counted = exact(num_batches_tracked + training)
        return Result(result.values | {"num_batches_tracked": counted}, result.scales)
    return result


def _case(values: Values) -> Case:
    affine, tracked = values["affine"] == "True", values["track_running_stats"] == "True"
    biased, shape = affine and values["bias"] == "True", shape_of(values, SHAPES)
    momentum = None if values["momentum"] == "None" else float(values["momentum"])

    def draw(rng: np.random.Generator) -> Arrays:
        channels = shape[1]
        return {
            "input": normal(rng, *shape, **spread(values)),
            "running_mean": normal(rng, channels) if tracked else None,
            "running_var": rng.uniform(0.5, 2.0, channels) if tracked else None,
            "num_batches_tracked": np.array(COUNT) if tracked else None,
            "weight": normal(rng, channels) if affine else None,
            "bias": normal(rng, channels) if biased else None,
            "cotangent": normal(rng, *shape),
        }

    named = {name: value for name, value in values.items() if name != "dtype"}
    return Case(
        ", ".join(f"{name} {value}" for name, value in named.items()),
        draw,
        {
            "affine": affine,
            "track_running_stats": tracked,
            "training": values["training"] == "True",
            "momentum": momentum,
            "eps": float(values["eps"]),
        },
        layout=values["layout"],
        dtypes=holding(**spread(values)),
        wide=values["parameters"] == "float32",
        values=named,
    )


# More channels than a block, a vector or a thread's share holds, and an odd number of them. It
# stands for no pair of options: difference quotients of 3,075 elements would take a minute.
WIDE = replace(_case({
    "affine": "True", "bias": "True", "track_running_stats": "True", "training": "True",
    "momentum": "0.1", "eps": "1e-5", "dims": "2", "layout": "contiguous", "parameters": "input",
    "n": "3", "channels": "1025", "side": "1",
}), values={})  # fmt: skip

TABLES = (
    OpTable(
        name="BatchNorm",
        candidate=called(nn),
        builtin=called(builtin),
        oracle=_oracle,
        rounded="mean_error",
        differentiable=("input", "weight", "bias"),
        cases=(*map(_case, combinations(OPTIONS)), WIDE),
        buffers=("running_mean", "running_var", "num_batches_tracked"),
        parameters=("weight", "bias", "running_mean", "running_var"),
        expanded=-1,
        options=OPTIONS,
        space=space(OPTIONS, *_ONE_VALUE, **SCALES, **OFFSETS),
        make=_case,
    ),
)
