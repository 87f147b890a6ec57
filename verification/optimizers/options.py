"""Which options an optimizer takes in which situation: works, or is refused, as the builtin?

Every value of every option, alone in all situations and in pairs in the plain ones, goes through
both parties. A party works, and then values, dtypes, names and layouts of parameters and state are
compared; or it refuses, and then the types and the texts of the errors are.
"""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from verification.cases.optimizers import OptimizerTable
from verification.report import ANOTHER, AS_GOOD, BETTER, WORSE, Row

Options = Mapping[str, Any]
Make = Callable[..., Any]
Names = tuple[str, ...]

QUANTITY = "options"
SYMBOLS = {
    "✓": "both work, to the same values",
    "·": "both refuse, with the same error",
    "≈": "meant: both refuse, ours with a clearer error, or work, to other values",
    "+": "ours works, the builtin refuses, or differs from its own loop",
    "−": "the builtin works, ours refuses",
    "✗": "both work, to other values, or refuse, with other errors, or it is half done",
}
_VERDICTS = {"✓": AS_GOOD, "·": AS_GOOD, "≈": AS_GOOD, "+": BETTER, "−": WORSE, "✗": ANOTHER}
_LISTED = "✗−+≈"
_BOUND = 1e-12  # relative to the largest element of a tensor
_EPS = 8  # of the dtype: a bfloat16 is rounded after every operation, or once
# With `differentiable` torch corrects Adam's bias in float32, whatever the parameters are:
# 1 − β₂ᵗ of 1e-3 is then off by 1e-4 of itself.
_DIFFERENTIABLE = 1e-4

MEANT = {
    (optimizer, options, "complex"): "complex numbers are pairs of reals: ∞·i is not NaN + ∞·i"
    for optimizer, options in (("SGD", "momentum=inf"), ("AdamW", "weight_decay=inf"))
}

# Tensors of several elements as options: torch fails somewhere inside.
CLEARER = ("lr=Tensor[0.1, 0.2]", "betas=(Tensor[0.8, 0.8], Tensor(0.9,))")


@dataclass(frozen=True)
class Cell:
    """What became of a set of options in a situation.

    Attributes:
        optimizer: its name.
        options: the set, as text.
        situation: one of `SITUATIONS`.
        ours: "works", or the error.
        builtin: likewise.
        symbol: one of `SYMBOLS`.
        error: the largest relative difference, where both work.
    """

    optimizer: str
    options: str
    situation: str
    ours: str
    builtin: str
    symbol: str
    error: float


def verify_options(
    table: OptimizerTable, candidate: Make | None = None, *, pairs: bool = True
) -> Iterator[list[Row]]:
    """Yield a row for each value of each option, and one for all pairs.

    Args:
        table: the optimizer.
        candidate: a class or factory with the builtin's arguments, instead of refnet's.
        pairs: whether options are combined, too.

    Returns:
        An iterator over lists of rows; "error" is the largest difference where both work.

    Example:
        >>> from verification.cases.optimizers import optimizer_tables
        >>> rows = next(verify_options(optimizer_tables()["SGD"], pairs=False))
        >>> rows[0].case, rows[0].verdict
        ('defaults', 'as good')
    """
    for options in option_values(table.name):
        yield [_row(option_cells(table, [options], SITUATIONS, candidate), describe_all(options))]
    if pairs:
        yield [_row(option_cells(table, option_pairs(table.name), PLAIN, candidate), "pairs")]


def option_cells(
    table: OptimizerTable,
    options: Sequence[Options],
    situations: Mapping[str, Situation] | None = None,
    candidate: Make | None = None,
) -> list[Cell]:
    """Put both parties into situations.

    Args:
        table: the optimizer.
        options: sets of options, such as `option_values` and `option_pairs` return.
        situations: all of them by default.
        candidate: as in `verify_options`.

    Returns:
        A cell for each set in each situation.
    """
    make = candidate or table.candidate
    return [
        _cell(table.name, chosen, name, situation, make, table.builtin)
        for chosen in options
        for name, situation in (SITUATIONS if situations is None else situations).items()
    ]


