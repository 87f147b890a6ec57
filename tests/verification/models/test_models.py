"""Two models in lockstep: the first difference is named, and right models are not accused."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refnet
from verification.models import ModelsReport, compare_models, main
from verification.models.matching import match_models
from verification.models.trees import map_tensors, tensors_of

CROSS_ENTROPY = nn.CrossEntropyLoss()
Batches = list[tuple[Tensor, Tensor]]


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3),
        nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3),
    )  # fmt: skip


def batches(count: int = 3) -> Batches:
    torch.manual_seed(1)
    return [(torch.randn(16, 6), torch.randint(3, (16,))) for _ in range(count)]


def adam(params: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(params, **options)


def compare(candidate: nn.Module, reference: nn.Module | None = None, **options: Any) -> Any:
    settings: dict[str, Any] = {"loss": CROSS_ENTROPY, "optimizers": adam, **options}
    return compare_models(
        candidate, small_net() if reference is None else reference, batches(), **settings
    )


def first(report: ModelsReport) -> tuple[int, str, str, str]:
    assert not report.passed
    found = report.first_difference
    assert found is not None
    return found.step, found.layer, found.kind, found.tensor


# The figure: nets of an outside library.


@pytest.fixture(scope="module")
def bert() -> Iterator[tuple[nn.Module, list[dict[str, Tensor]]]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import transformers

        lib: ModuleType = transformers
        config = lib.BertConfig(
            vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=3,
            intermediate_size=32, hidden_act="relu", num_labels=5, layer_norm_eps=1e-5,
        )  # fmt: skip
        torch.manual_seed(0)
        net = lib.BertForSequenceClassification(config).double().train()
        torch.manual_seed(1)
        yield (
            net,
            [
                {"input_ids": torch.randint(50, (4, 8)), "labels": torch.randint(5, (4,))}
                for _ in range(3)
            ],
        )


def adamw(params: Any, **options: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=3e-3, **options)


def compare_bert(bert: Any, candidate: nn.Module, **options: Any) -> ModelsReport:
    net, given = bert
    settings: dict[str, Any] = {"optimizers": adamw, **options}
    return compare_models(
        candidate, net, given, loss=lambda model, batch: model(**batch).loss, **settings
    )


def test_a_net_beside_itself(bert: Any) -> None:
    report = compare_bert(bert, bert[0])
    report.raise_if_failed()
    assert {row.error for row in report.rows} == {0.0}
    assert (report.first_difference, report.unmatched) == (None, [])
    # the bias of the keys shifts all scores of a softmax alike
    assert "bert.encoder.layer.0.attention.self.key gradient of bias" in report.null_directions


def test_a_converted_net(bert: Any) -> None:
    ours = refnet.convert(copy.deepcopy(bert[0]))
    makers = (lambda params: refnet.optim.AdamW(params, lr=3e-3), adamw)
    report = compare_bert(bert, ours, optimizers=makers)
    report.raise_if_failed()
    assert report.unmatched == []


NORM, DENSE = "bert.encoder.layer.0.output.LayerNorm", "bert.encoder.layer.1.intermediate.dense"
QUERY = "bert.encoder.layer.1.attention.self.query"


def eps(net: Any) -> None:
    net.get_submodule(NORM).eps *= 1.01


def one_ulp(net: Any) -> None:
    with torch.no_grad():
        weight = net.get_parameter(f"{DENSE}.weight")
        weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(1.0, dtype=torch.float64))


def detached(net: Any) -> None:
    net.get_submodule(DENSE).register_forward_pre_hook(lambda _, args: (args[0].detach(),))


def frozen(net: Any) -> None:
    net.get_parameter(f"{DENSE}.weight").requires_grad_(False)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (eps, (0, NORM, "forward", "output")),
        (one_ulp, (0, DENSE, "parameter", "weight at the start")),
        (detached, (0, DENSE, "gradient", "input 0")),
        (frozen, (0, DENSE, "gradient", "weight")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_changed_net(bert: Any, change: Callable[[Any], None], expected: Any) -> None:
    net = copy.deepcopy(bert[0])
    change(net)
    report = compare_bert(bert, net, optimizers=None)
    assert first(report) == expected
    assert report.first_difference is not None
    assert not report.first_difference.inherited > 1e-14
    assert report.first_difference.local > report.first_difference.bound
    print(report.first_difference)


def last_layers(**options: Any) -> Callable[[Any], torch.optim.Optimizer]:
    def make(params: Any) -> torch.optim.Optimizer:
        return adamw([{"params": params[:21]}, {"params": params[21:], **options}])

    return make


@pytest.mark.parametrize(
    ("options", "usual", "kind", "tensor"),
    [
        ({"betas": (0.9, 0.9989)}, (0.9, 0.999), "optimizer state", "exp_avg_sq of weight"),
        ({"weight_decay": 0.011}, 0.01, "parameter", "weight"),
    ],
    ids=["beta2", "weight_decay"],
)
def test_an_option_of_one_group(
    bert: Any, options: Any, usual: Any, kind: str, tensor: str
) -> None:
    report = compare_bert(bert, bert[0], optimizers=(last_layers(**options), adamw))
    assert first(report) == (0, QUERY, kind, tensor)
    ((option, value),) = options.items()
    named = f"option {option} is {value}, the reference's {usual}"
    assert str(report.first_difference).endswith(f"; {named}")


# Steps, kinds, modes.


class Later(nn.Linear):
    """Goes wrong when the weights have moved."""

    def forward(self, input: Tensor) -> Tensor:
        moved = (self.weight - self.start).abs().max() > 1e-4
        return super().forward(input) * (1 + 1e-9 * float(moved))


def test_the_step_is_named() -> None:
    net = small_net()
    net[4].__class__, net[4].start = Later, net[4].weight.detach().clone()
    report = compare(net)
    assert first(report) == (1, "4", "forward", "output")
    assert report.first_difference.inherited == 0.0  # measured alone, at this step too


def with_norm(**changes: Any) -> nn.Module:
    net = small_net()
    vars(net[1]).update(changes)
    return net


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (with_norm(eps=1.01e-5), (0, "1", "forward", "output")),
        (with_norm(momentum=0.101), (0, "1", "buffer", "running_mean")),
    ],
)
def test_kinds(candidate: nn.Module, expected: Any) -> None:
    assert first(compare(candidate)) == expected


def test_hooks_of_parameters_run_in_the_copies() -> None:
    def double_grad(p: Tensor) -> None:
        if p.grad is not None:
            p.grad.mul_(2)

    hooked, afterwards = small_net(), small_net()
    hooked[4].weight.register_hook(lambda g: 2 * g)
    afterwards[4].weight.register_post_accumulate_grad_hook(double_grad)
    for net in (hooked, afterwards):
        assert first(compare(net)) == (0, "4", "gradient", "weight")
        assert compare(net, net).passed


def test_the_loss() -> None:
    def other(model: nn.Module, batch: Any) -> Tensor:
        return 1.001 * CROSS_ENTROPY(model(batch[0]), batch[1])

    assert first(compare(small_net(), loss=(other, CROSS_ENTROPY)))[1:] == (
        "(root)", "loss", "loss"
    )  # fmt: skip


def test_a_loss_with_a_wrong_gradient() -> None:
    def other(model: nn.Module, batch: Any) -> Tensor:
        loss: Tensor = CROSS_ENTROPY(model(batch[0]), batch[1])
        return loss.detach() + 1.001 * (loss - loss.detach())

    assert first(compare(small_net(), loss=(other, CROSS_ENTROPY)))[2] == "gradient"


def test_no_optimizer() -> None:
    assert compare(small_net(), optimizers=None).passed
    assert not compare(with_norm(eps=1.01e-5), optimizers=None).passed


def test_null_directions_are_listed() -> None:
    report = compare(refnet.convert(small_net()))
    report.raise_if_failed()
    assert "0 gradient of bias" in report.null_directions


def test_free_running() -> None:
    makers = (refnet.optim.Adam, adam)
    report = compare(refnet.convert(small_net()), optimizers=makers, mode="free")
    report.raise_if_failed()
    assert any("0 parameter bias" in name for name in report.null_directions)
    step, *found = first(compare(with_norm(eps=1.01e-5), mode="free"))
    assert (step, found) == (0, ["(root)", "loss", "loss"])
    makers = (lambda p: adam(p, lr=1.01e-3), adam)
    assert first(compare(small_net(), optimizers=makers, mode="free")) == (
        0,
        "0",
        "parameter",
        "weight",
    )


def test_another_start() -> None:
    torch.manual_seed(7)
    net = small_net()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    assert first(compare(net)) == (0, "0", "parameter", "weight at the start")
    assert compare(net, same_start=False).passed


def test_an_optimizer_with_state_of_its_own() -> None:
    class Descent(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    kept = self.state[p].setdefault("v", torch.zeros_like(p))
                    kept.mul_(0.9).add_(p.grad)
                    p.data.sub_(kept, alpha=group["lr"])

    def builtin(params: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.1, momentum=0.9)

    report = compare(small_net(), optimizers=(lambda p: Descent(p, lr=0.1), builtin))
    report.raise_if_failed()
    assert "optimizer state: the candidate's ['v']" in report.unmatched[0]
    assert not compare(small_net(), optimizers=(lambda p: Descent(p, lr=0.11), builtin)).passed


# What models may look like.


@dataclass
class Output:
    scores: Tensor
    hidden: tuple[Tensor, ...]


class Odd(nn.Module):
    """Shared and tied layers, in-place ones, keywords, a dataclass, a layer that is not called."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.act = nn.Linear(6, 6), nn.ReLU(inplace=True)
        self.tied, self.idle = nn.Linear(6, 6), nn.Linear(2, 2)
        self.tied.weight = self.layer.weight
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor, *, twice: bool) -> Output:
        hidden = [self.act(self.layer(x))]
        if twice:
            hidden.append(self.act(self.tied(self.layer(hidden[-1]))))
        mixed, _ = self.attention(hidden[-1][:, None], hidden[0][:, None], value=x[:, None])
        return Output(mixed[:, 0] * self.scale, tuple(hidden))


