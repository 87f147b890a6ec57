"""Between a case's arrays and the tensors that the parties get: dtypes, layouts, last places."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from verification.cases import Arrays, Case, OpTable

# The tensors whose layout in memory a case chooses.
LAID_OUT = {"input", "target", "cotangent"}


def repeated(name: str, value: Any, layout: str, dim: int) -> Any:
    """Make an array repeat itself along a dimension if it is to be laid out expanded."""
    if layout != "expanded" or name not in LAID_OUT or value is None:
        return value
    if value.dtype.kind != "f" or not value.size or not value.ndim:
        return value
    return np.broadcast_to(np.take(value, [0], dim), value.shape).copy()


def lay_out(name: str, tensor: Any, case: Case, table: OpTable) -> Any:
    """Lay a tensor out in memory as its case wants it; differentiable."""
    if name not in LAID_OUT or tensor is None or not tensor.numel():
        return tensor
    if case.layout == "channels-last" and tensor.dim() > 2:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if case.layout == "transposed":
        backwards = tuple(reversed(range(tensor.dim())))
        return tensor.permute(backwards).contiguous().permute(backwards)
    if case.layout == "sliced":  # every other place holds something that must not be read
        junk = torch.nan if tensor.is_floating_point() else 100
        return torch.stack([tensor, torch.full_like(tensor, junk)], -1)[..., 0]
    if case.layout == "expanded" and tensor.is_floating_point() and tensor.dim():
        return tensor.narrow(table.expanded, 0, 1).expand(tensor.shape)
    return tensor


def round_to(value: Any, dtype: torch.dtype) -> Any:
    """Round floats to the tested dtype, in a float64 array; leave integers and None."""
    if value is None or value.dtype.kind != "f" or dtype == torch.float64:
        return value
    return torch.tensor(value).to(dtype).to(torch.float64).numpy()


def as_tensors(
    table: OpTable, case: Case, arrays: Arrays, dtype: torch.dtype, device: torch.device
) -> Arrays:
    """Make tensors of a case's arrays: floats in the tested dtype, wide parameters in float32."""
    half = dtype in (torch.bfloat16, torch.float16)

    def tensor(name: str, value: Any) -> Any:
        if value is None:
            return None
        kind = torch.float32 if half and case.wide and name in table.parameters else dtype
        return torch.tensor(value, dtype=kind if value.dtype.kind == "f" else None, device=device)

    return {name: tensor(name, value) for name, value in arrays.items()}


def nudge(value: Any, dtype: torch.dtype, rng: np.random.Generator) -> Any:
    """Change floats by −1 or +1 unit in the last place of a dtype, at random; leave the rest."""
    if value is None or value.dtype.kind != "f":
        return value
    finite = np.where(np.isfinite(value), value, 0)
    ulp = np.ldexp(torch.finfo(dtype).eps, np.frexp(finite)[1] - 1) * (finite != 0)
    return value + ulp * rng.choice([-1.0, 1.0], value.shape)


def to_numpy(tensor: Any) -> Any:
    """Return a tensor's values as a new array, of float32 where NumPy lacks the dtype."""
    if tensor is None:
        return None
    tensor = tensor.detach().cpu()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.numpy().copy()


def short(dtype: torch.dtype) -> str:
    """Return a dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")
