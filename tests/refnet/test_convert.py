"""`refnet.convert`: what it swaps, what stays as it is, and what it says about the rest."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import pickle
import types
import warnings
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import relu as aliased
from torch.nn.utils import parametrizations, parametrize, prune
from torch.testing._internal.distributed.fake_pg import FakeStore

import refnet
from refnet.convert import Conversion, Row

NAMES = [name for name in refnet.nn.__all__ if hasattr(nn, name)]
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Linear": (5, 4),
    "LazyLinear": (4,),
    "Softmax": (1,),
    "LogSoftmax": (1,),
    **{name: (5,) for name in NAMES if "BatchNorm" in name and not name.startswith("Lazy")},
}


def layer(name: str, package: Any = nn) -> nn.Module:
    module: nn.Module = getattr(package, name)(*ARGUMENTS.get(name, ()))
    return module


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 8), nn.Tanh()),
        nn.GELU(),
        nn.Linear(8, 3),
    ).double()


def types_of(module: nn.Module) -> list[type]:
    return [type(part) for part in module.modules()]


def converted(module: nn.Module, to: Any = "refnet") -> Conversion:
    reports: list[Conversion] = []
    assert refnet.convert(module, to, report=reports.append) is module
    return reports[0]


def said(module: nn.Module, to: Any = "refnet") -> list[tuple[str, str]]:
    """Name and reason of what is left."""
    return [(row.name, row.reason) for row in converted(module, to).left]


def run(module: nn.Module, input: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    output = module(input)
    output.square().sum().backward()
    return [output.detach(), *(p.grad.clone() for p in module.parameters()), *module.buffers()]


# What is swapped, and what stays.


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_there_and_back(name: str) -> None:
    module = layer(name)
    tensors = {id(t) for t in [*module.parameters(), *module.buffers()]}
    attributes = dict(vars(module))
    for to, package in (("refnet", refnet.nn), ("torch", nn), ("refnet", refnet.nn)):
        done = converted(module, to)
        assert done == Conversion(to, (Row(("",), name),), ())
        assert type(module) is getattr(package, name)
        assert {id(t) for t in [*module.parameters(), *module.buffers()]} == tensors
        assert vars(module) == attributes


def test_all_of_refnets_layers_are_named_as_torchs() -> None:
    assert refnet.nn.__all__ == NAMES


def test_layers_anywhere_in_the_tree() -> None:
    model = net()
    before = types_of(model)
    assert [row.name for row in converted(model).swapped] == [
        *("0", "1", "2", "3.0", "3.1", "3.2", "5"),
    ]
    after = types_of(model)
    assert after[0] is nn.Sequential
    assert after[1] is refnet.nn.Linear
    assert [getattr(nn, t.__name__) for t in after] == before


def test_round_trip_is_exact() -> None:
    model, twin = net(), net()
    x = torch.randn(7, 6, dtype=torch.float64)
    state = copy.deepcopy(model.state_dict())
    refnet.convert(refnet.convert(model), "torch")
    assert types_of(model) == types_of(twin)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(run(model, x), run(twin, x), strict=True))
    refnet.convert(refnet.convert(refnet.convert(model), "torch"))
    refnet.convert(twin)
    assert types_of(model) == types_of(twin)
    assert all(torch.equal(a, b) for a, b in zip(run(model, x), run(twin, x), strict=True))


def test_converting_again_changes_nothing_and_says_the_rest_again() -> None:
    model = net()
    first, again = converted(model), converted(model)
    types_before = types_of(model)
    assert again == Conversion("refnet", (), first.left)
    assert types_of(model) == types_before
    assert converted(net(), "torch") == Conversion("torch", (), ())


def test_state_dicts_move_both_ways() -> None:
    ours, theirs = refnet.convert(net()), net()
    run(ours, torch.randn(7, 6, dtype=torch.float64))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    refnet.convert(net()).load_state_dict(theirs.state_dict())


def test_hooks_fire() -> None:
    model = net()
    fired = []
    model[0].register_forward_pre_hook(lambda *_: fired.append("pre"))
    model[0].register_forward_hook(lambda *_: fired.append("forward"))
    model[0].register_full_backward_hook(lambda *_: fired.append("backward"))
    model[0].weight.register_hook(lambda _: fired.append("gradient"))
    model[0].register_state_dict_post_hook(lambda *_: fired.append("state"))
    refnet.convert(model)
    run(model, torch.randn(7, 6, dtype=torch.float64, requires_grad=True))
    model.state_dict()
    assert sorted(fired) == ["backward", "forward", "gradient", "pre", "state"]


def test_tied_modules_stay_tied_and_are_named_together() -> None:
    block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model = nn.ModuleDict({"a": block, "b": block, "c": block[0]})
    assert converted(model).swapped == (
        Row(("a.0", "c"), "Linear"),  # a and b are one module, whose inside is named once
        Row(("a.1",), "ReLU"),
    )
    assert model["a"] is model["b"]
    assert model["a"][0] is model["c"]


def test_a_tied_parameter_stays_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    refnet.convert(model)
    assert model[1].weight is model[0].weight


def test_an_optimizer_goes_on() -> None:
    """Three steps, the swap, three steps: as if nothing had been swapped."""
    with refnet.use_backend("reference"):  # whose dropout draws torch's masks
        _optimizer_goes_on()


def _optimizer_goes_on() -> None:
    losses = []
    for convert in (refnet.convert, lambda model: model):
        model = net()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        x, y = torch.randn(9, 6, dtype=torch.float64), torch.arange(9) % 3
        losses.append([])
        for step in range(6):
            if step == 3:
                convert(model)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_stays(training: bool) -> None:
    model = net().train(training)
    model[3].train(not training)
    modes = [part.training for part in model.modules()]
    assert [part.training for part in refnet.convert(model).modules()] == modes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtype_device_and_gradient_flags_stay(dtype: torch.dtype) -> None:
    model = net().to(device="meta", dtype=dtype)
    model[0].weight.requires_grad_(False)
    refnet.convert(model)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", dtype)}
    assert not model[0].weight.requires_grad
    assert model(torch.zeros(7, 6, device="meta", dtype=dtype)).shape == (7, 3)


def test_copies_and_pickles() -> None:
    model = refnet.convert(net())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert types_of(twin) == types_of(model)
        torch.testing.assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_lazy_layer_becomes_refnets() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    refnet.convert(model)
    model(torch.randn(3, 5))
    assert types_of(model)[1:] == [refnet.nn.Linear, refnet.nn.BatchNorm1d]
    assert model[0].weight.shape == (4, 5)


class Peculiar(nn.Module):
    """Refuses attributes, has slots, is equal to everything, and a child that is None."""

    __slots__ = ("slot",)

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.register_module("nothing", None)
        self.slot = 1

    def __setattr__(self, name: str, value: object) -> None:
        if name == "__class__":
            raise AttributeError(name)
        super().__setattr__(name, value)

    @property
    def costly(self) -> Tensor:
        raise AssertionError("a property was run")

    def forward(self, input: Tensor) -> Tensor:
        return self.inner(input) + self.costly.sum()


def test_a_module_with_slots_setattr_and_a_property() -> None:
    model = Peculiar()
    assert said(model) == []
    assert type(model.inner) is refnet.nn.Linear


# What is left.


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class OurScaled(refnet.nn.Linear):
    pass


def test_subclasses_are_left() -> None:
    model = nn.Sequential(Scaled(3, 3), nn.MultiheadAttention(4, 2))
    left = said(model)
    assert left[0] == ("0", "a subclass of Linear, which may compute something else")
    assert left[-1] == ("1.out_proj", left[0][1])
    assert type(model[0]) is Scaled
    assert said(OurScaled(3, 3)) == []  # refnet's already
    assert said(OurScaled(3, 3), "torch") == [("(root)", left[0][1])]


def test_layers_without_counterpart_are_left_and_containers_not_listed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ModuleList([nn.GELU()]), nn.Sequential())
    assert said(model) == [(name, "no counterpart in refnet.nn") for name in ("0", "1.0")]
    assert said(model, "torch") == []


def test_a_forward_of_the_instance_is_left() -> None:
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    model[0].forward = lambda input: input
    assert said(model) == [("0", "its forward was replaced on the instance")]
    assert types_of(model)[1:] == [nn.ReLU, refnet.nn.ReLU]


@pytest.mark.parametrize("to", ["refnet", "torch"])
def test_parametrized_layers_are_left_and_can_be_converted_before(to: str) -> None:
    package = nn if to == "refnet" else refnet.nn
    model = nn.Sequential(parametrizations.weight_norm(package.Linear(3, 3)))
    assert said(model, to) == [("0", "a subclass of Linear, which may compute something else")]
    parametrize.remove_parametrizations(model[0], "weight")
    assert said(model, to) == []
    assert type(model[0]) is (refnet.nn if to == "refnet" else nn).Linear
    parametrizations.weight_norm(model[0])(torch.randn(2, 3)).sum().backward()


def test_pruned_layers_and_weight_norm_by_hook() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    prune.random_unstructured(model[0], "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm is the old way
        nn.utils.weight_norm(model[1])
    x = torch.randn(3, 4)
    expected = model(x)
    assert len(converted(model).swapped) == 2
    torch.testing.assert_close(model(x), expected)
    assert (model[0].weight == 0).sum() == 8


def test_scripts_are_left() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is the old way
        script = torch.jit.trace(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    model = nn.Sequential(nn.Linear(3, 3), script)
    assert said(model) == [("1", "compiled by torch.jit, which fixed its layers")]
    assert type(model[0]) is refnet.nn.Linear


def test_quantized_layers_are_left() -> None:
    quantized = torch.ao.nn.quantized
    model = nn.Sequential(quantized.Dropout(), quantized.ReLU6(), nn.ReLU())
    assert said(model) == [("0", "quantized"), ("1", "quantized")]


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, functools.partial(torch.compile, backend="eager")]
)
def test_wrapped_models(wrap: Any) -> None:
    model = net()
    wrapped = wrap(model)
    assert len(converted(wrapped).swapped) == 7
    assert type(model[0]) is refnet.nn.Linear


def test_a_distributed_wrapper() -> None:
    """Torch's fake group stands in for a network; it can't serve a backward."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(net())
        done = converted(model)
        assert [row.name for row in done.swapped][:2] == ["module.0", "module.1"]
        assert type(model.module[0]) is refnet.nn.Linear
        with torch.no_grad():
            assert model(torch.randn(7, 6, dtype=torch.float64)).shape == (7, 3)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_a_compiled_model_is_compiled_again(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    model: Any = nn.Sequential(nn.ReLU())
    if how == "wrapper":
        model = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    monkeypatch.setattr(refnet.nn.ReLU, "forward", lambda self, input: 3 * input)
    x = torch.tensor([1.0])
    assert model(x) == 1
    assert refnet.convert(model)(x) == 3
    assert refnet.convert(model, "torch")(x) == 1


# Functions.


class Functional(nn.Module):
    """Each call to be found has the mark `# found:` and the reason."""

    def __init__(self) -> None:
        super().__init__()
        self.act = F.leaky_relu
        self.softmax = nn.Softmax(1)
        self.weight = nn.Parameter(torch.ones(3))
        self.plain = torch.ones(3)
        self.other = types.SimpleNamespace(softmax=torch.exp)

    def forward(self, x: Tensor) -> Tensor:
        """A docstring
        that begins its second line too early."""
        x = F.relu(x)  # found: calls F.relu
        x = torch.sigmoid(x)  # found: calls torch.sigmoid
        x = nn.functional.dropout(x, 0.1)  # found: calls nn.functional.dropout
        x = aliased(x)  # found: calls aliased (relu)
        x = self.act(x)  # found: calls self.act (leaky_relu)
        x = x.softmax(1)  # found: calls x.softmax
        x = (x + 1).tanh_()  # found: calls (x + 1).tanh_
        x = self.weight.sigmoid() * x  # found: calls self.weight.sigmoid
        x = self.plain.log_softmax(0) * x  # found: calls self.plain.log_softmax
        x = map(lambda y: y.log_softmax(1), x)  # found: calls y.log_softmax
        x = nn.LogSoftmax(1)(x)  # found: makes nn.LogSoftmax when called
        x = F.leaky_relu_(x, 0.1)  # found: calls F.leaky_relu_ (leaky_relu)
        x = attend(x, x, x)  # found: calls attend (scaled_dot_product_attention) [fused]
        x = self.softmax(x) + torch.exp(x) + F.gelu(x) + refnet.functional.relu(x)
        x = self.other.softmax(x) if isinstance(self.softmax, nn.Softmax) else x.tanh
        return self.helper(x) + self.static(x, x) + helper(x) + lazy.relu(x) + super().forward(x)

    def helper(self, x: Tensor) -> Tensor:
        return torch.tanh(x)  # found: calls torch.tanh

    @staticmethod
    def static(x: Tensor, attend: Any) -> Tensor:
        return attend(x).relu()  # found: calls attend(x).relu

    def not_called(self, x: Tensor) -> Tensor:
        return x.relu()


lazy: Any = types.ModuleType("lazy")
attend = F.scaled_dot_product_attention


def helper(x: Tensor) -> Tensor:
    return torch.softmax(x, 1)  # found: calls torch.softmax


FUSED = ", fused: what is inside stays torch's"


def marked(thing: Any) -> set[tuple[str, str]]:
    """Reasons and locations that the source of a class or a function asks for."""
    lines, start = inspect.getsourcelines(thing)
    return {
        (line.split("# found: ")[1].strip().replace(" [fused]", FUSED), f"{__file__}:{start + i}")
        for i, line in enumerate(lines)
        if "# found: " in line
    }


def test_functions_are_found_in_the_source() -> None:
    left = converted(nn.Sequential(Functional())).left
    assert {row.name for row in left} == {"0"}
    assert {row.layer for row in left} == {"Functional"}
    found = {(row.reason, row.location) for row in left}
    assert found == marked(Functional) | marked(helper)
    assert len(found) == 16
    lines = [int(row.location.rpartition(":")[2]) for row in left[:13]]
    assert lines == sorted(lines)


def test_names_of_the_function_around_and_of_an_unset_one() -> None:
    act = torch.relu

    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return later(act(x))

    assert said(Inner()) == [("(root)", "calls act (relu)")]
    later = act
    assert said(Inner()) == [("(root)", "calls later (relu)"), ("(root)", "calls act (relu)")]


def test_the_way_back_finds_refnets_functions() -> None:
    assert said(Functional(), "torch") == [("(root)", "calls refnet.functional.relu")]


def quiet(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return wrapper.__wrapped__(*args)

    return wrapper


class Lit(pl.LightningModule):
    def training_step(self, batch: Any, index: int) -> Tensor:
        return F.cross_entropy(*batch)  # found: calls F.cross_entropy

    @quiet
    def validation_step(self, batch: Any, index: int) -> Tensor:
        return F.log_softmax(batch, 1)  # found: calls F.log_softmax


def test_a_lightning_modules_steps_are_searched() -> None:
    assert {(row.reason, row.location) for row in converted(Lit()).left} == marked(Lit)


def test_torchs_fused_attention_is_told() -> None:
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 2, enable_nested_tensor=False
    )
    done = converted(model)
    assert len(done.swapped) == 2 * 5  # two linear layers, three dropouts
    fused = {(row.layer, row.reason.split()[1]) for row in done.left if "fused" in row.reason}
    assert fused == {
        ("TransformerEncoderLayer", "torch._transformer_encoder_layer_fwd,"),
        ("MultiheadAttention", "torch._native_multi_head_attention,"),
        ("MultiheadAttention", "F.multi_head_attention_forward,"),
    }
    assert ("layers.0", "calls self.activation (relu)") in said(model)


def test_graphs_are_read_node_by_node() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.linear(x)).softmax(1) + torch.exp(x)

    model = torch.fx.symbolic_trace(Net())
    x = torch.randn(2, 3)
    expected = model(x)
    done = converted(model)
    assert [(row.reason, row.location) for row in done.left] == [
        ("its graph calls relu", "node relu"),
        ("its graph calls softmax", "node softmax"),
    ]
    assert type(model.linear) is refnet.nn.Linear
    torch.testing.assert_close(model(x), expected)