def odd_loss(model: nn.Module, batch: Any) -> Tensor:
    return CROSS_ENTROPY(model(batch[0], twice=True).scores, batch[1])


def test_an_odd_model() -> None:
    report = compare(Odd(), Odd(), loss=odd_loss)
    report.raise_if_failed()
    assert {row.error for row in report.rows} == {0.0}
    quantities = {row.quantity for row in report.rows if row.case == "(root)"}
    assert {"output scores", "output hidden.1", "buffer scale"} <= quantities
    assert any(row.quantity == "output of call 2" for row in report.rows if row.case == "layer")


def test_another_number_of_calls() -> None:
    def once(model: nn.Module, batch: Any) -> Tensor:
        return CROSS_ENTROPY(model(batch[0], twice=False).scores, batch[1])

    report = compare(Odd(), Odd(), loss=(once, odd_loss))
    assert any("called 1 times, the reference's 2" in row.note for row in report.failures)


class Crashes(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        raise ArithmeticError("no luck")


class Pair(nn.Linear):
    def forward(self, input: Tensor) -> Any:
        out = super().forward(input)
        return out, out


def with_last(cls: type[nn.Module]) -> nn.Module:
    net = small_net()
    net[7].__class__ = cls
    return net


@pytest.mark.parametrize("mode", ["teacher", "free"])
@pytest.mark.parametrize(
    "loss",
    [
        nn.functional.cross_entropy,
        lambda output, target: ((output - target) ** 2).mean(),
        lambda model: model,
        (CROSS_ENTROPY, lambda model, input, target: CROSS_ENTROPY(model(input), target)),
    ],
)
def test_a_loss_with_a_wrong_signature_is_a_type_error(loss: Any, mode: str) -> None:
    with pytest.raises(TypeError, match=r"loss is called with a model and a batch, here loss\(Seq"):
        compare(small_net(), loss=loss, mode=mode)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, "mse", None])