def print_options(console: Console, cells: Sequence[Cell]) -> None:
    """Print a table: sets of options down, situations across, and what differs below."""
    for optimizer in dict.fromkeys(cell.optimizer for cell in cells):
        found = {(c.options, c.situation): c for c in cells if c.optimizer == optimizer}
        situations = list(dict.fromkeys(situation for _, situation in found))
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0))
        table.add_column(optimizer)
        for number in range(1, len(situations) + 1):
            table.add_column(str(number), justify="center")
        for options in dict.fromkeys(options for options, _ in found):
            marks = [found[options, s].symbol if (options, s) in found else "" for s in situations]
            table.add_row(escape(options), *marks)
        console.print(table)
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(situations, 1))
        console.print(f"Situations: {listed}", markup=False, highlight=False)
        for cell in found.values():
            if cell.symbol in _LISTED:
                console.print(f"{cell.symbol} {_sentence(cell)}", markup=False, highlight=False)
    console.print(", ".join(f"{key} {text}" for key, text in SYMBOLS.items()), markup=False)


def describe_all(options: Options) -> str:
    """Return the options as text.

    Example:
        >>> describe_all({"lr": torch.tensor([0.1])}), describe_all({})
        ('lr=Tensor[0.1]', 'defaults')
    """
    return " ".join(f"{name}={_text(value)}" for name, value in options.items()) or "defaults"


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        brackets = "[]" if isinstance(value, list) else "()"
        return f"{brackets[0]}{', '.join(map(_text, value))}{brackets[1]}"
    if not isinstance(value, Tensor):
        return str(value)
    return f"Tensor{[round(v, 6) for v in value.tolist()] if value.dim() else (value.item(),)}"


# The options


def _tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


_NUMBERS = (-1.0, math.nan, math.inf)
_LRS = (0.0, 0.05, 1, *_NUMBERS, _tensor(0.05)[0], _tensor(0.05), _tensor(0.1, 0.2), -_tensor(1))
_COMMON: dict[str, tuple[Any, ...]] = {
    "lr": _LRS,
    "weight_decay": (0.1, *_NUMBERS),
    "maximize": (True,),
    "foreach": (True, False),
    "differentiable": (True,),
}
_T = _tensor(0.8)[0], _tensor(0.9)[0]
_ADAM: dict[str, tuple[Any, ...]] = {
    **_COMMON,
    "betas": (
        (0.5, 0.8), (0.0, 0.9), [0.5, 0.8], (0, 0), (1.0, 0.9), (0.9, 1.0), (-0.1, 0.9),
        (0.9, math.nan), _T, (_tensor(0.8), _tensor(0.9)), (_tensor(0.8, 0.8), _T[1]), (0.9, _T[1]),
    ),
    "eps": (1e-3, 0.0, *_NUMBERS),
    "amsgrad": (True,),
    "fused": (True, False),
    "capturable": (True,),
}  # fmt: skip
OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "SGD": {
        **_COMMON,
        "weight_decay": (0.1, *_NUMBERS, _tensor(0.1)[0]),
        "momentum": (0.9, *_NUMBERS),
        "dampening": (0.5, -0.5),
        "nesterov": (True,),
        "fused": (True, False),
    },
    "RMSprop": {
        **_COMMON,
        "alpha": (0.5, 1.5, *_NUMBERS),
        "eps": (1e-3, 0.0, *_NUMBERS),
        "momentum": (0.9, *_NUMBERS),
        "centered": (True,),
        "capturable": (True,),
    },
    "Adam": {**_ADAM, "decoupled_weight_decay": (True,)},
    "AdamW": _ADAM,
}


def option_values(optimizer: str) -> list[Options]:
    """Return the defaults, then every value of every option of an optimizer."""
    table = OPTIONS[optimizer]
    return [{}, *({name: value} for name, values in table.items() for value in values)]


def option_pairs(optimizer: str) -> list[Options]:
    """Return all pairs of two options' values that are not refused by themselves."""
    table = OPTIONS[optimizer]
    some = {name: [v for v in values if _valid(v)] for name, values in table.items()}
    return [
        {a: first, b: second}
        for a, b in combinations(some, 2)
        for first in some[a]
        for second in some[b]
    ]