def test_exported_graphs_are_read() -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(3, 3), nn.ReLU()), (torch.ones(2, 3),))
    reasons = {reason for _, reason in said(exported.module())}
    assert {"its graph calls linear", "its graph calls relu"} <= reasons


def test_a_class_without_source_says_so() -> None:
    namespace: dict[str, Any] = {"__name__": "typed", "nn": nn}
    exec("class Typed(nn.Module):\n    def forward(self, x): return x.relu()", namespace)
    (name, reason), *_ = said(namespace["Typed"]())
    assert (name, reason) == (
        "(root)",
        "no source of Typed.forward: what it calls is not known",
    )


def test_a_lazy_import_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(types.ModuleType):
        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was imported")

    monkeypatch.setitem(globals(), "lazy", Lazy("lazy"))
    monkeypatch.setattr(nn, "functional", Lazy("functional"))
    converted(Functional())


# The report, the log, and wrong arguments.


def test_the_report_is_a_table() -> None:
    model = nn.Sequential(*(nn.ReLU() for _ in range(5)), nn.Conv2d(1, 1, 1), Lit())
    line = inspect.getsourcelines(Lit.training_step)[1] + 1
    text = str(converted(model))
    assert text.splitlines()[:4] == [
        "convert to refnet: 5 swapped, 3 left",
        "swapped    5 x ReLU    0, 1, 2 and 2 more",
        "left       1 x Conv2d  5: no counterpart in refnet.nn",
        f"left       1 x Lit     6: calls F.cross_entropy at {__file__}:{line}",
    ]
    assert str(converted(nn.Sequential())) == "convert to refnet: 0 swapped, 0 left"


