"""Synchronized batch norm in real processes: their batches together give what one batch would.

The file is also the program that the processes run: `launch` starts it, each process goes through
all cases and checks with its part of the batch, and writes down where it differs from one process.
"""

from __future__ import annotations

import copy
import datetime
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import refnet
from verification.mutants import Mutant, planted

WORLDS = (3, 2)  # one after the other in the same processes


@dataclass(frozen=True)
class Case:
    """What one process would do with one batch, cut into parts.

    Attributes:
        sizes: rows of each process.
        inner: shape of a row, (C, *).
        offset: mean of the input, whose standard deviation is 1.
        passes: backward passes through each graph.
        frozen: the process whose input needs no gradient.
    """

    sizes: tuple[int, ...]
    inner: tuple[int, ...] = (3,)
    dtype: torch.dtype = torch.float64
    parameters: torch.dtype = torch.float64
    offset: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 2
    passes: int = 1
    frozen: int | None = None
    channels_last: bool = False


SINGLE = {"dtype": torch.float32, "parameters": torch.float32}
CASES = {
    "2, even": Case((4, 4)),
    "2, uneven": Case((2, 7)),
    "2, one row each": Case((1, 1), steps=1),
    "2, one is empty": Case((0, 5)),
    "2, both are empty": Case((0, 0), (3, 2)),
    "2, (N, C, L)": Case((2, 3), (4, 5)),
    "2, images": Case((2, 1), (3, 4, 5)),
    "2, volumes": Case((1, 2), (2, 3, 2, 2)),
    "2, channels last": Case((2, 3), (3, 4, 5), channels_last=True),
    "2, offset 1e4": Case((3, 6), (3, 4), offset=1e4),
    "2, offset 1e4, one is empty": Case((9, 0), offset=1e4),
    "2, float32": Case((6, 3), (3, 4, 2), **SINGLE),
    "2, float32, offset 1e4": Case((6, 3), (3, 4), offset=1e4, **SINGLE),
    "2, bfloat16": Case((6, 3), (3, 4), torch.bfloat16, torch.float32),
    "2, float16, empty": Case((6, 0), (3, 4), torch.float16, torch.float32),
    "2, not affine": Case((4, 2), options={"affine": False}),
    "2, no bias": Case((4, 2), options={"bias": False}),
    "2, no statistics kept": Case((4, 2), options={"track_running_stats": False}),
    "2, plain average": Case((4, 2), options={"momentum": None}, steps=3),
    "2, large eps and momentum": Case((4, 2), options={"momentum": 0.7, "eps": 0.1}),
    "2, two backward passes": Case((4, 2), passes=2),
    "2, the first needs no gradient": Case((4, 2), frozen=0),
    "2, the second, empty, needs no gradient": Case((4, 0), frozen=1),
    "3, uneven": Case((1, 5, 2)),
    "3, two are empty": Case((0, 6, 0), (3, 2), offset=1e4),
    "3, float32, channels last": Case((3, 1, 2), (3, 4, 2), channels_last=True, **SINGLE),
    "3, the last needs no gradient": Case((4, 2, 3), frozen=2),
}
LAYERS = {
    1: refnet.nn.BatchNorm1d,
    2: refnet.nn.BatchNorm1d,
    3: refnet.nn.BatchNorm2d,
    4: refnet.nn.BatchNorm3d,
}
Results = dict[str, "Tensor | None"]