def test_a_class_or_a_name_is_no_loss(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"loss is called with a model and a batch, here "):
        compare(small_net(), loss=loss)


def test_no_steps_are_an_error() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        compare(small_net(), steps=0)


def test_a_module_for_a_loss_needs_pairs() -> None:
    net, inputs = nn.Linear(3, 1), [torch.ones(2, 3)]
    with pytest.raises(TypeError, match=r"loss MSELoss .* must be a pair of them, got Tensor"):
        compare_models(net, net, inputs, loss=nn.MSELoss())


def test_a_type_error_of_the_model_gives_a_row() -> None:
    class Adds(nn.Linear):
        def forward(self, input: Any) -> Any:
            return input + "1"

    assert "TypeError" in compare(with_last(Adds)).failures[-1].note


def test_models_that_crash_give_a_row() -> None:
    report = compare(with_last(Crashes))
    assert "ArithmeticError: no luck" in report.failures[-1].note
    assert first(report) == (0, "(root)", "forward", "-")
    report = compare(small_net(), with_last(Crashes))
    assert "the reference: ArithmeticError" in report.failures[-1].note
    report = compare(with_last(Pair), loss=lambda m, b: CROSS_ENTROPY(m(b[0])[0], b[1]))
    assert not report.passed


def test_optimizers_that_crash_give_a_row() -> None:
    report = compare(small_net(), optimizers=(torch.optim.LBFGS, adam))
    assert first(report) == (0, "(root)", "optimizer state", "step")
    report = compare(small_net(), optimizers=(adam, torch.optim.LBFGS))
    assert "the reference: TypeError" in report.failures[-1].note


