"""Weight decay on weights alone: which they are, and that it is the lecture's penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader

import refnet
from refnet import optim
from refnet.optim import decay_groups
from refnet.optim.groups import DecayRow

PACKAGES = (optim, torch.optim)


def decayed(module: nn.Module, **options: Any) -> set[str]:
    groups = decay_groups(module, 0.1, named=True, **options)
    names = [name for group in groups for name, _ in group["params"]]
    assert len(names) == len(set(names))
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    trainable = {p for p in module.parameters() if p.requires_grad}
    assert trainable == {p for group in groups for _, p in group["params"]}
    assert all(
        dict(groups[0]["params"])[n] is module.get_parameter(n) for n, _ in groups[0]["params"]
    )
    return {name for name, _ in groups[0]["params"]}


class Double(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, 2))
        self.position_bias = nn.Parameter(torch.zeros(3, 2))
        self.gain = nn.Parameter(torch.ones(2))
        self.scale = nn.Parameter(torch.ones(()))
        self.unbiased = nn.Parameter(torch.ones(2, 2))


class LlamaRMSNorm(nn.Module):  # somebody else's norms, one of them with 4-dimensional gains
    def __init__(self, shape: tuple[int, ...] = (1, 3, 1, 1)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape))


class LayerNorm2d(LlamaRMSNorm): ...


class NormalizedLinear(LlamaRMSNorm): ...


class Standardized(nn.LayerNorm): ...


def tied() -> nn.Module:
    net = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    net["head"].weight = net["embedding"].weight
    return net


def tied_to_a_norm() -> nn.Module:
    net = nn.ModuleDict({"linear": nn.Linear(3, 5), "norm": nn.LayerNorm((5, 3))})
    net["norm"].weight = net["linear"].weight
    return net


def twice() -> nn.Module:
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer)


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[0].requires_grad_(False)
    return net


def doubled(attribute: str) -> nn.Module:
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, attribute, Double())
    return nn.Sequential(layer)


def parametrized_norm() -> nn.Module:
    layer = nn.LayerNorm((3, 3))
    parametrize.register_parametrization(layer, "weight", Double())
    return layer


# What is sorted, and which of it is decayed.
SORTED: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "Linear": (lambda: nn.Linear(3, 2), {"weight"}),
    "refnet's Linear": (lambda: refnet.nn.Linear(3, 2), {"weight"}),
    "Linear of one unit": (lambda: nn.Sequential(nn.Linear(3, 1)), {"0.weight"}),
    "Bilinear": (lambda: nn.Bilinear(2, 3, 4), {"weight"}),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3), {"weight"}),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3), {"weight"}),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 3), {"weight"}),
    "Embedding": (lambda: nn.Embedding(5, 3), {"weight"}),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 3), {"weight"}),
    "LSTM": (
        lambda: nn.LSTM(2, 3, 2, proj_size=2),
        {f"weight_{kind}_l{i}" for kind in ("ih", "hh", "hr") for i in (0, 1)},
    ),
    "GRUCell": (lambda: nn.GRUCell(2, 3), {"weight_ih", "weight_hh"}),
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),  # bias_k is 1×1×4
        {"in_proj_weight", "out_proj.weight"},
    ),
    "PReLU": (lambda: nn.PReLU(4), set()),
    **{
        f"{package.__name__}.{name}": (lambda p=package, n=name: getattr(p, n)(3), set())
        for package in (nn, refnet.nn)
        for name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
    },
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), set()),
    "LayerNorm of two dimensions": (lambda: nn.LayerNorm((3, 4)), set()),
    "RMSNorm of two dimensions": (lambda: nn.RMSNorm((3, 4)), set()),
    "a norm by another name": (lambda: Standardized((3, 4)), set()),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), set()),
    "LlamaRMSNorm": (LlamaRMSNorm, set()),
    "LayerNorm2d": (LayerNorm2d, set()),
    "NormalizedLinear": (NormalizedLinear, {"weight"}),
    "a module's own parameters": (Own, {"table", "unbiased"}),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8),
        {"self_attn.in_proj_weight", "self_attn.out_proj.weight"}
        | {"linear1.weight", "linear2.weight"},
    ),
    "tied": (tied, {"embedding.weight"}),
    "tied to a norm": (tied_to_a_norm, set()),
    "a layer twice": (twice, {"0.weight"}),
    "frozen": (frozen, {"1.weight"}),
    "parametrized weight": (
        lambda: doubled("weight"),
        {"0.parametrizations.weight.original", "0.parametrizations.weight.0.inner"},
    ),
    "parametrized bias": (
        lambda: doubled("bias"),
        {"0.weight", "0.parametrizations.bias.0.inner"},
    ),
    "parametrized norm": (parametrized_norm, {"parametrizations.weight.0.inner"}),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(3, 2)),
        {"parametrizations.weight.original"},
    ),
    "weight_norm": (  # W = g v/‖v‖: ‖W‖² is the sum of g²
        lambda: parametrizations.weight_norm(nn.Linear(3, 2)),
        {"parametrizations.weight.original0", "parametrizations.weight.original1"},
    ),
    "complex": (lambda: nn.Linear(3, 2, dtype=torch.complex64), {"weight"}),
}


@pytest.mark.parametrize("name", SORTED)
def test_weights_are_decayed_and_nothing_else(name: str) -> None:
    make, expected = SORTED[name]
    module = make()
    assert decayed(module) == expected
    if expected:
        assert decayed(nn.ModuleDict({"a": module})) == {f"a.{n}" for n in expected}


def test_choose_comes_before_the_rule() -> None:
    choice = {"table": False, "gain": True}
    assert decayed(Own(), choose=lambda name, _: choice.get(name)) == {"gain", "unbiased"}
    # A shared parameter decays if it would under each of its names.
    assert decayed(tied(), choose=lambda name, _: name.startswith("emb") or None) == {
        "embedding.weight"
    }
    assert decayed(tied(), choose=lambda name, _: name.startswith("emb")) == set()
    # What is frozen stays out, whatever is chosen.
    assert decayed(frozen(), choose=lambda *_: True) == {"1.weight", "1.bias"}


def test_the_table() -> None:
    net = nn.ModuleDict({"a": tied(), "b": frozen(), "c": refnet.nn.BatchNorm1d(2), "d": Own()})
    groups = decay_groups(net, 0.1)
    assert str(groups).splitlines() == [
        "decay     a.embedding.weight = a.head.weight  5×3, of Embedding",
        "decay     b.1.weight                          3×3, of Linear",
        "decay     d.table                             3×2, of Own",
        "decay     d.unbiased                          2×2, of Own",
        "no decay  a.head.bias                         5, a bias",
        "no decay  b.1.bias                            3, a bias",
        "no decay  c.weight                            2, of BatchNorm1d",
        "no decay  c.bias                              2, of BatchNorm1d",
        "no decay  d.position_bias                     3×2, a bias",
        "no decay  d.gain                              2, fewer than 2 dimensions",
        "no decay  d.scale                             number, fewer than 2 dimensions",
        "frozen    b.0.weight                          3×3, requires no gradient",
        "frozen    b.0.bias                            3, requires no gradient",
    ]
    names = ("a.embedding.weight", "a.head.weight")
    assert groups.rows[0] == DecayRow(names, (5, 3), "decay", "of Embedding")
    assert decay_groups(twice(), 0.1).rows[0].names == ("0.weight", "2.weight")
    optim.SGD(groups)  # which fills in the groups
    assert len(str(groups).splitlines()) == 13


ERRORS: list[tuple[Any, Any, type[Exception], str]] = [
    (nn.Linear(1, 1), -0.1, ValueError, "weight_decay must be finite and at least 0, got -0.1"),
    (nn.Linear(1, 1), math.nan, ValueError, "weight_decay must be .* got nan"),
    (nn.Linear(1, 1), math.inf, ValueError, "weight_decay must be .* got inf"),
    (nn.Tanh(), 0.1, ValueError, "module has no trainable parameter: Tanh"),
    (nn.Linear(1, 1).requires_grad_(False), 0.1, ValueError, "no trainable parameter: Linear"),
    ([nn.Parameter(torch.ones(1))], 0.1, TypeError, r"module must be a torch.nn.Module, got list"),
]


@pytest.mark.parametrize(("module", "weight_decay", "error", "message"), ERRORS)
def test_errors(module: Any, weight_decay: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decay_groups(module, weight_decay)


def test_a_lazy_layer_is_an_error_until_it_has_a_shape() -> None:
    net = nn.Sequential(refnet.nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r"'0\.weight' has no shape yet; run a batch"):
        decay_groups(net, 0.1)
    net(torch.ones(2, 3))
    assert decayed(net) == {"0.weight"}


# Every optimizer that takes groups and a weight decay.
OPTIMIZERS = [
    *[(optim, name) for name in ("SGD", "Momentum", "RMSprop", "Adam", "AdamW")],
    *[
        (torch.optim, name)
        for name in ("SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "NAdam", "RAdam", "Adamax")
    ],
]


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(("package", "name"), OPTIMIZERS)
def test_any_optimizer_takes_the_groups(package: Any, name: str, named: bool) -> None:
    """A gradient of 0 moves what decays, and that alone; the state dict has the names."""
    net = nn.Sequential(refnet.nn.Linear(3, 2), refnet.nn.BatchNorm1d(2))
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    optimizer = getattr(package, name)(decay_groups(net, 0.5, named=named), lr=0.1)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"0.weight"}
    names = [group.get("param_names") for group in optimizer.state_dict()["param_groups"]]
    spared = ["0.bias", "1.weight", "1.bias"]
    assert names == ([["0.weight"], spared] if named else [None, None])
    optimizer.load_state_dict(optimizer.state_dict())


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(refnet.nn.Linear(3, 2), refnet.nn.BatchNorm1d(2))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return 0.0 * self.net(batch).sum()

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 3), batch_size=4)

    def configure_optimizers(self) -> Any:
        optimizer = optim.SGD(decay_groups(self, weight_decay=0.5), lr=0.1)
        return [optimizer], [optim.lr_scheduler.InverseTimeDecay(optimizer, 1.0)]


def test_in_lightnings_configure_optimizers(tmp_path: Any) -> None:
    module = Module()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=2, **quiet).fit(module)
    for name, p in module.named_parameters():
        # two steps an epoch; α is 0.1 in the first epoch, 0.05 in the second
        factor = (1 - 0.1 * 0.5) ** 2 * (1 - 0.05 * 0.5) ** 2 if name == "net.0.weight" else 1
        torch.testing.assert_close(p.detach(), factor * before[name], rtol=1e-6, atol=0)


# --- The penalty in the loss, λ/(2m) Σ ‖W‖², and the decay λ/m of the optimizer.

LAMBDA, M = 3.0, 40
Make = Callable[[Any], torch.optim.Optimizer]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(
        refnet.nn.Linear(4, 5, bias=False),  # batch norm would cancel it, to noise for Adam
        refnet.nn.BatchNorm1d(5),
        refnet.nn.Tanh(),
        refnet.nn.Linear(5, 3),
    )
    for p in layers.parameters():
        nn.init.normal_(p)
    return layers.double()


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def train(make: Make, penalty: float = 0.0, decay: float = 0.0, everywhere: bool = False) -> Tensor:
    """Return all parameters after each of 20 steps, (20, parameters)."""
    model, trajectory = net(), []
    groups = decay_groups(model, decay)
    weights = list(groups[0]["params"])
    optimizer = make(
        [{"params": model.parameters(), "weight_decay": decay}] if everywhere else groups
    )
    x = torch.randn(M, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = x.argmax(1) % 3
    for _ in range(20):
        optimizer.zero_grad()
        loss = refnet.functional.cross_entropy(model(x), y)  # the mean over m examples
        loss = loss + penalty / (2 * M) * sum((w * w).sum() for w in weights)
        loss.backward()
        optimizer.step()
        trajectory.append(flat(model))
    return torch.stack(trajectory)


def apart(a: Tensor, b: Tensor) -> float:
    """Return the greatest distance of two trajectories, over the distance travelled."""
    return ((a - b).norm(dim=1).max() / (a[-1] - flat(net())).norm()).item()


SGD_OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True},
]
L2_IS_DECAY = [
    *[(package, "SGD", options) for package in PACKAGES for options in SGD_OPTIONS],
    (optim, "Momentum", {}),
    (optim, "Momentum", {"bias_correction": True}),
]


@pytest.mark.parametrize(("package", "name", "options"), L2_IS_DECAY)
def test_l2_in_the_loss_is_decay_in_sgd(package: Any, name: str, options: dict[str, Any]) -> None:
    def make(groups: Any) -> torch.optim.Optimizer:
        return getattr(package, name)(groups, lr=0.05, **options)

    assert apart(train(make, penalty=LAMBDA), train(make, decay=LAMBDA / M)) < 1e-13


def test_the_factor_and_the_parameters_matter() -> None:
    def make(groups: Any) -> torch.optim.Optimizer:
        return optim.SGD(groups, lr=0.05)

    penalized = train(make, penalty=LAMBDA)
    others = train(make), train(make, decay=LAMBDA / (2 * M)), train(make, penalty=LAMBDA / M)
    assert all(apart(penalized, other) > 0.01 for other in others)
    assert apart(penalized, train(make, decay=LAMBDA / M, everywhere=True)) > 0.01


def test_decay_in_plain_sgd_shrinks_by_one_minus_alpha_lambda_over_m() -> None:
    """W ← (1 − αλ/m) W − α dW."""
    torch.manual_seed(0)
    layer = refnet.nn.Linear(3, 2).double()
    optimizer = optim.SGD(decay_groups(layer, LAMBDA / M), lr=0.1)
    layer(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
    assert layer.weight.grad is not None
    expected = (1 - 0.1 * LAMBDA / M) * layer.weight.detach() - 0.1 * layer.weight.grad
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("package", PACKAGES)
def test_l2_in_the_loss_is_coupled_decay_in_adam_and_not_adamw(package: Any) -> None:
    def adam(groups: Any) -> torch.optim.Optimizer:
        return package.Adam(groups, lr=0.05)

    def adamw(groups: Any) -> torch.optim.Optimizer:
        return package.AdamW(groups, lr=0.05)

    penalized = train(adam, penalty=LAMBDA)
    assert apart(penalized, train(adam, decay=LAMBDA / M)) < 1e-12
    assert apart(penalized, train(adamw, decay=LAMBDA / M)) > 0.1
    assert apart(train(adam), train(adamw)) == 0  # without decay they are one


@pytest.mark.parametrize("package", PACKAGES)
def test_the_first_step_of_adam_is_blind_to_l2(package: Any) -> None:
    """W ← W − α sign(dW + λ/m W): the decay is divided away with the gradient's size."""
    found = {}
    for name, decay in (("Adam", 0.0), ("Adam", 0.1), ("AdamW", 0.1)):
        w = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        w.grad = torch.tensor([5.0], dtype=torch.float64)
        getattr(package, name)([w], lr=0.01, weight_decay=decay).step()
        found[name, decay] = w.item()
    assert found["Adam", 0.1] == pytest.approx(found["Adam", 0.0], abs=1e-10)
    assert found["AdamW", 0.1] == pytest.approx(found["Adam", 0.0] - 0.01 * 0.1 * 2, abs=1e-15)


@pytest.mark.parametrize("package", PACKAGES)
def test_adam_with_l2_spares_the_weights_with_large_gradients(package: Any) -> None:
    """Decoupled, a weight shrinks by α λ/m W a step; through the gradient, by that over √Ŝ ≈ |dW|.

    The gradients alternate, ±G, so that √Ŝ stays at G, to about 1 − β₂, and their own steps nearly
    cancel. What the decay did is the difference to a run without it.
    """
    sizes = torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64)
    decay = 1e-3  # small beside the gradients

    def final(name: str, weight_decay: float) -> Tensor:
        w = nn.Parameter(torch.ones_like(sizes))
        optimizer = getattr(package, name)([w], lr=1e-3, weight_decay=weight_decay)
        for step in range(1000):
            w.grad = sizes * (-1) ** step
            optimizer.step()
        return w.detach()

    coupled, decoupled = (final(name, 0) - final(name, decay) for name in ("Adam", "AdamW"))
    torch.testing.assert_close(decoupled, decoupled[:1].expand(4), rtol=1e-6, atol=0)
    torch.testing.assert_close(decoupled / coupled, sizes, rtol=0.01, atol=0)
