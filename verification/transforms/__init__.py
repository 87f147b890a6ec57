"""Torch's transforms: what each does to a trial, and the classic way to the same numbers.

The functions are in the modules beside this one; here is the table, one line per transform.
"""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from functools import partial

import torch
from torch import func
from torch.autograd.graph import save_on_cpu

from verification.cases.transforms import Op
from verification.transforms import autograd, compilers, functions, modes, modules
from verification.transforms.functions import derived, vmapped
from verification.transforms.trial import (
    Run,
    Trial,
    along_tangents,
    derivatives,
    each,
    gradients,
    hessian,
    jacobian,
    value,
)

FLOAT64 = 1e-10  # the numbers are easy: a right result is at 1e-15, a wrong one at 1e-3
ROUNDINGS = 4  # of a result in half precision


@dataclass(frozen=True)
class Transform:
    """A line of the support table.

    Attributes:
        name: of the line.
        run: puts a trial under the transform; raises what torch or the op raises.
        truth: the same tensors, the classic way.
        stacked: whether the inputs are several examples.
        moves: how often the buffers are moved.
        evaluated: whether the op is in evaluation mode.
        kind: of the ops that it is about; "" for all.
        dtype: of the arguments.
        bound: of the relative error.
        slow: whether the quick profile leaves it out.
        cpu_only: whether other devices leave it out.
    """

    name: str
    run: Run
    truth: Run
    stacked: bool = False
    moves: int = 1
    evaluated: bool = False
    kind: str = ""
    dtype: torch.dtype = torch.float64
    bound: float = FLOAT64
    slow: bool = False
    cpu_only: bool = False

    def applies(self, op: Op, device: str = "cpu") -> bool:
        """Return whether it is about an op; the table is blank where it isn't."""
        runs = torch.device(device).type == "cpu" or not self.cpu_only
        return runs and self.kind in ("", *op.kinds)


def _twice(t: Trial) -> list[object]:
    return [value(t), value(t)]


def _nothing(t: Trial) -> list[object]:
    return []


_second, _third = (partial(derivatives, order=order) for order in (2, 3))