def layers(case: Case, device: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A synchronized layer, and one for a single process with the same parameters."""
    options = {**case.options, "dtype": case.parameters, "device": device}
    one = LAYERS[len(case.inner)](case.inner[0], **options)
    synced = refnet.nn.SyncBatchNorm(case.inner[0], **options)
    torch.manual_seed(1)
    for parameter in one.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 2)
    synced.load_state_dict(one.state_dict())
    return synced, one


def tensors(case: Case, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and cotangents of each step, the whole batch."""
    torch.manual_seed(2)
    pairs = torch.randn(2, case.steps, sum(case.sizes), *case.inner, dtype=torch.float64)
    pairs[0] += case.offset
    pairs = pairs.to(device, case.dtype)
    last = torch.channels_last if case.channels_last else torch.contiguous_format
    return [x.contiguous(memory_format=last) for x in pairs[0]], list(pairs[1])


def own(whole: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The rows of this process."""
    return whole.split(sizes)[dist.get_rank()]


def train(
    layer: torch.nn.Module, inputs: list[Tensor], dys: list[Tensor], passes: int, frozen: bool
) -> Results:
    """Go forward and backward; returns all that comes out."""
    results: Results = {}
    for step, (x, dy) in enumerate(zip(inputs, dys, strict=True)):
        x = x.clone().requires_grad_(not frozen)
        y = layer(x)
        for _ in range(passes):
            y.backward(dy, retain_graph=True)
        results |= {f"y{step}": y.detach(), f"dz{step}": x.grad}
    results |= {f"d{name}": p.grad for name, p in layer.named_parameters()}
    return results | dict(layer.named_buffers())


def differences(case: Case, device: str) -> list[str]:
    """What a process finds other than it would be in one process, in a case."""
    synced, one = layers(case, device)
    inputs, dys = tensors(case, device)
    rank = dist.get_rank()
    parts = [[own(x, case.sizes) for x in several] for several in (inputs, dys)]
    ours = train(synced, *parts, case.passes, case.frozen == rank)
    theirs = train(one, inputs, dys, case.passes, False)
    problems = []
    for name, expected in theirs.items():
        got = ours[name]
        if name.startswith(("y", "dz")):
            expected = own(expected, case.sizes)
        elif name in ("dweight", "dbias"):
            dist.all_reduce(got)
        if name.startswith("dz") and case.frozen == rank:
            problems += [f"{name} is there"] * (got is not None)
            continue
        problems += differ(name, got, expected, case.offset)
        if case.channels_last and name.startswith(("y", "dz")):
            last = got.is_contiguous(memory_format=torch.channels_last)
            problems += [] if last else [f"{name}: strides {got.stride()}"]
    return problems


def differ(name: str, got: Tensor | None, expected: Tensor, offset: float = 0.0) -> list[str]:
    """Compare two tensors.

    Both are float64 evaluations that are rounded to the dtype. The former differ by rounding, 1e-12
    of the values; at an offset by rounding of the mean, some ulps of the offset, where the values
    are of size 1. The latter differ by an ulp at worst; sums over processes by one each.
    """
    if got is None or got.shape != expected.shape or got.dtype != expected.dtype:
        return [f"{name}: {got}, expected {expected}"]
    if not expected.numel():
        return []
    eps = torch.finfo(got.dtype).eps if got.is_floating_point() else 0.0
    bound = max(1e-12, 4 * 2.2e-16 * offset) if got.dtype == torch.float64 else 3 * eps
    scale = max(1.0, expected.double().abs().max().item())
    error = (got.double() - expected.double()).abs().max().item()
    return [] if error <= bound * scale else [f"{name}: off by {error:.1e}, scale {scale:.1e}"]


# Checks that are no cases: each gets the device and returns what is wrong.


def check_second_derivatives(device: str) -> list[str]:
    sizes = (3, 5, 2) if dist.get_world_size() == 3 else (3, 5)
    case = Case(sizes, (2, 2), steps=1)

    def penalty(layer: torch.nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
        x = x.clone().requires_grad_()
        (dz,) = torch.autograd.grad((layer(x) ** 2 * dy).sum(), x, create_graph=True)
        return torch.autograd.grad((dz**2 * dy).sum(), [x, layer.weight])

    synced, one = layers(case, device)
    [x], [dy] = tensors(case, device)
    dz, dweight = penalty(synced, own(x, sizes), own(dy, sizes))
    dist.all_reduce(dweight)
    expected_dz, expected_dweight = penalty(one, x, dy)
    return [
        *differ("dz", dz, own(expected_dz, sizes)),
        *differ("dweight", dweight, expected_dweight),
    ]


def check_training_under_ddp(device: str) -> list[str]:
    sizes = (5, 0, 3) if dist.get_world_size() == 3 else (2, 6)
    torch.manual_seed(3)
    one = torch.nn.Sequential(
        torch.nn.Linear(4, 6), refnet.nn.BatchNorm1d(6), torch.nn.ReLU(), torch.nn.Linear(6, 2)
    ).to(device, torch.float64)
    synced = refnet.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(one))
    ddp = torch.nn.parallel.DistributedDataParallel(synced)
    share = dist.get_world_size() / sum(sizes)  # DDP takes the mean over processes
    optimizers = [refnet.optim.SGD(net.parameters(), lr=0.1) for net in (ddp, one)]
    for _ in range(3):
        x = torch.randn(sum(sizes), 4, dtype=torch.float64).to(device)
        losses = (ddp(own(x, sizes)).square().sum() * share, one(x).square().mean(0).sum())
        for optimizer, loss in zip(optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [
        problem
        for name, expected in one.state_dict().items()
        for problem in differ(name, synced.state_dict()[name], expected)
    ]


def check_a_group_of_its_own(device: str) -> list[str]:
    world, rank = dist.get_world_size(), dist.get_rank()
    groups = [dist.new_group([0, 1]), dist.new_group([world - 1])]
    if world == 2:
        return []
    case = Case((2, 4, 3), options={"process_group": groups[rank // 2]})
    _, one = layers(Case(case.sizes), device)
    synced = refnet.nn.SyncBatchNorm(3, device=device, dtype=torch.float64, **case.options)
    synced.load_state_dict(one.state_dict())
    [x, _], [dy, _] = tensors(case, device)
    mine = slice(0, 6) if rank < 2 else slice(6, 9)
    ours = train(synced, [own(x, case.sizes)], [own(dy, case.sizes)], 1, False)
    theirs = train(one, [x[mine]], [dy[mine]], 1, False)
    sizes = case.sizes[:2] if rank < 2 else case.sizes[2:]
    expected = theirs["dz0"].split(sizes)[rank % 2]
    problems = differ("running_var", ours["running_var"], theirs["running_var"])
    return problems + differ("dz", ours["dz0"], expected)


def check_one_value_in_all(device: str) -> list[str]:
    if device == "cuda":
        return []  # the error would have to wait for the count
    layer = refnet.nn.SyncBatchNorm(3, device=device)
    try:
        layer(torch.ones(int(dist.get_rank() == 0), 3, device=device))
    except ValueError as error:
        message = str(error)
    else:
        message = ""
    if not message.startswith("Expected more than 1 value per channel when"):
        return [f"message: {message!r}"]
    return differ("mean", layer.running_mean, torch.zeros_like(layer.running_mean))


def check_evaluation_is_alone(device: str) -> list[str]:
    if dist.get_rank():
        return []  # a process that asked the others would wait for ever
    layer = refnet.nn.SyncBatchNorm(3, device=device).eval()
    x = torch.randn(4, 3, device=device)
    bare = refnet.nn.SyncBatchNorm(3, track_running_stats=False, device=device).eval()
    one = refnet.nn.BatchNorm1d(3, track_running_stats=False, device=device).eval()
    return differ("y", layer(x), x / (1 + layer.eps) ** 0.5) + differ("y", bare(x), one(x))


def check_one_sum_each_way(device: str) -> list[str]:
    calls = []
    kept: list[int] = []
    layer = refnet.nn.SyncBatchNorm(3, device=device)
    x = torch.randn(2, 3, device=device, requires_grad=True)

    def pack(tensor: Tensor) -> Tensor:
        callers = (x.data_ptr(), layer.weight.data_ptr())
        kept.append(0 if tensor.data_ptr() in callers else tensor.nbytes)
        return tensor

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0].dtype)
        return original(*args, **kwargs)

    original, dist.all_reduce = dist.all_reduce, counted
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = layer(x)
        after_forward = len(calls)
        y.backward(torch.ones_like(y))
    finally:
        dist.all_reduce = original
    problems = [] if sum(kept) <= (2 * 3 + 1) * 8 else [f"keeps {kept} bytes"]
    if (after_forward, calls) != (1, [torch.float64] * 2):
        problems.append(f"{after_forward} sums forward, then {calls}")
    return problems


def check_transforms(device: str) -> list[str]:
    if dist.get_world_size() == 3:
        return []  # compilation takes seconds, and would do the same
    torch.manual_seed(dist.get_rank())
    layer = refnet.nn.SyncBatchNorm(3, device=device, dtype=torch.float64, momentum=None)
    x, dy = torch.randn(2, 4, 3, device=device, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def f(x: Tensor) -> Tensor:  # as an ensemble of two would be called
        zero = 0 * x.detach().sum()
        buffers = {name: (b + zero).to(b.dtype) for name, b in layer.named_buffers()}
        return torch.func.functional_call(layer, buffers | parameters, x)

    def dz(x: Tensor) -> Tensor:
        return torch.func.grad(lambda x: (f(x) * dy).sum())(x)

    def dz_in_eager(x: Tensor, layer: torch.nn.Module) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(layer(x), x, dy)[0]

    two = torch.stack([x, 2 * x + dy])
    problems = differ("vmap", torch.func.vmap(f)(two), torch.stack([layer(z) for z in two]))
    expected = torch.stack([dz_in_eager(z, layer) for z in two])
    problems += differ("vmap of grad", torch.func.vmap(dz)(two), expected)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    problems += differ("compiled", dz_in_eager(x, compiled), dz_in_eager(x, layer))
    problems += differ("running_var", twin.running_var, layer.running_var)
    try:
        with torch.autograd.forward_ad.dual_level():
            layer(x)
    except NotImplementedError as error:
        return problems + ["message"] * ("forward mode" not in str(error))
    return [*problems, "forward mode"]


CHECKS: dict[str, Callable[[str], list[str]]] = {
    name.removeprefix("check_").replace("_", " "): function
    for name, function in list(globals().items())
    if name.startswith("check_")
}

SYNC, NN = "ops.batch_norm.sync", "nn.batchnorm"
BUGS = [
    ("own statistics used", SYNC,
     "combine(AllReduce.apply(torch.stack(rows), group))", "combine(row[None])"),
    ("count not summed", SYNC, "m = counts.sum()", "m = counts[0, 0]"),
    ("mean of the means", SYNC, "(counts * means).sum(0) / m.clamp(min=1)", "means.mean(0)"),
    ("mean of the variances", SYNC, "squares + counts * (means - mean).square()", "squares"),
    ("distances of the means not weighted", SYNC, "counts * (means - mean)", "(means - mean)"),
    ("squares around 0", SYNC,
     "(z - mean[:, None]).square().sum(1)", "z.square().sum(1) - m * mean.square()"),
    ("statistics in float32", SYNC, "z = wide(z).transpose", "z = wide(z.float()).transpose"),
    ("an empty batch is NaN", SYNC, "z.sum(1) / max(m, 1)", "z.mean(1)"),
    ("all empty: running statistics move", SYNC, "momentum * wide(m > 0)", "momentum"),
    ("running mean moved twice", SYNC, "mean, var, some, momentum)",
     "mean, var, some, momentum)\n            reference.move(running_mean, mean, momentum)"),
    ("unbiased by the own count", SYNC, "mean, var, some, momentum)",
     "mean, var, max(2, reference.count(z)), momentum)"),
    ("biased running variance", SYNC, "mean, var, some, momentum)", "mean, var, 1e300, momentum)"),
    ("gradient not summed", SYNC,
     "total = partial(AllReduce.apply, group=ctx.group)", "total = lambda sums: sums"),
    ("gradient divided by the own count", SYNC,
     "inv_std, m, total)", "inv_std, reference.count(z), total)"),
    ("statistics constant in dz", SYNC, "inv_std, m, total)", "inv_std, None, total)"),
    ("dγ and dβ summed over processes", SYNC,
     "gradients(ctx, z, weight, *results)",
     "gradients(ctx, z, weight, results[0], total(results[1]), total(results[2]))"),
    ("statistics constant in the second derivative", SYNC,
     "if torch.is_grad_enabled():", "if False:"),
    ("no sum in the second derivative", SYNC,
     "AllReduce.apply(dtotal, ctx.group), None", "dtotal, None"),
    ("the group ignored", NN, "self.process_group or dist.group.WORLD", "dist.group.WORLD"),
    ("running statistics not moved", NN, "sync_batch_norm(input, running_mean, running_var,",
     "sync_batch_norm(input, None, None,"),
]  # fmt: skip


def everything(world: int, device: str) -> Iterator[tuple[str, list[str]]]:
    """Run what there is for a number of processes; yields names and problems."""
    for name, case in CASES.items():
        if len(case.sizes) == world:
            yield name, differences(case, device)
    for name, check in CHECKS.items():
        yield f"{world}, {name}", check(device)


def noticed(bug: tuple[str, str, str, str], world: int, device: str) -> list[str]:
    """Plant a bug; returns what this process notices of it."""
    # With one row in a process some bugs raise an error there, and the others would wait for it.
    cases = {n: c for n, c in CASES.items() if len(c.sizes) == world and 1 not in c.sizes}
    with planted(Mutant("sync_batch_norm", *bug)):
        found = [name for name, case in cases.items() if differences(case, device)]
        for check in (check_second_derivatives, check_a_group_of_its_own):
            found += [check.__name__] * bool(check(device))
    return found


def main(rank: int, folder: Path, device: str) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    problems: dict[str, list[str]] = {}
    bugs: dict[str, list[str]] = {}
    for world in WORLDS:
        if rank >= world or (device == "cuda" and torch.cuda.device_count() < world):
            continue
        if device == "cuda":
            torch.cuda.set_device(rank)
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            init_method=f"file://{folder}/world{world}",
            rank=rank,
            world_size=world,
            timeout=datetime.timedelta(minutes=2),
        )
        problems |= dict(everything(world, device))
        for bug in BUGS if device == "cpu" else []:
            bugs.setdefault(bug[0], []).extend(noticed(bug, world, device))
        dist.destroy_process_group()
    (folder / f"rank{rank}.json").write_text(json.dumps({"problems": problems, "bugs": bugs}))


def launch(device: str) -> list[dict[str, dict[str, list[str]]]]:
    """Run this file in as many processes as the largest world has; returns what they wrote."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        commands = [[sys.executable, __file__, str(r), folder, device] for r in range(max(WORLDS))]
        processes = [
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
            for command in commands
        ]
        try:
            errors = [process.communicate(timeout=300)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        if any(process.returncode for process in processes):
            raise RuntimeError("\n".join(errors))
        return [json.loads(path.read_text()) for path in sorted(Path(folder).glob("rank*.json"))]


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
            ],
        ),
    ],
)
def test_processes_share_one_batch(device: str) -> None:
    ranks = launch(device)
    names = set().union(*(rank["problems"] for rank in ranks))
    if device == "cpu":
        assert names >= {*CASES, *(f"{world}, {name}" for world in WORLDS for name in CHECKS)}
    wrong = {
        f"{name} in process {rank}": problems
        for rank, results in enumerate(ranks)
        for name, problems in results["problems"].items()
        if problems
    }
    assert wrong == {}
    unnoticed = [
        bug for bug in ranks[0]["bugs"] if not any(rank["bugs"].get(bug) for rank in ranks)
    ]
    assert unnoticed == []


