"""Run every op under every transform, ours and the builtin, and show it all in one table."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_leaves

from verification.cases.transforms import BUILTIN, OPS, REFNET, Op, P, Party
from verification.report import ANOTHER, AS_GOOD, BETTER, WORSE, Row
from verification.transforms import TRANSFORMS, Transform
from verification.transforms.trial import BATCH, Trial, Wrong

SUPPORT = "support"  # the quantity of the rows that are made here
YES, NO, WRONG = "yes", "no", "wrong"
FLOOR = 1e-3  # of the scale of an error: gradients that cancel are nothing but rounding
SIGMAS = 5  # how far the share of kept units may be from 1 − p
LONGEST = 160  # characters of a message
SYMBOLS = {
    "✓": "both work",
    "+": "ours works, the builtin refuses or is wrong",
    "−": "the builtin works, ours refuses",
    "✗": "ours is wrong",
    "·": "neither works",
}


def verify_support(
    ops: Sequence[Op] = OPS,
    transforms: Sequence[Transform] = TRANSFORMS,
    *,
    candidate: Party = REFNET,
    builtin: Party = BUILTIN,
    quick: bool = False,
    device: str = "cpu",
) -> Iterator[list[Row]]:
    """Yield the rows of the support table, a list per op.

    Args:
        ops: the columns.
        transforms: the lines.
        candidate: the party in question.
        builtin: the one that it is compared with.
        quick: without the slow transforms.
        device: where both compute.

    Returns:
        An iterator over lists of rows.

    Example:
        >>> relu = [op for op in OPS if op.name == "relu"]
        >>> [row] = next(verify_support(relu, TRANSFORMS[:1]))
        >>> row.subject, row.case, row.verdict
        ('relu', 'backward', 'as good')
    """
    for op in ops:
        yield [
            judge(op, transform, candidate, builtin, device)
            for transform in transforms
            if transform.applies(op, device) and not (quick and transform.slow)
        ]


def judge(
    op: Op,
    transform: Transform,
    candidate: Party = REFNET,
    builtin: Party = BUILTIN,
    device: str = "cpu",
) -> Row:
    """Put both parties under a transform and compare them with the truth.

    Returns:
        A row. *another function*: ours is wrong in a value or a shape, or in a dtype that the
        builtin has otherwise; *worse*: the builtin works and ours refuses; *better*: ours works
        and the builtin refuses or is wrong; *as good*: the rest. Numbers are the relative errors.
    """
    ours = _outcome(op, transform, candidate, builtin, device)
    theirs = _outcome(op, transform, builtin, candidate, device)
    if ours.kind == theirs.kind == YES and ours.dtypes != theirs.dtypes:
        ours = _Outcome(WRONG, f"{ours.dtypes}, the builtin's {theirs.dtypes}", math.inf)
    if ours.kind == WRONG:
        verdict = ANOTHER
    elif ours.kind == YES:
        verdict = AS_GOOD if theirs.kind == YES else BETTER
    else:
        verdict = WORSE if theirs.kind == YES else AS_GOOD
    note = f"ours: {ours}; builtin: {theirs}"
    if ours.kind == theirs.kind:
        note = {YES: "", NO: f"both refuse: {ours.message}"}.get(ours.kind, note)
    return Row(op.name, transform.name, SUPPORT, _short(transform.dtype), ours.error, theirs.error,
               transform.bound, "definition", verdict, note)  # fmt: skip


@dataclass(frozen=True)
class _Outcome:
    """What became of a party under a transform."""

    kind: str  # YES, NO or WRONG
    message: str = ""
    error: float = math.nan
    dtypes: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


def _outcome(op: Op, transform: Transform, party: Party, other: Party, device: str) -> _Outcome:
    trial = _trial(op, transform, party, other, device)
    start = trial.mapped(torch.clone)  # its buffers stay where they are
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # of batching rules that are slow, for instance
        torch.manual_seed(0)
        try:
            results = tree_leaves(transform.run(trial))
        except Wrong as error:
            return _Outcome(WRONG, str(error), math.inf)
        except Exception as error:
            return _Outcome(NO, _first_line(error))
    if not all(isinstance(result, Tensor) for result in results):
        return _Outcome(WRONG, "there is something else than tensors", math.inf)
    truth = _truth(op, transform, start)
    if "random" in op.kinds and truth.function is op.truth:
        mask, share, spread = _mask(op, truth.inputs[0], results)
        if abs(share - (1 - P)) > SIGMAS * spread:
            return _Outcome(WRONG, f"{share:.0%} of the units are kept at p = {P}", math.inf)
        truth = replace(truth, fixed=(mask,))
    expected = tree_leaves(transform.truth(truth))
    if not transform.stacked:
        results += trial.buffers
        expected += _moved(truth, transform.moves)
    distance = _distance(results, expected)
    if distance <= transform.bound:
        return _Outcome(YES, "", distance, ", ".join(_short(t.dtype) for t in results))
    return _Outcome(WRONG, f"relative error {distance:.1e}", distance)


def _trial(op: Op, transform: Transform, party: Party, other: Party, device: str) -> Trial:
    """Draw the numbers: the same ones for every party and transform."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    stacked = tuple(normal(BATCH, *shape) for shape in op.shapes)
    inputs = tuple(x[0] for x in stacked)
    fixed = (torch.ones_like(inputs[0]),) if "random" in op.kinds else op.fixed
    output = op.truth(*inputs, *fixed, *op.buffers)
    trial = Trial(
        op, party, other, partial(op.call, getattr(party.functional, op.function)),
        stacked if transform.stacked else inputs, op.fixed, op.buffers,
        cotangent=normal(*output.shape), tangents=tuple(normal(*shape) for shape in op.shapes),
    )  # fmt: skip

    def prepare(t: Tensor) -> Tensor:
        return t.to(device, transform.dtype if t.is_floating_point() else t.dtype).clone()

    return trial.mapped(prepare)