AUTOGRAD = (
    Transform("backward", gradients, gradients),
    Transform("double backward", _second, _second),
    Transform("third derivative", _third, _third),
    Transform("cotangent expanded", autograd.expanded_cotangent, autograd.expanded_cotangent),
    Transform("cotangent repeated", autograd.repeated_cotangent, autograd.repeated_cotangent),
    Transform("cotangent not contiguous", autograd.strided_cotangent, gradients),
    Transform("cotangent None", autograd.undefined_cotangent, autograd.zeros),
    Transform("cotangents batched", autograd.batched_cotangents, autograd.one_cotangent_at_a_time),
    Transform("forward mode", autograd.forward_mode, along_tangents),
    Transform("forward over reverse", autograd.forward_over_reverse, _second),
    Transform("reverse over forward", autograd.reverse_over_forward, _second),
    Transform("jacobian(vectorize=True)", autograd.jacobian_vectorized, jacobian),
)
FUNC = (
    Transform("grad", derived(func.grad), derivatives),
    Transform("vjp", functions.vjp, gradients),
    Transform("jvp", functions.jvp, along_tangents),
    Transform("jacrev", derived(func.jacrev, loss=False), jacobian),
    Transform("jacfwd", derived(func.jacfwd, loss=False), jacobian),
    Transform("jacrev(jacrev)", derived(func.jacrev, 2), hessian),
    Transform("jacfwd(jacfwd)", derived(func.jacfwd, 2), hessian),
    Transform("hessian", derived(func.hessian), hessian),
    Transform("vmap", functions.vmap, functions.loops, stacked=True),
    Transform("vmap(grad)", vmapped(derived(func.grad)), each(derivatives), stacked=True),
    Transform("vmap(hessian)", vmapped(derived(func.hessian)), each(hessian), stacked=True),
    *(
        Transform(
            f"vmap, randomness={randomness}",
            partial(functions.vmap_of_masks, randomness=randomness),
            each(gradients),
            stacked=True,
            kind="random",
        )
        for randomness in ("different", "same")
    ),
    Transform("functionalize", functions.functionalized(value), value),
    Transform("functionalize(grad)", functions.functionalized(derived(func.grad)), derivatives),
    Transform("ensemble", modules.ensemble, modules.model_by_model, stacked=True),
)
COMPILERS = (
    Transform("compile(aot_eager)", partial(compilers.compiled, backend="aot_eager"), gradients),
    Transform("compile(dynamic=True)", compilers.compiled_dynamic, gradients, slow=True),
    Transform("compile(grad)", compilers.compiled_with(derived(func.grad)), derivatives),
    Transform("compile(jvp)", compilers.compiled_with(functions.jvp), along_tangents, slow=True),
    Transform(
        "compile(ensemble)",
        partial(modules.ensemble, wrap=compilers.by("aot_eager")),
        modules.model_by_model,
        stacked=True,
        slow=True,
    ),
    Transform("compile(module)", compilers.compiled_module, gradients, slow=True),
    Transform(
        "compile(inductor)", partial(compilers.compiled, backend="inductor"), gradients, slow=True
    ),
    *(
        Transform(
            f"export(strict={strict})",
            partial(compilers.exported, strict=strict),
            _twice,
            moves=0,
            evaluated=True,
            slow=strict,
        )
        for strict in (False, True)
    ),
    *(
        Transform(f"make_fx({mode})", partial(compilers.traced, tracing_mode=mode), gradients)
        for mode in ("real", "symbolic")
    ),
)
MODES = (
    *(
        Transform(
            f"autocast {str(dtype).removeprefix('torch.')}{', half input' * half}",
            partial(modes.autocast, dtype=dtype, half_input=half),
            gradients,
            dtype=torch.float32,
            bound=ROUNDINGS * torch.finfo(dtype).eps,
        )
        for dtype in (torch.bfloat16, torch.float16)
        for half in (False, True)
    ),
    *(
        Transform(
            f"checkpoint{', reentrant' * reentrant}",
            partial(modes.checkpointed, use_reentrant=reentrant),
            gradients,
            moves=2,
        )
        for reentrant in (False, True)
    ),
    Transform("saved_tensors_hooks", modes.gradients_in(modes.copying), gradients),
    Transform("save_on_cpu", modes.gradients_in(save_on_cpu), gradients),
    Transform("deterministic algorithms", modes.gradients_in(modes.deterministic), gradients),
    Transform("inference_mode", modes.inference_mode, value),
    Transform("no_grad", modes.no_grad, value),
    Transform("meta tensors", modes.meta, gradients, moves=0),
    Transform("FakeTensorMode", modes.fake, gradients, moves=0),
    Transform("FlopCounterMode", modes.count_flops, modes.count_flops),
    Transform("TorchFunctionMode", modes.gradients_in(modes.FunctionMode), gradients),
    Transform("tensor subclass", modes.subclass, gradients),
)
MODULES = (
    Transform("deepcopy", modules.after(copy.deepcopy), gradients),
    Transform("pickle", modules.after(lambda m: pickle.loads(pickle.dumps(m))), gradients),
    Transform("state_dict, both ways", modules.exchange_states, gradients),
    Transform("repr", modules.same_repr, _nothing, moves=0),
)
LABELS = tuple(
    Transform(
        f"label out of range, {where}",
        partial(compilers.refuses_labels, call=call, error=error),
        _nothing,
        kind="labels",
        slow=where == "inductor",
        cpu_only=True,  # elsewhere an assertion on the device ends the process
    )
    for where, call, error in (
        ("eager", compilers.eagerly, IndexError),
        ("vmap", compilers.by_vmap, RuntimeError),
        ("aot_eager", compilers.by("aot_eager"), (IndexError, RuntimeError)),
        ("inductor", compilers.by("inductor"), (IndexError, RuntimeError)),
    )
)
TRANSFORMS: tuple[Transform, ...] = AUTOGRAD + FUNC + COMPILERS + MODES + MODULES + LABELS