def _valid(value: Any) -> bool:
    items = value if isinstance(value, tuple | list) else (value,)
    return all(
        i.numel() == 1 and i >= 0 if isinstance(i, Tensor) else i is True or 0 <= i < math.inf
        for i in items
    ) and not (isinstance(value, tuple) and describe_all({"": value}) in _REFUSED)


_REFUSED = {describe_all({"": v}) for v in ((0, 0), (1.0, 0.9), (0.9, 1.0), (0.9, _T[1]))}


# The situations: each makes parameters and an optimizer, takes steps, and returns what to compare

Situation = Callable[[Make, Make, Options], Any]
Shapes = Sequence[tuple[int, ...]]
F64 = torch.float64
_SHAPES: Shapes = ((3, 2), (4,), (), (0,))


def _parameters(dtypes: Sequence[torch.dtype] = (F64,), shapes: Shapes = _SHAPES) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(_normal(s, dtype, g)) for dtype in dtypes for s in shapes]


def _normal(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Draw in double precision, so that every dtype gets the same numbers."""
    wide = torch.complex128 if dtype.is_complex else F64
    return torch.randn(shape, generator=generator, dtype=wide).to(dtype)


def _steps(optimizer: Any, params: Sequence[Tensor], count: int = 3, seed: int = 1) -> None:
    g = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in params:
            p.grad = _normal(p.shape, p.dtype, g)
        optimizer.step()


def _results(optimizer: Any, params: Sequence[Tensor]) -> Any:
    """Parameters and state, and whatever else of the optimizer a script may read."""
    state = [
        {name: value for name, value in optimizer.state.get(p, {}).items() if value is not None}
        for p in params
    ]
    entries = [p in optimizer.state for p in params]
    groups = [sorted(set(group) - {"eps_inside_root"}) for group in optimizer.param_groups]
    return list(params), state, entries, groups


def _plain(dtypes: Sequence[torch.dtype], shapes: Shapes = _SHAPES) -> Situation:
    def situation(make: Make, other: Make, options: Options) -> Any:
        params = _parameters(dtypes, shapes)
        optimizer = make(params, **options)
        _steps(optimizer, params)
        return _results(optimizer, params)

    return situation


def _laid_out(make: Make, other: Make, options: Options, *, as_parameter: bool) -> Any:
    """Transposed and channels-last parameters, with gradients laid out as they are, or not."""
    params = [torch.nn.Parameter(p.detach().t()) for p in _parameters(shapes=((3, 2), (5, 4)))]
    images = _parameters(shapes=((2, 3, 4, 4),))[0].detach().to(memory_format=torch.channels_last)
    params.append(torch.nn.Parameter(images))
    optimizer = make(params, **options)
    for count in range(3):
        for p in params:
            grad = torch.arange(p.numel(), dtype=F64).view(p.shape) - count
            p.grad = torch.empty_like(p).copy_(grad) if as_parameter else grad
        optimizer.step()
    return _results(optimizer, params)


def _views(make: Make, other: Make, options: Options) -> Any:
    memory = _parameters(shapes=((6,),))[0].detach()
    params = [memory[:4].requires_grad_(), memory[2:].requires_grad_()]
    optimizer = make(params, **{**options, "foreach": False} if "foreach" in options else options)
    _steps(optimizer, params)
    return _results(optimizer, params)


def _absent(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    params[1].requires_grad_(False)
    optimizer = make(params, **options)
    for count in range(3):
        _steps(optimizer, params[:1] if count == 1 else params[2:], 1, count)
        for p in params:
            p.grad = None
    optimizer.step()
    return _results(optimizer, params)


class Wrong(Exception):
    """A party works, or refuses, and what is left is not what it has to be."""


def _sparse(make: Make, other: Make, options: Options) -> Any:
    shapes = ((3,), (4, 2))
    params = _parameters(shapes=shapes)
    optimizer = make(params, **options)
    for count in range(3):
        params[0].grad = torch.ones(3, dtype=F64)
        rows = torch.tensor([[0, 2, 2]])
        values = torch.arange(6, dtype=F64).view(3, 2) + count
        params[1].grad = torch.sparse_coo_tensor(rows, values, (4, 2), check_invariants=True)
        try:
            optimizer.step()
        except Exception as error:
            refused = "does not support sparse" in str(error)
            if refused and not torch.equal(params[0], _parameters(shapes=shapes)[0]):
                raise Wrong("a step that is refused has changed a parameter") from error
            raise
    params, state, *rest = _results(optimizer, params)
    dense = [{n: v.to_dense() if v.is_sparse else v for n, v in s.items()} for s in state]
    return params, dense, *rest


def _not_finite(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    for values in ((1.0, math.inf, -math.inf, math.nan), (0.0, -0.0, 1e-300, 1e300)):
        params[1].grad = torch.tensor(values, dtype=F64)
        optimizer.step()
    return _results(optimizer, params)


def _closure(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    losses = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.no_grad():
        losses += [optimizer.step(closure).detach() for _ in range(3)]
    return losses, _results(optimizer, params)


def _in_a_group(make: Make, other: Make, options: Options) -> Any:
    """The options come with a group, past the constructor's checks, and a group comes later."""
    params = _parameters()
    optimizer = make([{"params": params[:1], **options}, {"params": params[1]}])
    _steps(optimizer, params[:2])
    optimizer.add_param_group({"params": params[2:], **options})
    _steps(optimizer, params)
    return _results(optimizer, params)


def _named(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make([(f"p{i}", p) for i, p in enumerate(params)], **options)
    _steps(optimizer, params)
    names = [group["param_names"] for group in optimizer.state_dict()["param_groups"]]
    return names, _results(optimizer, params)


def _checkpoints(make: Make, other: Make, options: Options) -> Any:
    """From one party to the other in the middle of training, and back."""
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params, 2)
    for count, party in enumerate((other, make)):
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer = party(params, **options)
        optimizer.load_state_dict(saved)
        _steps(optimizer, params, 2, seed=count)
    return _results(optimizer, params)


_LATE = (
    "maximize", "foreach", "capturable", "differentiable", "fused", "nesterov", "amsgrad",
    "decoupled_weight_decay", "centered", "eps_inside_root",
)  # fmt: skip


def _old_checkpoint(make: Make, other: Make, options: Options) -> Any:
    """From before these options, with a step count that is a number and buffers that are None."""
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params)
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for name in _LATE:
            group.pop(name, None)
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = int(state["step"])
    if not saved["state"]:
        saved["state"] = {0: {"momentum_buffer": None}}
    resumed = make(params, **options)
    resumed.load_state_dict(saved)
    _steps(resumed, params, 2)
    params, state, _, groups = _results(resumed, params)
    return params, state, groups, [str(g.get("fused")) for g in resumed.param_groups]


