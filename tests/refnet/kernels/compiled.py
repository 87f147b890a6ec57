"""Every kernel compiles for the GPUs that it is meant for; that needs none."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import refnet.ops.batch_norm.cuda as batch_norm
import refnet.ops.cross_entropy.cuda as cross_entropy
import refnet.ops.dropout.cuda as dropout
import refnet.ops.softmax.cuda as softmax
import refnet.optim.cuda as optim
from refnet.ops._tiles import tiles

ROWS = dict.fromkeys(("length", "step", "stride", "classes"), "i32")
# Triton makes a constant of an argument that is 1.
TILE = {**tiles((2**15, 1000), 1).options, "WIDE": False, "stride": 1}
COLUMNS = {**tiles((2**10, 2**11, 2**10), 1).options, "WIDE": True, "step": 1}
NUMBERS = {"rows": "i32", "ignore_index": "i32", "s_own": "fp32", "s_each": "fp32"}
LABELS = {"y": "*i64", "w": "*T", "kept_of": "*fp32"}
BATCH = {**dict.fromkeys(("m", "channels", "length", "tiles", "splits"), "i32"), "eps": "fp32"}
VECTORS = {
    **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), "*fp32"),
    **dict.fromkeys(("momentum", "momentum_rest"), "fp32"),
}
ALL = {"WEIGHTED": True, "SMOOTH": True, "EACH": False}
PLAIN = {"WEIGHTED": False, "SMOOTH": False, "EACH": False}

KERNELS: dict[str, tuple[Any, dict[str, str], dict[str, Any]]] = {
    f"{name}, {tile}": (kernel, {**signature, **ROWS}, {**constants, **shape})
    for tile, shape in (("rows", TILE), ("columns", COLUMNS))
    for name, kernel, signature, constants in (
        ("softmax", softmax.forward_kernel, {"z": "*T", "a": "*T"}, {"LOGARITHM": False}),
        ("log-softmax", softmax.forward_kernel, {"z": "*T", "a": "*T"}, {"LOGARITHM": True}),
        ("softmax backward", softmax.backward_kernel,
         {"da": "*T", "a": "*T", "dz": "*T"}, {"LOGARITHM": False}),
        ("log-softmax backward", softmax.backward_kernel,
         {"da": "*T", "a": "*T", "dz": "*T"}, {"LOGARITHM": True}),
        ("cross-entropy", cross_entropy.forward_kernel,
         {"z": "*T", **LABELS, "losses": "*T", "parts": "*fp64", **NUMBERS},
         {**PLAIN, "MEAN": True}),
        ("cross-entropy, all options", cross_entropy.forward_kernel,
         {"z": "*T", **LABELS, "losses": "*T", "parts": "*fp64", **NUMBERS},
         {**ALL, "MEAN": True}),
        ("cross-entropy backward", cross_entropy.backward_kernel,
         {"g": "*T", "z": "*T", **LABELS, "dz": "*T", **NUMBERS}, PLAIN),
        ("cross-entropy backward, all options", cross_entropy.backward_kernel,
         {"g": "*T", "z": "*T", **LABELS, "dz": "*T", **NUMBERS}, ALL),
    )
} | {
    "cross-entropy, added up": (
        cross_entropy.add_up_kernel,
        {"parts": "*fp64", "losses": "*T", "divisor": "*fp32", "count": "i32"},
        {"MEAN": True, "BLOCK": 1024},
    ),
} | {
    f"batch norm {name}, {layout}": (kernel, {**types, **BATCH}, {**constants, **shape})
    for layout, shape in (("first", batch_norm._cut(64, 256, 784).options),
                          ("last", {**batch_norm._cut(50176, 256, 1).options, "length": 1}),
                          ("wide", {**batch_norm._cut(64, 256, 784).options, "WIDE": True}))
    for name, kernel, types, constants in (
        ("statistics", batch_norm.statistics_kernel, {"z": "*T", "parts": "*fp64"}, {}),
        ("training", batch_norm.normalize_kernel,
         {"z": "*T", "y": "*T", **VECTORS, "parts": "*fp64", "kept": "*fp64"},
         {"TRAINING": True, "MOVES": True, "SCALED": True, "SHIFTED": True, "TENSOR": False}),
        ("evaluation", batch_norm.normalize_kernel,
         {"z": "*T", "y": "*T", **VECTORS, "parts": "*fp64", "kept": "*fp64"},
         {"TRAINING": False, "MOVES": False, "SCALED": True, "SHIFTED": True, "TENSOR": False}),
        ("sums", batch_norm.sums_kernel,
         {"dy": "*T", "z": "*T", "kept": "*fp64", "parts": "*fp64"}, {}),
        ("backward", batch_norm.backward_kernel,
         {"dy": "*T", "z": "*T", "dz": "*T", "weight": "*fp32", "dweights": "*fp32",
          "dbiases": "*fp32", "kept": "*fp64", "parts": "*fp64"},
         {"TRAINING": True, "SCALED": True, "WANTS_Z": True}),
    )
} | {
    f"{name}": (
        kernel,
        {**dict.fromkeys(("at", "sizes", "owners", "chunks"), "*i64"), "count": "i32",
         **dict.fromkeys(numbers.split(), "fp32")},
        {**dict.fromkeys(flags.split(), True), **dict.fromkeys(off.split(), False),
         "ALIGNED": True, "BLOCK": optim.BLOCK, "num_warps": optim.WARPS, "DTYPE": None},
    )
    for name, kernel, numbers, flags, off in (
        ("SGD", optim.sgd_kernel, "lr beta rest decay", "MOMENTUM NESTEROV DECAYS",
         "FIRST MAXIMIZE"),
        ("Momentum", optim.momentum_kernel, "rate rest decay", "DECAYS", "MAXIMIZE"),
        ("RMSprop", optim.rmsprop_kernel, "lr rest eps mu decay", "MOMENTUM CENTERED",
         "INSIDE DECAYS MAXIMIZE"),
        ("Adam", optim.adam_kernel, "rate epsilon rest1 rest2 decay change rate_rest change_rest",
         "AMSGRAD SHRINKS", "DECAYS MAXIMIZE"),
    )
} | {
    "dropout": (
        dropout.drop_kernel,
        {"a": "*T", "y": "*T", "key": "*i64", "n": "i32", "factor": "fp32", "limit": "i64"},
        {"BLOCK": dropout.BLOCK, "WIDE": False},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("dtype", "target"), [("fp32", 90), ("bf16", 80)])
@pytest.mark.parametrize("name", KERNELS)
def test_it_compiles_and_keeps_all_in_registers(
    name: str, dtype: str, target: int, tmp_path: Path
) -> None:
    kernel, types, constants = KERNELS[name]
    if "DTYPE" in constants:
        constants = {**constants, "DTYPE": {"fp32": tl.float32, "bf16": tl.bfloat16}[dtype]}
    signature = {
        argument: "constexpr" if argument in constants else types[argument].replace("T", dtype)
        for argument in kernel.arg_names
    }
    source = ASTSource(
        kernel,
        signature,
        {(i,): constants[c] for i, c in enumerate(kernel.arg_names) if c in constants},
    )
    warps = constants.get("num_warps", 4)
    options = {"num_warps": warps, "debug": True, "sanitize_overflow": False}
    made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    assert f".target sm_{target}" in made.asm["ptx"]
    assert ("__assertfail" in made.asm["ptx"]) == ("ignore_index" in types)
    if constants.get("ALIGNED"):  # four elements at once
        assert re.search(rf"ld\.global\.v{4 if dtype == 'fp32' else 2}\.b32", made.asm["ptx"])
    file = tmp_path / "kernel.cubin"
    file.write_bytes(made.asm["cubin"])
    found = subprocess.run(
        [_tool("cuobjdump"), "--dump-resource-usage", str(file)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    stack, registers = (
        int(re.search(rf"{what}:(\d+)", found.stdout)[1])  # type: ignore[index]
        for what in ("STACK", "REG")
    )
    print(f"{name}, {dtype}, sm_{target}: {registers} registers, {stack} bytes of stack")
    assert stack == 0  # nothing spilled
    assert registers <= 96  # 20 warps and more on a multiprocessor


def _tool(name: str) -> str:
    return str(Path(triton.__file__).parent / "backends/nvidia/bin" / name)
