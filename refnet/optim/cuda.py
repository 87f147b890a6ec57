"""The update rules as Triton kernels, for all parameters of a group in one launch.

The same formulas as in `sgd`, `momentum`, `rmsprop` and `adam`, which are the reference.

Legend: W parameter, dW its gradient, V and G averages of dW, S of dW², t step, lr α, momentum and
betas β, decay λ/m. A program works on a block of one parameter; it looks up which, and where the
parameter, its gradient and its state are, in tables on the device. What is the same for all
elements is computed on the host, in double; elements are in double, but for roots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from refnet._triton import INTERPRETED, halves, launching
from refnet.optim import _plan

__all__ = ["Plan"]

BLOCK = 1024  # elements that a program works on: four for each thread
WARPS = 8
DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def start_of(at, row, count, k, DTYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """Where a tensor of parameter k begins."""
    pointer = tl.load(at + row * count + k).to(tl.pointer_type(DTYPE))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def block_of(sizes, owners, chunks, BLOCK: tl.constexpr):
    """The parameter of this program, where in it its elements begin, and how many it has."""
    k = tl.load(owners + tl.program_id(0))
    return k, tl.load(chunks + tl.program_id(0)).to(tl.int64) * BLOCK, tl.load(sizes + k)


@triton.jit
def direction(dw, w, decay, DECAYS: tl.constexpr, MAXIMIZE: tl.constexpr):
    """The gradient of what is to be minimized, with its L2 term λ/m W."""
    g = -dw if MAXIMIZE else dw
    if DECAYS:
        g += decay * w
    return g


@triton.jit
def average(v, x, rest):
    """V ← βV + (1 − β) x, β from the rest 1 − β, which alone is rounded to float32 on its way."""
    return (tl.full([1], 1.0, tl.float64) - rest) * v.to(tl.float64) + rest * x


@triton.jit
def sqrt(x):
    """√x in double of x in float32, rounded as it has to be."""
    return tl.sqrt_rn(x.to(tl.float32)).to(tl.float64)


@triton.jit
def sgd_step(
    at, count, k, i, here, lr, beta, rest, decay,
    MOMENTUM: tl.constexpr, FIRST: tl.constexpr, NESTEROV: tl.constexpr, DECAYS: tl.constexpr,
    MAXIMIZE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """V ← βV + (1 − dampening) dW;  W ← W − αV, or with Nesterov W − α (dW + βV)."""
    ws = start_of(at, 0, count, k, DTYPE, ALIGNED) + i
    w = tl.load(ws, mask=here).to(tl.float64)
    dw = tl.load(start_of(at, 1, count, k, DTYPE, ALIGNED) + i, mask=here).to(tl.float64)
    g = direction(dw, w, decay, DECAYS, MAXIMIZE)
    if MOMENTUM:
        vs = start_of(at, 2, count, k, DTYPE, ALIGNED) + i
        new_v = g
        if not FIRST:
            new_v = rest * g + beta * tl.load(vs, mask=here).to(tl.float64)
        tl.store(vs, new_v.to(tl.float32).to(DTYPE), mask=here)
        g = g + beta * new_v if NESTEROV else new_v
    tl.store(ws, (w - lr * g).to(tl.float32).to(DTYPE), mask=here)


@triton.jit
def sgd_kernel(
    at, sizes, owners, chunks, count, lr, beta, rest, decay,
    MOMENTUM: tl.constexpr, FIRST: tl.constexpr, NESTEROV: tl.constexpr, DECAYS: tl.constexpr,
    MAXIMIZE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The step of a block; only a parameter's last one needs a mask, which costs wide loads."""
    k, first, n = block_of(sizes, owners, chunks, BLOCK)
    i = first + tl.arange(0, BLOCK)
    if first + BLOCK <= n:
        sgd_step(
            at, count, k, i, None,
            lr, beta, rest, decay, MOMENTUM, FIRST, NESTEROV, DECAYS, MAXIMIZE,
            DTYPE, ALIGNED,
        )  # fmt: skip
    else:
        sgd_step(
            at, count, k, i, i < n,
            lr, beta, rest, decay, MOMENTUM, FIRST, NESTEROV, DECAYS, MAXIMIZE,
            DTYPE, ALIGNED,
        )  # fmt: skip


