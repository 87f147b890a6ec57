"""Batch norm: training and evaluation; few and many values; variances far below and above ε."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
from torch.nn import functional as builtin

from refnet import functional
from verification.cases import (
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
from verification.cases.pairs import Options, Values
from verification.oracles.batch_norm import batch_norm as oracle


def _draw(
    rng: np.random.Generator,
    *shape: int,
    scale: float = 1.0,
    offset: float = 0.0,
    affine: str = "weight bias",
    tracked: bool = True,
    special: tuple[float, ...] = (),
    exponents: tuple[float, float] | None = None,
) -> Arrays:
    channels = shape[1]
    input = normal(rng, *shape, scale=scale, offset=offset)
    for channel, value in enumerate(special):
        input[0, channel] = value
    variances = 10 ** rng.uniform(*exponents, channels) if exponents else None
    return {
        "input": input,
        "running_mean": normal(rng, channels) if tracked else None,
        "running_var": (
            None
            if not tracked
            else rng.uniform(0.5, 2.0, channels)
            if variances is None
            else variances
        ),
        "weight": normal(rng, channels) if "weight" in affine else None,
        "bias": normal(rng, channels) if "bias" in affine else None,
        "cotangent": normal(rng, *shape),
    }


def _case(name: str, *shape: int, scale: float = 1.0, offset: float = 0.0,
          affine: str = "weight bias", tracked: bool = True, training: bool = True,
          momentum: float = 0.1, eps: float = 1e-5, layout: str = "contiguous",
          hard: bool = False, wide: bool = False, special: tuple[float, ...] = (),
          exponents: tuple[float, float] | None = None) -> Case:  # fmt: skip
    draw = partial(_draw, scale=scale, offset=offset, affine=affine, tracked=tracked,
                   special=special, exponents=exponents)  # fmt: skip
    return Case(
        name,
        lambda rng: draw(rng, *shape),
        {"training": training, "momentum": momentum, "eps": eps},
        layout=layout,
        dtypes=holding(scale, offset),
        wide=wide or hard,
        hard=hard,
    )


SPECIAL = (np.nan, np.inf, -np.inf)  # the running mean of an infinity is one, the variance NaN

# Every scale with every offset, few and many values, both layouts of images.
HARD = [
    _case(f"{name}, scale {scale:g}, offset {offset:g}", *shape,
          scale=scale, offset=offset, layout=layout, hard=True)
    for (name, shape, layout), scale, offset in product(
        (
            ("(N, C)", (64, 4), "contiguous"),
            ("N=2", (2, 4), "contiguous"),
            ("NCHW", (4, 3, 6, 5), "contiguous"),
            ("NHWC", (4, 3, 6, 5), "channels-last"),
        ),
        (1e-6, 1e-3, 1.0, 1e2, 1e6),
        (0.0, 3e2, 1e4),
    )
]  # fmt: skip

# Of random cases; the coverage of pairs is that of the module, which has these options and more.
SPACE = space(
    Options(
        {
            "training": ("True", "False"),
            "dims": ("2", "3", "4", "5"),
            "affine": ("none", "weight", "bias", "weight and bias"),
            "statistics": ("True", "False"),
            "momentum": ("0.1", "0.7", "0", "1"),
            "eps": ("1e-5", "1e-3"),
            "layout": LAYOUTS,
            "parameters": ("input", "float32"),
        },
        (
            ("nothing to evaluate by", {"training": ["False"], "statistics": ["False"]}),
            *NO_LAYOUTS,
            ("one value per channel", {"training": ["True"], "n": ["1"], "dims": ["2"]}),
            ("one value per channel", {"training": ["True"], "n": ["1"], "side": ["1"]}),
        ),
    ),
    **SCALES,
    **OFFSETS,
)  # fmt: skip


def _make(values: Values) -> Case:
    return _case(
        "random",
        *shape_of(values, {}),
        **spread(values),
        affine=values["affine"],
        tracked=values["statistics"] == "True",
        training=values["training"] == "True",
        momentum=float(values["momentum"]),
        eps=float(values["eps"]),
        layout=values["layout"],
        wide=values["parameters"] == "float32",
    )


TABLES = (
    OpTable(
        name="batch_norm",
        candidate=functional.batch_norm,
        builtin=builtin.batch_norm,
        oracle=oracle,
        rounded="mean_error",
        differentiable=("input", "weight", "bias"),
        buffers=("running_mean", "running_var"),
        parameters=("weight", "bias", "running_mean", "running_var"),
        expanded=-1,
        cases=(
            _case("easy", 64, 5),
            _case("N=2", 2, 5),
            _case("N=3", 3, 5, momentum=0.7),
            _case("N=4096", 4096, 3),
            _case("N=257, 67 channels", 257, 67),
            _case("N=3000, 24 channels", 3000, 24),
            _case("(N, C, L)", 6, 4, 5),
            _case("(N, C, H, W)", 4, 3, 6, 5),
            _case("(N, C, D, H, W)", 2, 3, 3, 2, 4),
            _case("N=1, 12 positions", 1, 3, 3, 4),
            _case("no weight, no bias", 16, 5, affine=""),
            _case("weight alone", 16, 5, affine="weight"),
            _case("bias alone", 16, 5, affine="bias"),
            _case("no running statistics", 16, 5, tracked=False),
            _case("momentum 0", 16, 5, momentum=0.0),
            _case("momentum 1", 16, 5, momentum=1.0),
            _case("eps 1e-3", 16, 5, eps=1e-3),
            _case("variance about eps", 32, 5, scale=3e-3),
            _case("variance far below eps", 32, 5, scale=1e-6),
            _case("scale 1e6", 32, 5, scale=1e6),
            _case("offset 1e2", 64, 5, offset=1e2),
            _case("offset 1e4", 64, 5, offset=1e4),
            _case("offset 1e4, images", 8, 3, 8, 8, offset=1e4),
            _case("eval", 16, 5, training=False),
            _case("eval, one example", 1, 5, training=False),
            _case("eval, images, eps 1e-3", 4, 3, 6, 5, training=False, eps=1e-3),
            _case("eval, weight alone", 16, 5, training=False, affine="weight"),
            _case("eval, bias alone", 16, 5, training=False, affine="bias"),
            _case(
                "eval, variances from 1e-8 to 1e6",
                16,
                40,
                training=False,
                wide=True,
                exponents=(-8.0, 6.0),
            ),
            _case("a channel with NaN", 16, 5, special=(np.nan,)),
            *(
                _case(f"channels with NaN and inf, {name}", *shape, special=SPECIAL, layout=layout)
                for name, shape, layout in (
                    ("(N, C)", (16, 5), "contiguous"),
                    ("NCHW", (4, 5, 3, 2), "contiguous"),
                    ("NHWC", (4, 5, 3, 2), "channels-last"),
                )
            ),
            _case(
                "eval, channels with NaN and inf",
                16,
                5,
                training=False,
                special=SPECIAL,
            ),
            _case("images, momentum 0.7, eps 1e-3", 4, 3, 6, 5, momentum=0.7, eps=1e-3),
            _case("images, weight alone, 70 channels", 2, 70, 3, 3, affine="weight"),
            _case("eval, no weight, no bias", 16, 5, training=False, affine=""),
            # What goes another way for many channels.
            _case("1025 channels", 3, 1025),
            _case("4097 channels", 2, 4097),
            _case("1025 channels, images", 2, 1025, 1, 2),
            _case("1025 channels, NHWC", 2, 1025, 1, 2, layout="channels-last"),
            _case("1025 channels, eval", 3, 1025, training=False),
            _case("transposed", 16, 5, layout="transposed"),
            _case("transposed, images", 4, 3, 6, 5, layout="transposed"),
            _case("transposed, eval", 16, 5, layout="transposed", training=False),
            _case("no examples", 0, 5),
            _case("no examples, eval", 0, 5, training=False),
            *HARD,
        ),
        space=SPACE,
        make=_make,
    ),
)