def test_a_report_cannot_be_changed() -> None:
    done = converted(net())
    with pytest.raises(AttributeError):
        done.swapped = ()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        done.swapped[0].layer = ""  # type: ignore[misc]


def test_without_a_report_the_summary_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "refnet"):
        refnet.convert(net())
        refnet.convert(net(), report=lambda done: None)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("refnet", logging.INFO)
    assert record.getMessage() == "convert to refnet: 7 swapped, 1 left"


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (TypeError, r"module .*got <class '.*ReLU'>", (nn.ReLU,), {}),
        (TypeError, "module .*got None", (None,), {}),
        (ValueError, 'to must be "refnet" or "torch", got \'numpy\'', (None, "numpy"), {}),
        (ValueError, "to .*got None", (None, None), {}),
        (TypeError, "report .*got True", (None,), {"report": True}),
    ],
)
def test_wrong_arguments_change_nothing(
    error: type[Exception], words: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    model = net()
    if len(arguments) > 1 or options:  # it is the other argument that is wrong
        arguments = (model, *arguments[1:])
    with pytest.raises(error, match=words):
        refnet.convert(*arguments, **options)
    assert refnet.nn.Linear not in types_of(model)


def test_a_report_that_fails_finds_a_converted_model() -> None:
    def fail(done: Conversion) -> None:
        raise OSError("disk full")

    model = net()
    with pytest.raises(OSError, match="disk full"):
        refnet.convert(model, report=fail)
    assert len(converted(model).swapped) == 0
    assert refnet.nn.Linear in types_of(model)


class _Called(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class _Super(_Called):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class _Unbound(_Called):
    def forward(self, x: Tensor) -> Tensor:
        return _Called.forward(self, x)


class _Partial(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = functools.partial(F.leaky_relu, negative_slope=0.2)

    def forward(this, x: Tensor) -> Tensor:
        return this.act(x)


class _Static(nn.Module):
    act = staticmethod(torch.relu)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


@pytest.mark.parametrize("layer", [_Called, _Super, _Unbound, _Partial, _Static])
def test_calls_behind_another_name_are_found(layer: type[nn.Module]) -> None:
    found: list[Conversion] = []
    refnet.convert(layer(), report=found.append)
    (row,) = found[0].left
    assert row.reason.startswith("calls ")
    assert "relu" in row.reason


def test_a_module_that_holds_its_parent_and_one_that_is_shared_over_and_over() -> None:
    parent, child = nn.Module(), nn.ReLU()
    parent.child, child.parent = child, parent
    assert type(refnet.convert(parent).child) is refnet.nn.ReLU
    shared: nn.Module = nn.ReLU()
    for _ in range(40):
        outer = nn.Module()
        outer.a = outer.b = shared
        shared = outer
    found: list[Conversion] = []
    refnet.convert(shared, report=found.append)
    assert [len(row.names) for row in found[0].swapped] == [2]


def test_a_synchronized_layer_keeps_nothing_of_refnet() -> None:
    model = nn.Sequential(refnet.nn.BatchNorm1d(3))
    refnet.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    refnet.convert(model, "torch")
    assert "_converted_from" not in vars(model[0])