# In one process.

MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "refnet": lambda: refnet.nn.BatchNorm2d(3, eps=1e-3, momentum=0.2),
    "torch": lambda: torch.nn.BatchNorm1d(3, momentum=None),
    "not affine": lambda: refnet.nn.BatchNorm1d(3, affine=False),
    "no bias": lambda: refnet.nn.BatchNorm1d(3, bias=False),
    "no statistics": lambda: refnet.nn.BatchNorm3d(3, track_running_stats=False),
    "torch's synchronized": lambda: torch.nn.SyncBatchNorm(3),
    "float64, evaluation": lambda: refnet.nn.BatchNorm1d(3, dtype=torch.float64).eval(),
    "meta": lambda: refnet.nn.BatchNorm1d(3, device="meta"),
    "nested": lambda: torch.nn.Sequential(
        torch.nn.Linear(2, 3), torch.nn.ModuleDict({"a": torch.nn.BatchNorm1d(3)})
    ),
}
ATTRIBUTES = ("num_features", "eps", "momentum", "affine", "track_running_stats", "training")


@pytest.mark.parametrize("name", MODELS)
def test_converted_as_torch_converts(name: str) -> None:
    model = MODELS[name]()
    for layer in model.modules():
        layer.qconfig = "kept"
    tensors = [*model.parameters(), *model.buffers()]
    theirs = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    ours = refnet.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert ours is model
    for kept, before in zip([*ours.parameters(), *ours.buffers()], tensors, strict=True):
        assert kept is before
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, builtin in zip(ours.modules(), theirs.modules(), strict=True):
        assert type(mine).__name__ == type(builtin).__name__
        assert mine.qconfig == "kept"
        if isinstance(builtin, torch.nn.SyncBatchNorm):
            assert type(mine) is refnet.nn.SyncBatchNorm
            assert mine.process_group is None
            assert all(getattr(mine, a) == getattr(builtin, a) for a in ATTRIBUTES)
            assert (mine.bias is None) == (builtin.bias is None)
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", MODELS)
def test_there_is_a_way_back(name: str) -> None:
    model = MODELS[name]()
    before = {layer: (type(layer), dict(vars(layer))) for layer in model.modules()}
    synced = refnet.nn.SyncBatchNorm
    twin = copy.deepcopy(synced.convert_sync_batchnorm(synced.convert_sync_batchnorm(model)))
    assert synced.revert_sync_batchnorm(model) is model
    assert {layer: (type(layer), vars(layer)) for layer in model.modules()} == before
    kinds = [type(layer) for layer in synced.revert_sync_batchnorm(twin).modules()]
    assert kinds == [kind for kind, _ in before.values()]
    assert repr(twin) == repr(model)


