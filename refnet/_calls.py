"""Find the functions that a module calls and that a swap of layers doesn't reach.

By reading, not by running: the source of `forward` is parsed, and the names in it are looked up,
without a property or a lazy import being run. The first argument is the module. What only a run
would tell (a variable, the result of a call) may be a tensor, and its `.softmax()` one of these
functions. A function behind a container, a registry, a property or a hook is not found.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType

import torch

from refnet import functional

_ENTRIES = ("forward", "training_step", "validation_step", "test_step", "predict_step")
_METHODS = {n for n in dir(torch.Tensor) if n.rstrip("_") in functional.__all__}
_FUSED = {
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
    "multi_head_attention_forward",
    "scaled_dot_product_attention",
}
_VALUE = object()  # what only a run would tell


def find(module: torch.nn.Module, package: str, layers: set[type]) -> Iterator[tuple[str, str]]:
    """Yield each call of a function that torch and refnet both have, or of one of torch's fused.

    Searched are `forward`, a Lightning module's steps, and what these name from the files of the
    module's own classes; of a `torch.fx.GraphModule`, its graph.

    Args:
        module: only its own calls are searched, not those of modules inside it.
        package: whose functions to find, "torch" or "refnet".
        layers: classes whose making in a forward is to be found as well.

    Returns:
        What is called, in words, and where: file:line, or the node of the graph.

    Example:
        >>> ((what, where),) = find(torch.nn.Softmax2d(), "torch", set())
        >>> what, where.rpartition("/")[2].partition(":")[0]
        ('calls F.softmax', 'activation.py')
    """
    methods = _METHODS if package == "torch" else set()
    if isinstance(module, torch.fx.GraphModule):
        for node in module.graph.nodes:
            is_method = node.op == "call_method" and node.target in methods
            if name := _function(node.target, package) or (is_method and str(node.target)):
                yield f"its graph calls {name}", f"node {node.name}"
        return
    home = {cls.__module__ for cls in type(module).__mro__}
    queue = [f for entry in _ENTRIES if (f := _python(_member(module, entry)))]
    for function in queue:
        try:
            names = _names(function.__code__)
        except (OSError, SyntaxError, TypeError):
            yield f"no source of {function.__qualname__}: what it calls is not known", ""
            continue
        for node, line, called in names:
            target = _resolve(node, function, module)
            words = ""
            if name := _function(target, package):
                words = "calls {}" + f" ({name})" * (not ast.unparse(node).endswith(name))
                words += ", fused: what is inside stays torch's" * (name in _FUSED)
            elif called and isinstance(target, type) and target in layers:
                words = "makes {} when called"
            elif called and target is _VALUE and getattr(node, "attr", None) in methods:
                words = "calls {}"
            elif (helper := _python(target)) and helper.__module__ in home:
                queue += [helper] * (helper not in queue)
            if words:
                yield words.format(ast.unparse(node)), f"{function.__code__.co_filename}:{line}"


def _function(target: object, package: str) -> str:
    """Return the name of one of the functions in question; "" of anything else."""
    if isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, staticmethod):
        target = target.__func__
    if not isinstance(target, FunctionType | BuiltinFunctionType | torch._ops.OpOverload):
        return ""
    name = target.__name__.split(".")[0].rstrip("_")  # relu_ and aten's relu.default are relu
    is_package = (target.__module__ or "").split(".")[0] == package
    return name if is_package and (name in functional.__all__ or name in _FUSED) else ""


@functools.lru_cache(maxsize=256)
def _names(code: CodeType) -> list[tuple[ast.expr, int, bool]]:
    """Return the names, dotted or not, in a function's source, with line and whether called."""
    lines, start = inspect.getsourcelines(code)
    source = "".join(lines)
    if source[:1].isspace():  # a method's source is indented
        source, start = "if True:\n" + source, start - 1
    nodes = list(ast.walk(ast.parse(source)))
    called = {node.func for node in nodes if isinstance(node, ast.Call)}
    names = [node for node in nodes if isinstance(node, ast.Name | ast.Attribute)]
    names.sort(key=lambda node: node.lineno)
    return [(node, start + node.lineno - 1, node in called) for node in names]


def _resolve(node: ast.expr, function: FunctionType, module: torch.nn.Module) -> object:
    """Return what an expression in a function stands for; `_VALUE` if only a run would tell."""
    if isinstance(node, ast.Name):
        first = function.__code__.co_varnames[:1]  # self, by whatever name
        return module if (node.id,) == first else _variable(node.id, function)
    if isinstance(node, ast.Call) and ast.unparse(node) == "super()":
        return _Super(function)
    if not isinstance(node, ast.Attribute):
        return _VALUE
    owner = _resolve(node.value, function, module)
    if isinstance(owner, torch.nn.Module):
        return _member(owner, node.attr)
    if isinstance(owner, _Super):
        return owner.member(module, node.attr)
    if isinstance(owner, type):
        return inspect.getattr_static(owner, node.attr, None)
    if isinstance(owner, ModuleType):
        return vars(owner).get(node.attr)
    return _VALUE if owner is _VALUE or isinstance(owner, torch.Tensor) else None


@dataclass(frozen=True)
class _Super:
    """`super()` in a function."""

    function: FunctionType

    def member(self, module: torch.nn.Module, name: str) -> object:
        """Return what an attribute of it is: that of the classes behind the function's own."""
        mro = type(module).__mro__
        here = (i for i, cls in enumerate(mro) if self.function in map(_python, vars(cls).values()))
        for cls in mro[next(here, len(mro)) + 1 :]:
            if name in vars(cls):
                return vars(cls)[name]
        return None


def _variable(name: str, function: FunctionType) -> object:
    """Return a global of a function, or one from the function around it."""
    code = function.__code__
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    if name in code.co_varnames + code.co_cellvars:
        return _VALUE
    try:
        return cells[name].cell_contents if name in cells else function.__globals__[name]
    except (KeyError, ValueError):  # of a function inside, or not set yet
        return _VALUE


def _member(module: torch.nn.Module, name: str) -> object:
    """Return an attribute of a module, a property as such; `_VALUE` if it is a parameter."""
    for place in (vars(module), module._modules):
        if name in place:
            return place[name]
    return inspect.getattr_static(type(module), name, _VALUE)


def _python(target: object) -> FunctionType | None:
    """Return the Python function behind a method or a decorator; None of anything else."""
    if isinstance(target, MethodType | staticmethod | classmethod):
        target = target.__func__
    function = inspect.unwrap(target) if isinstance(target, FunctionType) else None
    return function if isinstance(function, FunctionType) else None
