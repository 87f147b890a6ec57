"""A sample's arguments as a table of named leaves: rounded, changed by 1 ulp, shifted, laid out."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from verification.tensors import nudge

Values = dict[str, Any]
Random = np.random.Generator


@dataclass(frozen=True)
class Arguments:
    """What the parties get: the leaves of a sample, and what they hold themselves.

    Attributes:
        values: by name, "x" or "weights[0]"; what a module holds is "self.weight".
        spec: how those of the sample make up args and kwargs.
        held: names of those that are not passed.
        written: names of arguments that the reference writes over.
        fixed: names of those that are not differentiated, though they may be floats.
    """

    values: Values
    spec: pytree.TreeSpec
    held: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()

    def differentiated(self, name: str) -> bool:
        """Whether a leaf takes part in gradients."""
        return is_float(self.values[name]) and name not in self.written | self.fixed

    def changed(self, name: str, value: Tensor) -> Arguments:
        """Return these arguments with another value for one leaf."""
        return replace(self, values=self.values | {name: value})


@dataclass(frozen=True)
class Setting:
    """How the parties are run.

    Attributes:
        dtype: that is tested: inputs and cotangents are rounded to it.
        device: where everything is computed.
        seed: of the cotangents, and of the parties' own random numbers.
        sliced: whether every other place of the arguments' memory belongs to somebody else.
        gradients: whether there is a backward.
    """

    dtype: torch.dtype
    device: torch.device
    seed: int = 0
    sliced: bool = False
    gradients: bool = True


def bind(
    functions: Sequence[Callable[..., Any]], sample: Any, where: str = "the sample"
) -> Arguments:
    """Name the leaves of a sample, which is a tuple of arguments or a dict of keywords.

    If some of its tensors require gradients, those alone are differentiated.

    Args:
        functions: positional arguments are called as the first one calls them that has a signature.
        sample: tensors and others, nested at will.
        where: what an error calls the sample.

    Raises:
        TypeError: it is neither.

    Example:
        >>> def scaled(x, weights): ...
        >>> list(bind([scaled], (1.0, [2.0, 3.0])).values)
        ['x', 'weights[0]', 'weights[1]']
    """
    keywords = isinstance(sample, dict) and all(isinstance(key, str) for key in sample)
    if not keywords and not isinstance(sample, tuple | list):
        kind = type(sample).__name__
        raise TypeError(f"{where} is a {kind}, must be a tuple of arguments or a dict by name")
    args, kwargs = ((), sample) if keywords else (tuple(sample), {})
    order = next(filter(None, map(_positional, functions)), [])
    values: Values = {}
    leaves, spec = pytree.tree_flatten_with_path((args, kwargs))
    for path, leaf in leaves:
        key: Any = path[1]
        name = f"argument {key.idx}" if isinstance(key, pytree.SequenceKey) else key.key
        if isinstance(key, pytree.SequenceKey) and key.idx < len(order):
            name = order[key.idx]
        name += pytree.keystr(path[2:])
        values[name if name not in values else f"{name} ({len(values)})"] = leaf
    chosen = {n for n, v in values.items() if is_tensor(v) and v.requires_grad}
    return Arguments(values, spec, fixed=frozenset(set(values) - chosen if chosen else ()))


def _positional(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's positional arguments; none of a builtin's."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def leaf(
    arguments: Arguments,
    name: str,
    setting: Setting,
    *,
    exact: bool = False,
    rng: Random | None = None,
    shift: float = 0.0,
) -> Any:
    """Return a copy of a leaf; a float rounded to the tested dtype, changed, cast, laid out.

    Args:
        arguments: of the sample.
        name: of the leaf.
        setting: the tested dtype, the device.
        exact: in float64.
        rng: change floats by ±1 ulp of the tested dtype.
        shift: add so much of `direction`, if the leaf is differentiated.
    """
    value = arguments.values[name]
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if not is_tensor(value):
        return value
    copy = value.detach().to(setting.device).resolve_conj().resolve_neg().clone()
    if not is_float(copy):
        return laid_out(copy, setting)
    copy = changed(cast(cast(copy, setting.dtype), torch.float64), setting.dtype, rng)
    if shift and arguments.differentiated(name):
        copy = copy + shift * direction(name, copy, setting)
    return laid_out(cast(copy, torch.float64 if exact else setting.dtype), setting)


def changed(tensor: Tensor, dtype: torch.dtype, rng: Random | None) -> Tensor:
    """Change a float64 or complex128 tensor by ±1 ulp of a dtype."""
    if rng is None:
        return tensor
    array = np.asarray(nudge(as_real(tensor).cpu().numpy(), dtype, rng))
    new = torch.from_numpy(array).to(tensor.device)
    return torch.view_as_complex(new) if tensor.is_complex() else new


def direction(name: str, like: Tensor, setting: Setting) -> Tensor:
    """Draw a float64 or complex128 tensor by seed and name: the same for all parties."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{setting.seed} {name}".encode()))
    kind = torch.complex128 if like.is_complex() else torch.float64
    return torch.randn(like.shape, generator=generator, dtype=kind).to(like.device)


def cotangent(name: str, output: Tensor, setting: Setting, rng: Random | None) -> Tensor:
    """Draw a cotangent for an output, rounded to the tested dtype, then changed."""
    drawn = cast(cast(direction(name, output, setting), setting.dtype), torch.float64)
    value: Tensor = laid_out(changed(drawn, setting.dtype, rng).to(output.dtype), setting)
    return value


def laid_out(value: Any, setting: Setting) -> Any:
    """Lay a tensor out in memory as the setting has it."""
    if not setting.sliced or not is_tensor(value) or not value.numel() or not value.dim():
        return value
    order = tuple(reversed(range(value.dim())))  # in memory the first dimension comes last
    turned = value.permute(order)
    junk = torch.full_like(turned, torch.nan) if is_float(value) else turned.roll(1, 0)
    return torch.stack([turned, junk], -1)[..., 0].permute(order)


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Return whether it is a tensor."""
    return isinstance(value, Tensor)


def is_float(value: Any) -> bool:
    """Return whether it is a tensor that can have a gradient."""
    return is_tensor(value) and (value.is_floating_point() or value.is_complex())


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast to a real dtype, or to the complex one that belongs to it."""
    return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)


def as_real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as pairs of reals, any other as it is."""
    tensor = tensor.resolve_conj().resolve_neg()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
