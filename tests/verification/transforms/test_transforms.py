"""The support table: planted parties get the verdict they deserve, and refnet passes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

import refnet.functional
from verification.cases.transforms import BUILTIN, MOMENTUM, OPS, REFNET, Op, Party
from verification.report import ANOTHER, AS_GOOD, BETTER, WORSE, Report, Row
from verification.transforms import AUTOGRAD, COMPILERS, TRANSFORMS, Transform
from verification.transforms.support import (
    SYMBOLS,
    judge,
    print_support,
    support_markdown,
    support_rows,
    symbol,
    verify_support,
)

BY_NAME = {op.name: op for op in OPS}
LINES = {transform.name: transform for transform in TRANSFORMS}


def party(**functions: Any) -> Party:
    return Party(SimpleNamespace(**functions), BUILTIN.nn)


def verdict(op: str, line: str, candidate: Party, builtin: Party = BUILTIN) -> Row:
    return judge(BY_NAME[op], LINES[line], candidate, builtin)


# Planted functions


class ConstantStatistics(Function):
    """Batch norm that saves 1/σ for the backward, as if it were no function of the input."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        shape = (1, -1, *[1] * (z.dim() - 2))
        dims = [d for d in range(z.dim()) if d != 1]
        mean = z.mean(dims)
        inv_std = ((z - mean.view(shape)).square().mean(dims) + eps).rsqrt()
        ctx.save_for_backward(z, weight, mean, inv_std)
        ctx.dims, ctx.view = dims, shape
        return weight.view(shape) * (z - mean.view(shape)) * inv_std.view(shape) + bias.view(shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        z, weight, mean, inv_std = ctx.saved_tensors
        normal = (z - mean.view(ctx.view)) * inv_std.view(ctx.view)
        dweight, dbias = (dy * normal).sum(ctx.dims), dy.sum(ctx.dims)
        m = z.numel() // z.shape[1]
        inner = dy - (dbias / m).view(ctx.view) - normal * (dweight / m).view(ctx.view)
        return (weight * inv_std).view(ctx.view) * inner, dweight, dbias, None


def constant_statistics(
    z: Tensor, mean: Any, var: Any, weight: Any, bias: Any, *_: Any, eps: float
) -> Any:
    return ConstantStatistics.apply(z, weight, bias, eps)


class NoVmap(Function):
    """ReLU without a rule for vmap."""

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return z.clamp(min=0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return da * (a > 0)


class AnotherMask(Function):
    """Dropout whose backward draws again."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, p: float) -> Tensor:
        ctx.p = p
        return F.dropout(a, p)

    @staticmethod
    def backward(ctx: Any, da: Tensor) -> Any:
        return F.dropout(da, ctx.p), None


def composed_relu(z: Tensor, inplace: bool = False) -> Tensor:
    return torch.where(z > 0, z, 0)


def moving(change: Callable[[Tensor, Tensor], object]) -> Party:
    """A batch norm that does something of its own with the running variance."""

    def batch_norm(z: Tensor, mean: Tensor, var: Tensor, *rest: Any) -> Tensor:
        moved = var.clone()
        output = F.batch_norm(z, mean, moved, *rest)
        change(var, moved)
        return output

    return party(batch_norm=batch_norm)


def biased(var: Tensor, moved: Tensor) -> None:
    m = 21  # values per channel of the table's images
    var.copy_((1 - MOMENTUM) * var + (moved - (1 - MOMENTUM) * var) * (m - 1) / m)


def raising(message: str) -> Party:
    def relu(z: Tensor) -> Tensor:
        raise ValueError(message)

    return party(relu=relu)


CONSTANTS = party(batch_norm=constant_statistics)
RIGHT = party(relu=composed_relu)
NO_VMAP = party(relu=lambda z, inplace=False: NoVmap.apply(z))


@pytest.mark.parametrize(
    ("op", "line", "candidate", "builtin", "expected", "mark"),
    [
        # saved statistics: right, until they are differentiated
        ("batch_norm no stats", "backward", CONSTANTS, BUILTIN, AS_GOOD, "✓"),
        ("batch_norm no stats", "double backward", CONSTANTS, BUILTIN, ANOTHER, "✗"),
        ("batch_norm no stats", "double backward", REFNET, CONSTANTS, BETTER, "+"),
        ("batch_norm no stats", "third derivative", REFNET, BUILTIN, BETTER, "+"),
        ("batch_norm no stats", "third derivative", BUILTIN, REFNET, ANOTHER, "✗"),
        ("relu", "vmap", NO_VMAP, BUILTIN, WORSE, "−"),
        ("relu", "vmap", REFNET, NO_VMAP, BETTER, "+"),
        ("relu", "vmap", NO_VMAP, NO_VMAP, AS_GOOD, "·"),
        ("relu", "vmap", RIGHT, BUILTIN, AS_GOOD, "✓"),
        ("relu", "vmap(grad)", party(relu=lambda z, **_: z.abs()), BUILTIN, ANOTHER, "✗"),
        ("relu", "hessian", RIGHT, BUILTIN, AS_GOOD, "✓"),
        ("relu", "inference_mode", party(relu=lambda z: z.relu()[None]), BUILTIN, ANOTHER, "✗"),
        ("relu", "meta tensors", party(relu=lambda z: z.relu().T), BUILTIN, WORSE, "−"),
        ("relu", "backward", party(relu=lambda z: z.relu() * torch.nan), BUILTIN, ANOTHER, "✗"),
        ("relu", "no_grad", party(relu=lambda z: z.relu().requires_grad_()), BUILTIN, ANOTHER, "✗"),
        # buffers
        ("batch_norm", "backward", moving(lambda var, moved: None), BUILTIN, ANOTHER, "✗"),
        ("batch_norm", "backward", moving(biased), BUILTIN, ANOTHER, "✗"),
        ("batch_norm", "backward", moving(torch.Tensor.copy_), BUILTIN, AS_GOOD, "✓"),
        # masks
        ("dropout", "backward", party(dropout=AnotherMask.apply), BUILTIN, ANOTHER, "✗"),
        ("dropout", "backward", party(dropout=lambda a, p: F.dropout(a, 1 - p) / 4), BUILTIN,
         ANOTHER, "✗"),
        ("dropout", "backward", party(dropout=lambda a, p: F.dropout(a, p) * (1 - p)), BUILTIN,
         ANOTHER, "✗"),
        ("dropout2d", "backward", party(dropout2d=F.dropout), BUILTIN, ANOTHER, "✗"),
        ("dropout1d", "FakeTensorMode", party(dropout1d=lambda a, p: a), BUILTIN, AS_GOOD, "✓"),
        # labels
        ("cross_entropy indices", "label out of range, eager",
         party(cross_entropy=lambda z, y, w, **_: F.cross_entropy(z, y.clamp(0, 3), w)), BUILTIN,
         ANOTHER, "✗"),
        # a dtype of one's own
        ("linear", "autocast bfloat16", party(linear=lambda a, w, b: F.linear(a, w, b).float()),
         BUILTIN, ANOTHER, "✗"),
    ],
)  # fmt: skip
def test_verdicts(
    op: str, line: str, candidate: Party, builtin: Party, expected: str, mark: str
) -> None:
    row = verdict(op, line, candidate, builtin)
    assert (row.verdict, symbol(row)) == (expected, mark), row.note
    assert row.passed == (mark in "✓+·")


def test_the_same_mask_for_every_example_shows() -> None:
    def same(a: Tensor, p: float) -> Tensor:
        return a * (torch.arange(a.numel()).reshape(a.shape) % 5 > 0) / (1 - p)

    row = verdict("dropout", "vmap, randomness=different", party(dropout=same))
    assert row.note == "ours: wrong: the masks are not different; builtin: yes"
    assert verdict("dropout", "vmap, randomness=same", party(dropout=same)).verdict == AS_GOOD


@pytest.mark.parametrize(
    ("candidate", "builtin", "note"),
    [
        (RIGHT, BUILTIN, ""),
        (NO_VMAP, BUILTIN, "ours: no: RuntimeError: You tried to vmap over NoVmap"),
        (BUILTIN, NO_VMAP, "ours: yes; builtin: no: RuntimeError: You tried to vmap over NoVmap"),
        (NO_VMAP, NO_VMAP, "both refuse: RuntimeError: You tried to vmap over NoVmap"),
        (party(relu=lambda z: 2 * z.relu()), BUILTIN, "ours: wrong: relative error 1.0e+00; b"),
        (raising("one\ntwo"), BUILTIN, "ours: no: ValueError: one; builtin: yes"),
        (raising("raised:\ntwo\nthree"), BUILTIN, "ours: no: ValueError: raised: two; b"),
        (raising("x" * 1000), BUILTIN, "ours: no: ValueError: xxx"),
        (raising(""), BUILTIN, "ours: no: ValueError: ; b"),
    ],
)
def test_notes(candidate: Party, builtin: Party, note: str) -> None:
    row = verdict("relu", "vmap", candidate, builtin)
    assert row.note.startswith(note)
    assert bool(row.note) == bool(note)
    assert "\n" not in row.note
    assert len(row.note) < 400


def test_errors_are_numbers_where_there_are_some() -> None:
    right = verdict("tanh", "hessian", REFNET)
    assert 0 <= right.error < 1e-14
    assert math.isnan(verdict("relu", "vmap", NO_VMAP).error)
    assert verdict("relu", "backward", party(relu=lambda z: z * math.inf)).error == math.inf


def test_a_state_dict_of_other_keys_shows() -> None:
    class Linear(torch.nn.Linear):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.register_buffer("count", torch.zeros(()))

    nn = SimpleNamespace(Linear=Linear)
    row = verdict("linear", "state_dict, both ways", replace(BUILTIN, nn=nn), REFNET)
    assert row.verdict == ANOTHER
    assert "count" in row.note


def test_a_module_that_does_not_count_shows() -> None:
    class BatchNorm2d(torch.nn.BatchNorm2d):
        def forward(self, input: Tensor) -> Tensor:
            output = super().forward(input)
            self.num_batches_tracked.zero_()
            return output

    nn = SimpleNamespace(BatchNorm2d=BatchNorm2d)
    row = verdict("batch_norm", "deepcopy", replace(BUILTIN, nn=nn), REFNET)
    assert (row.verdict, "num_batches_tracked is 0" in row.note) == (ANOTHER, True)


def test_nothing_is_left_behind() -> None:
    before = torch.random.get_rng_state()
    for line in ("deterministic algorithms", "vmap, randomness=same", "forward mode"):
        verdict("dropout", line, REFNET)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert verdict("batch_norm", "backward", REFNET) == verdict("batch_norm", "backward", REFNET)


# refnet

EAGER = [t for t in TRANSFORMS if t not in COMPILERS and not t.slow and "aot" not in t.name]


def passes(ops: Sequence[Op], transforms: Sequence[Transform]) -> None:
    Report([r for rows in verify_support(ops, transforms) for r in rows]).raise_if_failed()


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_refnet_passes(op: Op) -> None:
    passes([op], EAGER)


@pytest.mark.parametrize("op", ["batch_norm", "dropout in-place"])
def test_refnet_passes_under_compilers(op: str) -> None:
    """Two that write into what they get; `make verify` does it with all."""
    lines = [t for t in TRANSFORMS if t not in EAGER and "inductor" not in t.name]
    passes([BY_NAME[op]], lines)


# The tables themselves


def test_every_public_op_is_there() -> None:
    assert {op.function for op in OPS} == set(refnet.functional.__all__)


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(OPS)
    assert len(LINES) == len(TRANSFORMS)


def test_the_batch_has_a_size_of_its_own() -> None:
    """The dynamic transform tells the batch by its size, and makes it smaller by one."""
    for op in OPS:
        batch, *others = op.shapes[0]
        sizes = {*others, *(size for shape in op.shapes[1:] for size in shape if size != batch)}
        assert not sizes & {batch, batch - 1}, op.name


def test_blank_where_a_transform_is_about_something_else() -> None:
    labels, masks = LINES["label out of range, eager"], LINES["vmap, randomness=same"]
    assert [op.name for op in OPS if labels.applies(op)] == ["cross_entropy indices"]
    assert {op.function for op in OPS if masks.applies(op)} == {
        "dropout", "dropout1d", "dropout2d", "dropout3d",
    }  # fmt: skip
    assert not labels.applies(BY_NAME["cross_entropy indices"], "cuda")
    assert all(t.applies(op, "cuda") for t in AUTOGRAD for op in OPS)


def test_quick_leaves_out_what_is_slow() -> None:
    lines = [replace(AUTOGRAD[0], name="a"), replace(AUTOGRAD[0], name="b", slow=True)]
    relu = [BY_NAME["relu"]]
    names = {
        quick: [row.case for rows in verify_support(relu, lines, quick=quick) for row in rows]
        for quick in (True, False)
    }
    assert names == {True: ["a"], False: ["a", "b"]}


# What is shown

GOOD = Row("relu", "backward", "support", "float64", 1e-16, 1e-16, 1e-10, "definition", AS_GOOD)
BOTH_REFUSE = replace(GOOD, subject="leaky_relu", note="both refuse: no [way]")
ROWS = [
    replace(GOOD, case="vmap", verdict=BETTER, note="ours: yes; builtin: wrong"),
    GOOD,
    replace(GOOD, subject="leaky_relu", case="vmap", verdict=ANOTHER, note="ours: wrong"),
    BOTH_REFUSE,
    replace(GOOD, subject="dropout1d", verdict=WORSE, note="ours: no; builtin: yes"),
    replace(BOTH_REFUSE, subject="tanh"),
]


def printed(rows: Sequence[Row], width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width, record=True)
    print_support(console, rows)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_the_table_has_a_line_per_transform_in_the_order_of_the_transforms() -> None:
    table = [line.split() for line in printed(ROWS) if line.startswith(("backward", "vmap"))]
    assert table == [["backward", "✓", "·", "−", "·"], ["vmap", "+", "✗"]]


def test_every_remark_is_below_with_what_is_wrong_first() -> None:
    assert printed(ROWS)[-4:] == [
        "✗ vmap of leaky_relu: ours: wrong",
        "− backward of dropout1d: ours: no; builtin: yes",
        "· backward of leaky_relu, tanh: both refuse: no [way]",
        "+ vmap of relu: ours: yes; builtin: wrong",
    ]


def test_the_legend_names_the_symbols_that_are_used() -> None:
    assert printed([GOOD])[-1] == "✓ both work"
    wide = printed(ROWS, width=200)
    assert ", ".join(f"{mark} {text}" for mark, text in SYMBOLS.items()) in wide


def test_the_whole_table_fits_160_columns() -> None:
    rows = [replace(GOOD, subject=op.name, case=line) for line in LINES for op in OPS]
    lines = printed(rows, width=160)
    full = [line for line in lines if line.count("✓") == len(OPS)]
    assert len(full) == len(LINES)
    assert not any("…" in line for line in lines)
    assert {word for op in OPS for word in re.findall("[a-z]+", op.name)} <= set(
        re.findall("[a-z]+", " ".join(lines))
    )


def test_markdown() -> None:
    assert support_markdown(ROWS).splitlines() == [
        "| transform | relu | leaky_relu | dropout1d | tanh |",
        "|---|:-:|:-:|:-:|:-:|",
        "| backward | ✓ | · | − | · |",
        "| vmap | + | ✗ |  |  |",
        "",
        ", ".join(f"{mark} {text}" for mark, text in SYMBOLS.items()),
        "",
        "- ✗ vmap of leaky_relu: ``ours: wrong``",
        "- − backward of dropout1d: ``ours: no; builtin: yes``",
        "- · backward of leaky_relu, tanh: ``both refuse: no [way]``",
        "- + vmap of relu: ``ours: yes; builtin: wrong``",
    ]


def test_the_rows_are_rows_of_a_report() -> None:
    row = verdict("relu", "backward", REFNET)
    other = replace(row, quantity="output")
    assert support_rows([other, row]) == [row]
    loaded = json.loads(Report([row]).to_json())["rows"]
    known = {name: value for name, value in loaded[0].items() if value is not None}  # NaN is null
    assert (Row(**known), len(loaded)) == (row, 1)
