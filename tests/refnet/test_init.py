"""Initial weights: the lecture's variances, torch's draws, and whole nets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import refnet
from refnet import init

SHAPES = [(3, 4), (300, 7), (8, 3, 5, 5), (4, 2, 3), (6, 1, 2, 2, 2)]
NONLINEARITIES = ["linear", "conv2d", "conv_transpose1d", "sigmoid", "tanh", "relu", "selu"]
KAIMING: list[dict[str, Any]] = [
    {},
    {"mode": "fan_out"},
    {"a": 5**0.5},
    {"a": 0.3, "mode": "FAN_OUT"},
    *({"nonlinearity": n, "mode": m} for n in NONLINEARITIES for m in ("fan_in", "fan_out")),
]
CALLS = [
    *(("kaiming_normal_", options) for options in KAIMING),
    *(("kaiming_uniform_", options) for options in KAIMING),
    *((f"xavier_{kind}_", {"gain": g}) for kind in ("normal", "uniform") for g in (1.0, 5 / 3)),
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_draws_are_torchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for name, options in CALLS:
        ours, theirs = seeded(), seeded()
        a = getattr(init, name)(torch.empty(shape, dtype=dtype), generator=ours, **options)
        b = getattr(nn.init, name)(torch.empty(shape, dtype=dtype), generator=theirs, **options)
        assert torch.equal(a, b), (name, options)
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lecun_is_torchs_kaiming_of_a_linear_unit(shape: tuple[int, ...], kind: str) -> None:
    a = getattr(init, f"lecun_{kind}_")(torch.empty(shape), seeded())
    theirs = getattr(nn.init, f"kaiming_{kind}_")
    assert torch.equal(a, theirs(torch.empty(shape), nonlinearity="linear", generator=seeded()))


def test_torchs_own_generator_draws_by_default() -> None:
    torch.manual_seed(3)
    ours = init.xavier_normal_(torch.empty(4, 5))
    torch.manual_seed(3)
    assert torch.equal(ours, nn.init.xavier_normal_(torch.empty(4, 5)))


@pytest.mark.parametrize("shape", [(400, 900), (40, 25, 6, 6)], ids=["linear", "convolution"])
@pytest.mark.parametrize(
    ("rule", "variance"),
    [
        ("lecun", lambda n_in, n_out: 1 / n_in),
        ("kaiming", lambda n_in, n_out: 2 / n_in),
        ("xavier", lambda n_in, n_out: 2 / (n_in + n_out)),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_the_lectures_variances(
    rule: str, variance: Any, kind: str, shape: tuple[int, ...]
) -> None:
    w = init.RULES[f"{rule}_{kind}"](torch.empty(shape, dtype=torch.float64), generator=seeded())
    expected = variance(*init.fans(w))
    # the variance of n normal draws varies by √(2/n), of uniform ones by less: 6 times that
    assert abs(float(w.square().mean()) / expected - 1) < 6 * (2 / w.numel()) ** 0.5
    assert abs(float(w.mean())) < 6 * (expected / w.numel()) ** 0.5
    farthest = float(w.abs().max()) / expected**0.5
    assert (farthest <= 3**0.5) == (kind == "uniform")


def test_activations_keep_their_size_through_a_deep_net() -> None:
    x = torch.randn(500, 300, generator=seeded(), dtype=torch.float64)
    sizes = {}
    for rule in ("kaiming_normal", "kaiming_uniform", "lecun_normal"):
        a, generator = x, seeded(1)
        for _ in range(20):
            w = init.RULES[rule](torch.empty(300, 300, dtype=torch.float64), generator=generator)
            a = (a @ w.T).clamp(min=0)
        sizes[rule] = float(a.square().mean())
    assert 0.2 < sizes["kaiming_normal"] < 5
    assert 0.2 < sizes["kaiming_uniform"] < 5
    assert sizes["lecun_normal"] < 1e-4  # half of it is lost in each layer: 2⁻²⁰ = 1e-6


def test_a_whole_net() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), refnet.nn.BatchNorm2d(4), nn.Flatten(), refnet.nn.Linear(16, 5)
    )
    norm = {name: t.clone() for name, t in net[1].state_dict().items()}
    generator = seeded()
    assert init.initialize(net, "kaiming_uniform", generator=generator) is net
    again = seeded()
    for layer in (net[0], net[3]):
        shape = layer.weight.shape
        expected = nn.init.kaiming_uniform_(
            torch.empty(shape), nonlinearity="relu", generator=again
        )
        assert torch.equal(layer.weight, expected)
        assert not layer.bias.any()
    assert all(torch.equal(t, norm[name]) for name, t in net[1].state_dict().items())
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


CONVOLUTIONS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("dims", CONVOLUTIONS)
@pytest.mark.parametrize(
    ("rule", "variance"),
    [
        ("lecun", lambda n_in, n_out: 1 / n_in),
        ("kaiming", lambda n_in, n_out: 2 / n_in),
        ("xavier", lambda n_in, n_out: 2 / (n_in + n_out)),
    ],
)
@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_transposed_convolution_takes_in_the_channels_in(
    rule: str, variance: Any, kind: str, dims: int, groups: int
) -> None:
    layer = CONVOLUTIONS[dims](32, 256, 3, groups=groups).double()
    init.initialize(layer, f"{rule}_{kind}", generator=seeded())
    w, places = layer.weight.detach(), 3**dims
    expected = variance(32 // groups * places, 256 // groups * places)
    for part in w.chunk(groups):
        assert abs(float(part.square().mean()) / expected - 1) < 6 * (2 / part.numel()) ** 0.5
    assert not layer.bias.any()


@pytest.mark.parametrize("groups", [1, 4])
def test_a_transposed_convolution_keeps_the_size_of_activations(groups: int) -> None:
    layer = nn.ConvTranspose2d(32, 256, 3, groups=groups, bias=False)
    init.initialize(layer, "lecun_normal", generator=seeded())
    x = torch.randn(4, 32, 12, 12, generator=seeded(1))
    inner = layer(x)[:, :, 2:-2, 2:-2]  # where the whole kernel takes something in
    assert 0.9 < float(inner.detach().square().mean()) < 1.1


def test_biases_can_stay() -> None:
    layer = nn.Linear(3, 4)
    before = layer.bias.detach().clone()
    init.initialize(layer, "lecun_normal", zero_bias=False)
    assert torch.equal(layer.bias, before)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "tanh", "sigmoid"])
def test_every_activation_has_a_rule(activation: str) -> None:
    assert init.for_activation(activation) in init.RULES


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: init.fans(torch.empty(3)), "fewer than 2 dimensions"),
        (lambda: init.xavier_normal_(torch.empty(3)), "fewer than 2 dimensions"),
        (lambda: init.kaiming_normal_(torch.empty(3, 2), mode="fan"), "Mode fan not supported"),
        (lambda: init.kaiming_normal_(torch.empty(3, 2), nonlinearity="x"), "nonlinearity x"),
        (lambda: init.kaiming_normal_(torch.empty(3, 2), a="x"), "negative_slope x"),
        (lambda: init.kaiming_normal_(torch.empty(3, 2), a=True), "negative_slope True"),
        (lambda: init.for_activation("gelu"), "got 'gelu'"),
        (lambda: init.initialize(nn.Linear(2, 2), "he"), "rule must be one of .* got 'he'"),
        (lambda: init.initialize(nn.LazyLinear(2), "lecun_normal"), "no shape yet"),
        (lambda: init.initialize(weight_norm(nn.Linear(2, 2)), "lecun_normal"), "weight of ''"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_mistakes_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


COMPUTED: dict[str, Any] = {
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "weight_norm by a hook": nn.utils.weight_norm,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 1),
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("name", COMPUTED)
def test_a_layer_that_computes_its_weights_is_refused(name: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), COMPUTED[name](nn.Linear(4, 3)))
    before = {key: t.clone() for key, t in net.state_dict().items()}
    part = "bias" if name == "bias" else "weight"
    with pytest.raises(ValueError, match=f"^module: {part} of '1' is computed"):
        init.initialize(net, "kaiming_normal")
    assert all(torch.equal(t, before[key]) for key, t in net.state_dict().items())


def test_a_computed_bias_may_stay() -> None:
    layer = COMPUTED["bias"](nn.Linear(4, 3))
    before = layer.bias.detach().clone()
    init.initialize(layer, "kaiming_normal", zero_bias=False)
    assert torch.equal(layer.bias, before)


@pytest.mark.parametrize("name", ["kaiming_normal_", "kaiming_uniform_", "lecun_normal_"])
def test_an_empty_weight_gives_torchs_warning(name: str) -> None:
    with pytest.warns(UserWarning, match="zero-element tensors is a no-op") as caught:
        assert getattr(init, name)(torch.empty(0, 3)).shape == (0, 3)
    assert caught[0].filename == __file__  # the line that called it