def _pickled(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params)
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        optimizer, params = twin, twin.param_groups[0]["params"]
        _steps(optimizer, params)
    return _results(optimizer, params)


def _meta_gradients(make: Make, other: Make, options: Options) -> Any:
    """Parameters that are results themselves, and the derivative of two steps."""
    start = [p.detach().requires_grad_() for p in _parameters(shapes=((3,), (2, 2)))]
    params = [p * 1 for p in start]
    if not options.get("differentiable"):
        params = [p.detach().requires_grad_() for p in params]
    optimizer = make(params, **options)
    grads = [[torch.full_like(p, 0.5 + i, requires_grad=True) for p in start] for i in range(2)]
    for step in grads:
        for p, g in zip(params, step, strict=True):
            p.grad = g
        optimizer.step()
    if not options.get("differentiable"):
        return _results(optimizer, params)
    results = torch.stack([(p**2).sum() for p in params]).sum()
    # The first step's gradients are left out: torch cuts them off a momentum buffer.
    return torch.autograd.grad(results, [*start, *grads[1]], allow_unused=True)


def _scaled(make: Make, other: Make, options: Options) -> Any:
    """GradScaler, with an inf in the first and in the third step; unscaled by hand in the last."""
    params = _parameters(shapes=((3,), (2, 2)))
    optimizer = make(params, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
    for count in range(5):
        optimizer.zero_grad()
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if count in (0, 2):
            params[0].grad = torch.full_like(params[0], math.inf)
        if count == 4:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    gradients = [p.grad for p in params]
    return torch.tensor(scaler.get_scale()), gradients, _results(optimizer, params)


def _within(context: Callable[[], Any]) -> Situation:
    def situation(make: Make, other: Make, options: Options) -> Any:
        params = _parameters()
        optimizer = make(params, **options)
        with context():
            _steps(optimizer, params)
        return _results(optimizer, params)

    return situation


def _zeroed(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    _steps(optimizer, params)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    gradients = [p.grad.clone() for p in params if p.grad is not None]
    optimizer.zero_grad()
    return gradients, [p.grad is None for p in params], _results(optimizer, params)


def _hooked(make: Make, other: Make, options: Options) -> Any:
    params = _parameters()
    optimizer = make(params, **options)
    calls: list[str] = []
    with register_optimizer_step_pre_hook(lambda *_: calls.append("all before")):
        optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
        optimizer.register_step_post_hook(lambda *_: calls.append("after"))
        optimizer.register_state_dict_post_hook(lambda *_: calls.append("saved"))
        optimizer.register_load_state_dict_pre_hook(lambda *_: calls.append("loading"))
        _steps(optimizer, params)
        optimizer.load_state_dict(optimizer.state_dict())
        _steps(optimizer, params)
    return calls, _results(optimizer, params)


def _meta(make: Make, other: Make, options: Options) -> Any:
    params = [torch.nn.Parameter(p.detach().to("meta")) for p in _parameters()]
    optimizer = make(params, **options)
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer.step()
    params, state, *rest = _results(optimizer, params)
    return [p.device.type for p in params], [sorted(s) for s in state], *rest


def _wide_default(make: Make, other: Make, options: Options) -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        return _plain((F64, torch.float32))(make, other, options)
    finally:
        torch.set_default_dtype(before)


def _changed(make: Make, other: Make, options: Options) -> Any:
    """A schedule, or somebody, sets the options of the group while training."""
    params = _parameters()
    optimizer = make(params)
    _steps(optimizer, params)
    optimizer.param_groups[0].update(options)
    _steps(optimizer, params)
    return _results(optimizer, params)


PLAIN: dict[str, Situation] = {
    "float64": _plain((F64,)),
    "options in a group": _in_a_group,
    "checkpoints both ways": _checkpoints,
}
SITUATIONS: dict[str, Situation] = {
    **PLAIN,
    "float32": _plain((torch.float32,)),
    "bfloat16": _plain((torch.bfloat16,)),
    "float16": _plain((torch.float16,)),
    "mixed dtypes": _plain((torch.float32, torch.bfloat16, F64)),
    "complex": _plain((torch.complex128,)),
    "not contiguous": partial(_laid_out, as_parameter=True),
    "gradients laid out otherwise": partial(_laid_out, as_parameter=False),
    "shared memory": _views,
    "gradients absent": _absent,
    "sparse gradient": _sparse,
    "inf and NaN": _not_finite,
    "closure": _closure,
    "options changed later": _changed,
    "named parameters": _named,
    "old checkpoint": _old_checkpoint,
    "pickle, deepcopy": _pickled,
    "meta-gradients": _meta_gradients,
    "GradScaler": _scaled,
    "no_grad": _within(torch.no_grad),
    "inference mode": _within(torch.inference_mode),
    "autocast": _within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "zero_grad": _zeroed,
    "hooks": _hooked,
    "meta device": _meta,
    "default float64": _wide_default,
}


# The comparison


def _cell(
    optimizer: str, options: Options, name: str, situation: Situation, make: Make, builtin: Make
) -> Cell:
    ours, theirs = _run(situation, make, builtin, options), _run(situation, builtin, make, options)
    bound = _DIFFERENTIABLE if options.get("differentiable") else _BOUND
    error = math.nan
    if isinstance(ours, Wrong):
        symbol = "✗"
    elif isinstance(ours, Exception) and isinstance(theirs, Exception):
        text = _first_line(theirs).partition(": [")[0]  # before a list of devices
        same = type(ours) is type(theirs) and (text in str(ours) if text else True)
        clearer = any(odd in describe_all(options) for odd in CLEARER)
        symbol = "·" if same else "≈" if clearer else "✗"
    elif isinstance(ours, Exception):
        symbol = "−"
    elif isinstance(theirs, Exception):
        symbol = "+"
    else:
        error = _distance(ours, theirs, bound)
        symbol = "✓" if error <= 1 else "✗"
    if symbol == "✗" and (options.get("fused") or options.get("foreach")):
        loop = {**options, "fused": False, "foreach": False}
        if _distance(ours, _run(situation, builtin, make, loop), bound) <= 1:
            symbol = "+"
    if symbol in "✗−" and (optimizer, describe_all(options), name) in MEANT:
        symbol = "≈"
    texts = [
        f"{type(r).__name__}: {_first_line(r)}" if isinstance(r, Exception) else "works"
        for r in (ours, theirs)
    ]
    return Cell(optimizer, describe_all(options), name, texts[0], texts[1], symbol, error)


def _run(situation: Situation, make: Make, other: Make, options: Options) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return situation(make, other, copy.deepcopy(options))
        except Exception as error:
            return error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def _distance(ours: Any, theirs: Any, bound: float) -> float:
    """Return the largest difference of two results in units of the bound; infinite if of a kind."""
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return _tensor_distance(ours.detach(), theirs.detach(), bound)
    if type(ours) is not type(theirs):
        return math.inf
    if isinstance(ours, Mapping):
        if sorted(ours) != sorted(theirs):
            return math.inf
        return max((_distance(ours[name], theirs[name], bound) for name in ours), default=0.0)
    if isinstance(ours, tuple | list):
        if len(ours) != len(theirs):
            return math.inf
        return max(
            (_distance(*pair, bound) for pair in zip(ours, theirs, strict=True)), default=0.0
        )
    return 0.0 if ours == theirs else math.inf


def _tensor_distance(ours: Tensor, theirs: Tensor, bound: float) -> float:
    for attribute in ("dtype", "shape", "device", "layout"):
        if getattr(ours, attribute) != getattr(theirs, attribute):
            return math.inf
    if ours.stride() != theirs.stride() or torch.equal(ours, theirs):
        return 0.0 if torch.equal(ours, theirs) else math.inf
    if ours.is_complex():
        ours, theirs = torch.view_as_real(ours), torch.view_as_real(theirs)
    eps = torch.finfo(theirs.dtype).eps
    odd = ~theirs.isfinite()
    if not torch.equal(odd, ~ours.isfinite()):
        return math.inf
    if not torch.equal(ours[odd].nan_to_num(0.0), theirs[odd].nan_to_num(0.0)):
        return math.inf
    ours, theirs = ours[~odd].double(), theirs[~odd].double()
    if not ours.numel():
        return 0.0
    bound = max(_EPS * eps, bound)
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300)).item() / bound


def _row(cells: Sequence[Cell], case: str) -> Row:
    symbols = [cell.symbol for cell in cells]
    worst = next(s for s in "✗−+≈✓·" if s in symbols)
    errors = [cell.error for cell in cells if not math.isnan(cell.error)]
    note = f"{symbols.count('✓')} work, {symbols.count('·')} refused alike"
    others = [_sentence(cell) for cell in cells if cell.symbol in _LISTED]
    return Row(
        cells[0].optimizer, case, QUANTITY, "-", max(errors, default=math.nan), math.nan, 1.0,
        "like torch", _VERDICTS[worst], "; ".join([note, *others]),
    )  # fmt: skip


def _sentence(cell: Cell) -> str:
    where = f"{cell.options}, {cell.situation}"
    meant = MEANT.get((cell.optimizer, cell.options, cell.situation))
    if meant:
        return f"{where}: {meant}"
    if cell.ours == cell.builtin == "works":
        return f"{where}: {cell.error:.1e} of the bound apart"
    return f"{where}: ours {cell.ours}; builtin {cell.builtin}"