def _truth(op: Op, transform: Transform, trial: Trial) -> Trial:
    """Return the trial of the op in elementary operations, in float64."""
    function = op.evaluated if transform.evaluated and op.evaluated else op.truth
    wide = trial.mapped(lambda t: t.double() if t.is_floating_point() else t)
    return replace(wide, function=function)


def _mask(op: Op, input: Tensor, results: list[Tensor]) -> tuple[Tensor, float, float]:
    """Recover the mask of a dropout: kept is what is not zero in the first result.

    That is an output, a gradient, or the rows of a Jacobian. Parties may draw different masks, and
    do so under compilers; each is right if all that it computes follows from one of a kind.

    Returns:
        The mask in the shape of the input, the share of the units that are kept, and how far it is
        from 1 − p by chance.
    """
    if not results or _without_values(results[0]):
        return torch.ones_like(input), 1 - P, 0.0
    mask = (results[0].detach().reshape(*input.shape, -1) != 0).any(-1)
    units = mask
    if "channels" in op.kinds:
        positions = len(op.shapes[0]) - 2
        units = mask.flatten(-positions).any(-1)
        mask = units.reshape(*units.shape, *[1] * positions).expand_as(mask)
    return mask, units.double().mean().item(), math.sqrt(P * (1 - P) / units.numel())


def _moved(truth: Trial, times: int) -> tuple[Tensor, ...]:
    buffers = truth.buffers
    for _ in range(times if truth.op.moved else 0):
        buffers = truth.op.moved(*truth.inputs, *truth.fixed, *buffers)  # type: ignore[misc]
    return buffers


def _distance(results: list[Tensor], expected: list[Tensor]) -> float:
    """Return the largest relative error; infinite where shapes differ or values aren't finite."""
    if [t.shape for t in results] != [t.shape for t in expected]:
        return math.inf
    return max((_relative(*pair) for pair in zip(results, expected, strict=True)), default=0.0)