def test_what_torchs_converter_loses_stays() -> None:
    tied = refnet.nn.BatchNorm1d(3)
    model = torch.nn.Sequential(tied, torch.nn.ReLU(), tied)
    seen: list[str] = []
    tied.register_forward_hook(lambda *_: seen.append("forward"))
    tied.register_full_backward_hook(lambda *_: seen.append("backward"))
    optimizer = refnet.optim.SGD(model.parameters(), lr=0.1)
    refnet.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model(torch.randn(4, 3, requires_grad=True)).square().sum().backward()
    before = tied.bias.detach().clone()
    optimizer.step()
    assert model[0] is tied
    assert model[2] is tied
    assert seen == ["forward"] * 2 + ["backward"] * 2
    assert not torch.equal(tied.bias, before)


def test_groups() -> None:
    layer = refnet.nn.SyncBatchNorm(3, process_group="first")
    convert = refnet.nn.SyncBatchNorm.convert_sync_batchnorm
    assert convert(layer).process_group == "first"
    assert convert(layer, "second").process_group == "second"
    assert convert(torch.nn.SyncBatchNorm(3, process_group="first")).process_group == "first"
    assert convert(torch.nn.BatchNorm1d(3), "first").process_group == "first"
    assert refnet.nn.SyncBatchNorm.revert_sync_batchnorm(layer).process_group == "second"


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_cannot_be_converted() -> None:
    parametrized = torch.nn.utils.parametrizations.weight_norm(torch.nn.BatchNorm1d(3), dim=None)
    for layer, message in (
        (refnet.nn.LazyBatchNorm1d(), "'1' has to see an input first"),
        (parametrized, "'1' is parametrized"),
    ):
        model = torch.nn.Sequential(refnet.nn.BatchNorm1d(3), layer)
        with pytest.raises(ValueError, match=message):
            refnet.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        assert type(model[0]) is refnet.nn.BatchNorm1d


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("inner", [(), (4,), (4, 2), (4, 2, 2), (1, 1, 1, 2)])
def test_alone_it_is_batch_norm(inner: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, *inner, requires_grad=True)
    synced = refnet.nn.SyncBatchNorm(3).train(training)
    mean, var = torch.zeros(3), torch.ones(3)
    expected = refnet.functional.batch_norm(
        x, mean, var, synced.weight, synced.bias, training=training
    )
    assert torch.equal(synced(x), expected)
    assert torch.equal(synced.running_mean, mean)
    assert torch.equal(synced.running_var, var)