def test_a_count_of_steps_is_exact() -> None:
    class Off(torch.optim.Adam):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            for kept in self.state.values():
                kept["step"] *= 1 + 1e-6

    makers = (Off, torch.optim.Adam)
    assert first(compare(small_net(), optimizers=makers)) == (
        0, "0", "optimizer state", "step of weight"
    )  # fmt: skip


def test_other_structures_give_a_row() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        found = model(batch[0])
        return CROSS_ENTROPY(found[0] if isinstance(found, tuple) else found, batch[1])

    report = compare(with_last(Pair), loss=loss)
    assert first(report) == (0, "7", "forward", "output")
    assert "there is none" in report.first_difference.note


def test_nothing_is_changed() -> None:
    nets = small_net(), small_net().eval()
    before = [copy.deepcopy(net.state_dict()) for net in nets]
    given, random = batches(), torch.get_rng_state()
    kept = copy.deepcopy(given)
    for mode in ("teacher", "free"):
        compare_models(*nets, given, loss=CROSS_ENTROPY, optimizers=adam, mode=mode)
    assert torch.equal(torch.get_rng_state(), random)
    for net, state in zip(nets, before, strict=True):
        for name, value in net.state_dict().items():
            assert torch.equal(value, state[name])
            assert value.dtype == state[name].dtype
        assert all(p.grad is None for p in net.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
        assert not any("forward" in vars(m) for m in net.modules())
    assert [net.training for net in nets] == [True, False]
    for ours, theirs in zip(given, kept, strict=True):
        assert all(map(torch.equal, ours, theirs))


# Matching.


class Fused(nn.Module):
    """Linear, batch norm and ReLU in one."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(sizes[1], sizes[0]))
        self.bias, self.gamma, self.beta = (
            nn.Parameter(torch.empty(sizes[1])) for _ in range(3)
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(sizes[1]))
        self.register_buffer("var", torch.ones(sizes[1]))
        self.register_buffer("count", torch.tensor(0))
        self.eps = 1e-5

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        z = nn.functional.linear(x, self.weight, self.bias)
        args = (self.mean, self.var, self.gamma, self.beta, self.training, 0.1, self.eps)
        return nn.functional.batch_norm(z, *args).relu()


def fused_net(**changes: Any) -> nn.Module:
    net = small_net()
    block = Fused(6, 8)
    vars(block).update(changes)
    with torch.no_grad():
        for own, other in zip(block.parameters(), net[:2].parameters(), strict=True):
            own.copy_(other)
    return nn.Sequential(block, *net[3:])


MATCH = {"0": ("0", "1", "2")}


def test_fused_beside_composed() -> None:
    report = compare(fused_net(), match=MATCH)
    report.raise_if_failed()
    assert report.unmatched == []
    assert {"0", "2"} <= {row.case for row in report.rows}  # the second linear is "2" there
    report = compare(fused_net(eps=1.01e-5), match=MATCH)
    assert first(report) == (0, "0", "forward", "output")
    composed = compare(small_net(), fused_net(), match={("0", "1", "2"): "0"})
    composed.raise_if_failed()
    assert "0+1+2" in {row.case for row in composed.rows}


def test_what_is_not_matched_is_listed() -> None:
    report = compare(fused_net())
    assert "the candidate's layer 0" in report.unmatched
    assert {"the reference's layer 1", "the reference's layer 2"} <= set(report.unmatched)
    assert not any("parameter" in name for name in report.unmatched)  # by shape and order
    report.raise_if_failed()
    data = json.loads(report.to_json())
    assert data["unmatched"] == report.unmatched
    assert data["first_difference"] is None


def test_matching_by_shape_and_order() -> None:
    named = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.ReLU(), "c": nn.Linear(4, 4)})
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.ReLU())
    found = match_models(named, plain)
    assert (("a",), ("0",)) in found.layers
    assert (("c",), ("1",)) in found.layers
    assert found.parameters == {
        "0.weight": "a.weight", "0.bias": "a.bias", "1.weight": "c.weight", "1.bias": "c.bias"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ({"9": "0"}, "the candidate has no '9'"),
        ({"0": "9"}, "the reference has no '9'"),
        ({"0": "0", "1": "0"}, "'0' of the reference is there twice"),
        ({"0.weight": "0.bias"}, r"have shapes \[8, 6\] and \[8\]"),
    ],
)
def test_a_wrong_map_is_refused(match: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(small_net(), match=match)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="mode must be"):
        compare(small_net(), mode="fast")
    with pytest.raises(ValueError, match="batches must have at least one"):
        compare_models(small_net(), small_net(), [], loss=CROSS_ENTROPY)


def test_trees() -> None:
    value = {"a": [torch.ones(1), (None, torch.zeros(2))], "b": Output(torch.ones(1), ())}
    assert [place for place, _ in tensors_of(value)] == ["a.0", "a.1.1", "b.scores"]
    double = map_tensors(lambda t: t + 1, value)
    assert [float(t.sum()) for _, t in tensors_of(double)] == [2.0, 2.0, 2.0]
    assert [float(t.sum()) for _, t in tensors_of(value)] == [1.0, 0.0, 1.0]


# Options that differ by less than the numbers show.


def test_an_option_too_close_to_be_seen_is_named() -> None:
    other = small_net()
    other[1].eps, other[5].eps = 1e-5 * (1 + 1e-14), 1e-5 * (1 + 2e-14)
    report = compare(other)
    assert first(report) == (0, "1", "attribute", "eps")
    assert {(row.case, row.quantity, row.verdict) for row in report.failures} == {
        ("1", "attribute eps", "inconclusive"), ("5", "attribute eps", "inconclusive"),
    }  # fmt: skip
    assert "1e-05: too small a difference to be seen" in report.failures[0].note
    assert str(report.first_difference).startswith("step 0, layer 1, attribute eps: 1.00")
    json.loads(report.to_json())


def test_numbers_that_differ_come_first() -> None:
    other = small_net()
    other[1].momentum, other[5].eps = 0.2, 1.01e-5
    report = compare(other)
    assert first(report) == (0, "5", "forward", "output")
    named = {row.case: row.note for row in report.rows if row.quantity.startswith("attribute")}
    assert named == {"1": "0.2, the reference's 0.1", "5": "1.01e-05, the reference's 1e-05"}


class Kept(nn.Module):
    """A dropout that says what it keeps."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.dropout(input, 1 - self.p, self.training)


class Named(nn.LayerNorm):
    """A subclass, whose options mean the same."""


def test_options_of_other_classes_are_not_compared() -> None:
    other = small_net()
    other[3] = Kept(0.7)
    other[2].inplace = False
    compare(other).raise_if_failed()
    other[5] = Named(8, eps=1e-5 * (1 + 1e-14))
    assert first(compare(other)) == (0, "5", "attribute", "eps")


def test_an_option_of_an_optimizer_that_no_number_shows_is_named() -> None:
    def clamped(params: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(params, eps=1e-8 * (1 + 1e-14), fused=False)

    report = compare(small_net(), optimizers=(clamped, adam))
    assert first(report) == (0, "0", "option", "eps")
    assert {(row.quantity, row.verdict) for row in report.failures} == {
        ("option eps", "inconclusive")
    }
    compare(small_net(), optimizers=(torch.optim.Adam, refnet.optim.Adam)).raise_if_failed()


# The command line.

FILE = """
import torch
from torch import nn

def reference():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))

def candidate():
    net = reference()
    net[1].eps = 1.01e-5
    return net

def batches():
    return [(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])) for _ in range(2)]

def broken():
    raise OSError("no data")

loss = nn.CrossEntropyLoss()
"""


def run(name: str, other: str, *more: str, batches: str = "batches") -> int:
    return main(
        [f"my_models:{name}", f"my_models:{other}", "--batches", f"my_models:{batches}", "--loss",
         "my_models:loss", "--optimizer", "torch.optim:Adam", *more]
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_models.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_models", raising=False)
    return tmp_path


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reference", "reference", "--mode", "free") == 0
    assert "first difference: none" in capsys.readouterr().out
    assert run("candidate", "reference", "--json", "new/found.json", "--steps", "1") == 1
    said = capsys.readouterr().out
    assert "first difference: step 0, layer 1, output, local" in said
    assert "JSON: new/found.json" in said
    assert json.loads((folder / "new/found.json").read_text())["first_difference"]["layer"] == "1"


@pytest.mark.parametrize(
    ("arguments", "batches", "message"),
    [
        (("reference", "missing"), "batches", "reference my_models:missing: module"),
        (("reference", "reference"), "broken", "--batches: OSError: no data"),
        (("reference", "reference", "--match", "0"), "batches", "--match must be OURS=THEIRS"),
        (("reference", "reference", "--match", "7=0"), "batches", "candidate has no '7'"),
        (("reference", "reference", "--device", "banana"), "batches", "banana"),
        (("reference", "reference", "--html", "."), "batches", "--html .: Is a directory"),
    ],
)
def test_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: Any, batches: str, message: str
) -> None:
    assert run(*arguments, batches=batches) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