def _relative(result: Tensor, expected: Tensor) -> float:
    if _without_values(result):
        return 0.0
    result, expected = result.detach().double(), expected.detach().double()
    scale = max(expected.abs().max().item(), FLOOR)
    error = (result - expected).abs().max().item() / scale
    return error if math.isfinite(error) else math.inf


def _without_values(tensor: Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    text = f"{type(error).__name__}: {text}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def support_rows(rows: Sequence[Row]) -> list[Row]:
    """Return those rows that are cells of the support table."""
    return [row for row in rows if row.quantity == SUPPORT]


def symbol(row: Row) -> str:
    """Return what stands in a row's cell, a key of SYMBOLS."""
    both = "·" if row.note else "✓"
    return {AS_GOOD: both, BETTER: "+", WORSE: "−"}.get(row.verdict, "✗")


def print_support(console: Console, rows: Sequence[Row]) -> None:
    """Print the table: transforms down, ops across, and what there is to say of a cell below.

    Example:
        >>> [row] = next(verify_support(OPS[-1:], TRANSFORMS[:1]))
        >>> print_support(Console(width=60), [row])  # doctest: +NORMALIZE_WHITESPACE
        <BLANKLINE>
        transform sigmoid
        backward     ✓
        ✓ both work
    """
    columns, lines = _cells(rows)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
    table.add_column("transform", overflow="fold")
    for name in columns:
        heading = re.sub(r"[_ ]|(?<=-)|(?=\d)", "\n", name)
        table.add_column(escape(heading), justify="center", no_wrap=True)
    for case, cells in lines.items():
        table.add_row(escape(case), *cells)
    console.print()
    console.print(table)
    console.print(_legend(rows), markup=False)
    for what, note in _remarks(rows):
        style = "bold red" if what[0] in "−✗" else None
        console.print(f"{what}: {note}", markup=False, highlight=False, style=style)


def support_markdown(rows: Sequence[Row]) -> str:
    """Return the same table, its legend and what there is to say, as Markdown.

    Example:
        >>> [row] = next(verify_support(OPS[-1:], TRANSFORMS[:1]))
        >>> print(support_markdown([row]))
        | transform | sigmoid |
        |---|:-:|
        | backward | ✓ |
        <BLANKLINE>
        ✓ both work
        <BLANKLINE>
    """
    columns, lines = _cells(rows)
    table = [
        ["transform", *columns],
        ["---", *[":-:"] * len(columns)],
        *[[case, *cells] for case, cells in lines.items()],
    ]
    text = ["|" + "|".join(line) + "|" if line[0] == "---" else "| " + " | ".join(line) + " |"
            for line in table]  # fmt: skip
    remarks = [f"- {what}: ``{note}``" for what, note in _remarks(rows)]
    blocks = ["\n".join(text), _legend(rows), "\n".join(remarks)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _cells(rows: Sequence[Row]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the columns, and per line the symbol of each; blank where there is no row."""
    columns = list(dict.fromkeys(row.subject for row in rows))
    found = {(row.case, row.subject): symbol(row) for row in rows}
    order = {transform.name: number for number, transform in enumerate(TRANSFORMS)}
    names = sorted({row.case for row in rows}, key=lambda case: (order.get(case, len(order)), case))
    return columns, {case: [found.get((case, c), "") for c in columns] for case in names}


def _legend(rows: Sequence[Row]) -> str:
    used = {symbol(row) for row in rows}
    return ", ".join(f"{key} {text}" for key, text in SYMBOLS.items() if key in used)


def _remarks(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return every note, after the transform and all ops that it is about; what is wrong first."""
    subjects: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.note:
            subjects.setdefault((symbol(row), row.case, row.note), []).append(row.subject)
    found = sorted(subjects.items(), key=lambda item: "✗−·+".index(item[0][0]))
    return [(f"{mark} {case} of {', '.join(ops)}", note) for (mark, case, note), ops in found]