def test_constructor_is_torchs() -> None:
    ours, theirs = (inspect.signature(c) for c in (refnet.nn.SyncBatchNorm, torch.nn.SyncBatchNorm))
    described = [
        [(p.name, p.default, p.kind) for p in s.parameters.values()] for s in (ours, theirs)
    ]
    assert described[0] == described[1]
    for options in ({}, {"bias": False}, {"affine": False, "track_running_stats": False}):
        pair = [
            c(3, dtype=torch.float64, **options)
            for c in (refnet.nn.SyncBatchNorm, torch.nn.SyncBatchNorm)
        ]
        assert str(pair[0].state_dict()) == str(pair[1].state_dict())
        pair[0].load_state_dict(pair[1].state_dict())
        assert repr(pair[0]) == repr(pair[1])


@pytest.mark.parametrize(("shape", "channels"), [((3,), 3), ((2, 0), 0)])
def test_errors_are_torchs(shape: tuple[int, ...], channels: int) -> None:
    messages = []
    for package in (refnet.nn, torch.nn):
        with pytest.raises(ValueError, match="input") as error:
            package.SyncBatchNorm(channels)(torch.zeros(shape))
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_momentum_may_be_a_tensor_without_dimensions() -> None:
    x, means = torch.randn(4, 3), []
    for op in (refnet.functional.batch_norm, torch.nn.functional.batch_norm):
        for momentum in (0.25, torch.tensor(0.25)):
            mean, var = torch.zeros(3), torch.ones(3)
            op(x, mean, var, training=True, momentum=momentum)
            means.append(mean)
        for momentum in (torch.ones(1), torch.tensor(0.25, requires_grad=True)):
            with pytest.raises(TypeError, match=r"'momentum'.* must be float"):
                op(x, mean, var, training=True, momentum=momentum)
    torch.testing.assert_close(means, [means[0]] * 4)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