@triton.jit
def momentum_step(
    at, count, k, i, here, rate, rest, decay,
    DECAYS: tl.constexpr, MAXIMIZE: tl.constexpr,
    DTYPE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """V ← βV + (1 − β) dW;  W ← W − αV, or with bias correction W − α V / (1 − βᵗ)."""
    ws = start_of(at, 0, count, k, DTYPE, ALIGNED) + i
    vs = start_of(at, 2, count, k, DTYPE, ALIGNED) + i
    w = tl.load(ws, mask=here).to(tl.float64)
    dw = tl.load(start_of(at, 1, count, k, DTYPE, ALIGNED) + i, mask=here).to(tl.float64)
    g = direction(dw, w, decay, DECAYS, MAXIMIZE)
    new_v = average(tl.load(vs, mask=here), g, rest)
    tl.store(vs, new_v.to(tl.float32).to(DTYPE), mask=here)
    tl.store(ws, (w - rate * new_v).to(tl.float32).to(DTYPE), mask=here)


@triton.jit
def momentum_kernel(
    at, sizes, owners, chunks, count, rate, rest, decay,
    DECAYS: tl.constexpr, MAXIMIZE: tl.constexpr,
    DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The step of a block; only a parameter's last one needs a mask, which costs wide loads."""
    k, first, n = block_of(sizes, owners, chunks, BLOCK)
    i = first + tl.arange(0, BLOCK)
    if first + BLOCK <= n:
        momentum_step(
            at, count, k, i, None,
            rate, rest, decay, DECAYS, MAXIMIZE, DTYPE, ALIGNED,
        )  # fmt: skip
    else:
        momentum_step(
            at, count, k, i, i < n,
            rate, rest, decay, DECAYS, MAXIMIZE, DTYPE, ALIGNED,
        )  # fmt: skip


@triton.jit
def rmsprop_step(
    at, count, k, i, here, lr, rest, eps, mu, decay,
    MOMENTUM: tl.constexpr, CENTERED: tl.constexpr, INSIDE: tl.constexpr, DECAYS: tl.constexpr,
    MAXIMIZE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """S ← βS + (1 − β) dW²;  W ← W − α dW / (√S + ε), or with ε inside W − α dW / √(S + ε).

    Centered, S − G² takes the place of S; with momentum, V ← μV + dW / (√S + ε), W ← W − αV.
    """
    ws = start_of(at, 0, count, k, DTYPE, ALIGNED) + i
    ss = start_of(at, 2, count, k, DTYPE, ALIGNED) + i
    w = tl.load(ws, mask=here).to(tl.float64)
    dw = tl.load(start_of(at, 1, count, k, DTYPE, ALIGNED) + i, mask=here).to(tl.float64)
    d = direction(dw, w, decay, DECAYS, MAXIMIZE)
    s = average(tl.load(ss, mask=here), d * d, rest)
    tl.store(ss, s.to(tl.float32).to(DTYPE), mask=here)
    if CENTERED:
        gs = start_of(at, 4, count, k, DTYPE, ALIGNED) + i
        g = tl.load(gs, mask=here).to(tl.float64)
        g += rest * (d - g)
        tl.store(gs, g.to(tl.float32).to(DTYPE), mask=here)
        s -= g * g
    root = sqrt(s + eps) if INSIDE else sqrt(s) + eps
    if MOMENTUM:
        vs = start_of(at, 3, count, k, DTYPE, ALIGNED) + i
        v = mu * tl.load(vs, mask=here).to(tl.float64) + d / root
        tl.store(vs, v.to(tl.float32).to(DTYPE), mask=here)
        step = lr * v
    else:
        step = lr * d / root
    tl.store(ws, (w - step).to(tl.float32).to(DTYPE), mask=here)


@triton.jit
def rmsprop_kernel(
    at, sizes, owners, chunks, count, lr, rest, eps, mu, decay,
    MOMENTUM: tl.constexpr, CENTERED: tl.constexpr, INSIDE: tl.constexpr, DECAYS: tl.constexpr,
    MAXIMIZE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The step of a block; only a parameter's last one needs a mask, which costs wide loads."""
    k, first, n = block_of(sizes, owners, chunks, BLOCK)
    i = first + tl.arange(0, BLOCK)
    if first + BLOCK <= n:
        rmsprop_step(
            at, count, k, i, None,
            lr, rest, eps, mu, decay, MOMENTUM, CENTERED, INSIDE, DECAYS,
            MAXIMIZE, DTYPE, ALIGNED,
        )  # fmt: skip
    else:
        rmsprop_step(
            at, count, k, i, i < n,
            lr, rest, eps, mu, decay, MOMENTUM, CENTERED, INSIDE, DECAYS,
            MAXIMIZE, DTYPE, ALIGNED,
        )  # fmt: skip


@triton.jit
def adam_step(
    at, count, k, i, here, rate, epsilon, rest1, rest2, decay, change, rate_rest, change_rest,
    AMSGRAD: tl.constexpr, SHRINKS: tl.constexpr, DECAYS: tl.constexpr,
    MAXIMIZE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """V ← β₁V + (1 − β₁) dW;  S ← β₂S + (1 − β₂) dW²;  W ← W − α V̂ / (√Ŝ + ε).

    With amsgrad, the largest S so far takes the place of S. Decoupled, W shrinks beforehand.
    """
    ws = start_of(at, 0, count, k, DTYPE, ALIGNED) + i
    vs = start_of(at, 2, count, k, DTYPE, ALIGNED) + i
    ss = start_of(at, 3, count, k, DTYPE, ALIGNED) + i
    w = tl.load(ws, mask=here).to(tl.float64)
    dw = tl.load(start_of(at, 1, count, k, DTYPE, ALIGNED) + i, mask=here).to(tl.float64)
    g = direction(dw, w, decay, DECAYS, MAXIMIZE)
    v = tl.load(vs, mask=here).to(tl.float64)
    v += rest1 * (g - v)
    s = average(tl.load(ss, mask=here), g * g, rest2)
    tl.store(vs, v.to(tl.float32).to(DTYPE), mask=here)
    tl.store(ss, s.to(tl.float32).to(DTYPE), mask=here)
    if AMSGRAD:
        largest = start_of(at, 4, count, k, DTYPE, ALIGNED) + i
        s_max = tl.load(largest, mask=here).to(tl.float64)
        s = tl.where((s_max > s) | (s_max != s_max), s_max, s)  # NaN stays
        tl.store(largest, s.to(tl.float32).to(DTYPE), mask=here)
    one = tl.full([1], 1.0, tl.float64)
    step = (one * rate + rate_rest) * (v / (sqrt(s) + epsilon))
    if SHRINKS:
        w -= (one * change + change_rest) * w
    tl.store(ws, (w - step).to(tl.float32).to(DTYPE), mask=here)


@triton.jit
def adam_kernel(
    at, sizes, owners, chunks, count, rate, epsilon, rest1, rest2, decay, change,
    rate_rest, change_rest,
    AMSGRAD: tl.constexpr, SHRINKS: tl.constexpr, DECAYS: tl.constexpr,
    MAXIMIZE: tl.constexpr, DTYPE: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The step of a block; only a parameter's last one needs a mask, which costs wide loads."""
    k, first, n = block_of(sizes, owners, chunks, BLOCK)
    i = first + tl.arange(0, BLOCK)
    if first + BLOCK <= n:
        adam_step(
            at, count, k, i, None,
            rate, epsilon, rest1, rest2, decay, change, rate_rest, change_rest, AMSGRAD, SHRINKS,
            DECAYS, MAXIMIZE, DTYPE, ALIGNED,
        )  # fmt: skip
    else:
        adam_step(
            at, count, k, i, i < n,
            rate, epsilon, rest1, rest2, decay, change, rate_rest, change_rest, AMSGRAD, SHRINKS,
            DECAYS, MAXIMIZE, DTYPE, ALIGNED,
        )  # fmt: skip


def sgd(t: float, lr: float, momentum: float, dampening: float, nesterov: bool, decay: float,
        maximize: bool) -> tuple[tuple[float, ...], dict[str, bool]]:  # fmt: skip
    """The kernel's numbers and constants."""
    return (lr, momentum, 1 - dampening, decay), {
        "MOMENTUM": momentum != 0, "FIRST": t == 1, "NESTEROV": nesterov,
        "DECAYS": decay != 0, "MAXIMIZE": maximize,
    }  # fmt: skip


def momentum_rule(t: float, lr: float, momentum: float, bias_correction: bool, decay: float,
                  maximize: bool) -> tuple[tuple[float, ...], dict[str, bool]]:  # fmt: skip
    """The kernel's numbers and constants."""
    rate = lr / (1 - momentum**t) if bias_correction else lr
    return (rate, 1 - momentum, decay), {"DECAYS": decay != 0, "MAXIMIZE": maximize}


def rmsprop(t: float, lr: float, alpha: float, eps: float, momentum: float, centered: bool,
            eps_inside_root: bool, decay: float, maximize: bool,
            ) -> tuple[tuple[float, ...], dict[str, bool]]:  # fmt: skip
    """The kernel's numbers and constants."""
    return (lr, 1 - alpha, eps, momentum, decay), {
        "MOMENTUM": momentum > 0, "CENTERED": centered, "INSIDE": eps_inside_root,
        "DECAYS": decay != 0, "MAXIMIZE": maximize,
    }  # fmt: skip


def adam(t: float, lr: float, beta1: float, beta2: float, eps: float, amsgrad: bool, decay: float,
         decoupled: bool, maximize: bool) -> tuple[tuple[float, ...], dict[str, bool]]:  # fmt: skip
    """The kernel's numbers and constants: α V̂ / (√Ŝ + ε) = rate V / (√S + ε correction)."""
    correction = math.sqrt(1 - beta2**t)
    rate = lr / (1 - beta1**t) * correction
    (rate, rate_rest), (change, change_rest) = halves(rate), halves(lr * decay)
    numbers = (
        rate, eps * correction, 1 - beta1, 1 - beta2, decay, change, rate_rest, change_rest,
    )  # fmt: skip
    return numbers, {
        "AMSGRAD": amsgrad, "SHRINKS": decoupled and decay != 0,
        "DECAYS": not decoupled and decay != 0, "MAXIMIZE": maximize,
    }  # fmt: skip


RULES: dict[str, tuple[Any, Any]] = {
    "sgd": (sgd_kernel, sgd),
    "momentum_rule": (momentum_kernel, momentum_rule),
    "rmsprop": (rmsprop_kernel, rmsprop),
    "adam": (adam_kernel, adam),
}


class Table:
    """Where parameters of one dtype and device and their state are, in tables on the device.

    Args:
        params: the parameters.
        states: their state.
        names: of the state that is as large as a parameter.
        rows: names of all such state that the kernel knows, in its order.
        fresh: for each parameter, whether its state is made by this step.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        states: Sequence[dict[str, Any]],
        names: Sequence[str],
        rows: Sequence[str],
        fresh: Sequence[bool],
    ) -> None:
        self._like = params[0]
        self._changed = [*params, *(state[name] for state in states for name in names)]
        self._at = [[p.data_ptr() for p in params], [0] * len(params)]
        self._at += [[s[row].data_ptr() if row in names else 0 for s in states] for row in rows]
        self._sizes = [p.numel() for p in params]
        self._steps = [state["step"] for state in states if "step" in state]
        self._ts = [1.0 if is_fresh else 2.0 for is_fresh in fresh]  # unless steps are counted
        self._blocks: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._device_sizes = self._on_device(self._sizes)

    def point(self, grads: Sequence[int]) -> None:
        """Put in the addresses of the gradients, one for each parameter."""
        self._at[1] = [*grads]
        self._device_at = self._on_device(self._at)
        self._aligned = all(a % 16 == 0 for row in self._at for a in row)

    def run(self, rule: tuple[Any, Any], numbers: Sequence[Any]) -> None:
        """Count the steps and launch the kernel: once, where all parameters are as far."""
        kernel, numbers_of = rule
        torch.autograd.graph.increment_version(self._changed)
        for step in self._steps:
            step += 1
        ts = [float(step) for step in self._steps] or self._ts
        with launching(self._like):
            for t in dict.fromkeys(ts):
                owners, chunks = self._blocks_of(tuple(k for k, own in enumerate(ts) if own == t))
                if len(owners):
                    scalars, constants = numbers_of(t, *numbers)
                    kernel[(len(owners),)](
                        self._device_at, self._device_sizes, owners, chunks, len(self._sizes),
                        *map(float, scalars), **constants,
                        DTYPE=DTYPES[self._like.dtype], ALIGNED=self._aligned, BLOCK=BLOCK,
                        num_warps=WARPS,
                    )  # fmt: skip
        self._ts = [2.0] * len(self._ts)

    def _blocks_of(self, members: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Of each block of some parameters, which it is of, and the how manieth."""
        if members not in self._blocks:
            blocks = [(k, j) for k in members for j in range(triton.cdiv(self._sizes[k], BLOCK))]
            self._blocks[members] = (
                self._on_device([k for k, _ in blocks]),
                self._on_device([j for _, j in blocks]),
            )
        return self._blocks[members]

    def _on_device(self, numbers: Any) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64).to(self._like.device, non_blocking=True)


class Plan(_plan.Plan):
    """A plan for the kernels here."""

    backend = "cuda"
    table = Table

    @classmethod
    def rule(cls, kernel: Any) -> Any:
        """The Triton kernel beside the loop."""
        return RULES[kernel.function.__name__]

    @classmethod
    def kind(cls, param: Tensor, step: Tensor | None) -> Any:
        """What parameters of one table have in common."""
        return param.dtype, param.device

    @classmethod
    def unsupported(
        cls, kernel: Any, param: Tensor, grad: Tensor, state: dict[str, Any], names: Sequence[str]
    ) -> str:
        """Return why a kernel cannot update a parameter, or an empty text if it can."""
        if not (INTERPRETED or param.is_cuda):
            return f"a tensor on {param.device}"
        if param.dtype not in DTYPES:
            return f"dtype {param.dtype}"
        if "step" in state and not state["step"].is_cpu:
            return "a step count on the device"
        return _plan.mismatch(param, grad, state, names, param.device)
