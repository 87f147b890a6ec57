"""Gradients watched in a training, and shown in deep nets."""

from __future__ import annotations

import copy
import json
import logging
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.image import imread
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules import MLP, Classifier, DigitsDataModule, ExactResume, GradientFlow
from lightning_modules.cli import main as train
from lightning_modules.gradient_flow import callback, nets
from lightning_modules.gradient_flow.__main__ import main
from lightning_modules.gradient_flow.layers import Watch
from lightning_modules.gradient_flow.plots import heat_maps
from refnet.gradient_flow import bias_gradients


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing where nobody looks: pictures take longer than these trainings."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(callback, "heat_maps", lambda history, path: path.touch())


@pytest.fixture
def pictures() -> None:
    """Ask for real ones."""


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    own = "lightning_modules.gradient_flow"
    return [record.getMessage() for record in caplog.records if record.name.startswith(own)]


class Model(pl.LightningModule):
    """Any net, on a loss whose gradient is not 0."""

    def __init__(self, net: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.net, self.factor = net, factor

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.factor * self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def trainer(root: Path, *callbacks: Callback, **options: Any) -> Trainer:
    given: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(default_root_dir=root, callbacks=list(callbacks), **{**given, **options})


def batches(size: int = 8) -> Any:
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(48, 4)), batch_size=size)


def fit(root: Path, net: nn.Module, flow: GradientFlow, **options: Any) -> GradientFlow:
    extra = options.pop("callbacks", [])
    size = options.pop("size", 8)
    factor = options.pop("factor", 1.0)
    trainer(root, flow, *extra, **options).fit(Model(net, factor), batches(size))
    return flow


def no_hooks(module: nn.Module) -> bool:
    return all(not m._forward_hooks and not m._backward_hooks for m in module.modules())


def test_the_numbers_are_those_of_autograd(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    before = copy.deepcopy(net)
    flow = fit(tmp_path, net, GradientFlow(every_n_steps=4))
    assert [row["step"] for row in flow.history] == [0, 4, 8]
    assert [row["epoch"] for row in flow.history] == [0, 0, 1]

    x = next(iter(batches()))[0]
    outputs = []
    for layer in before:
        outputs.append(layer(outputs[-1] if outputs else x))
    loss = outputs[-1].square().mean()
    gradients = torch.autograd.grad(loss, outputs, retain_graph=True)
    loss.backward()
    outputs = [a.detach() for a in outputs]
    layers = flow.history[0]["layers"]
    assert list(layers) == ["net.0", "net.1", "net.2"]
    for values, a, g in zip(layers.values(), outputs, gradients, strict=True):
        assert values["activation_rms"] == pytest.approx(float(a.square().mean().sqrt()), rel=1e-5)
        assert values["activation_std"] == pytest.approx(float(a.std(correction=0)), rel=1e-5)
        assert values["gradient_norm"] == pytest.approx(float(g.norm()), rel=1e-5)
        assert values["gradient_rms"] == pytest.approx(float(g.square().mean().sqrt()), rel=1e-5)
    idle = float((outputs[1] == 0).double().mean())
    assert layers["net.1"]["idle"] == pytest.approx(idle)
    assert idle > 0
    right = {f"net.{name}": float(p.grad.norm()) for name, p in before.named_parameters()}
    assert flow.history[0]["parameters"] == pytest.approx(right, rel=1e-5)


def test_nothing_about_the_training_changes(tmp_path: Path) -> None:
    nets = []
    for callbacks in ([], [GradientFlow(every_n_steps=1)]):
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.ReLU(inplace=True))
        trainer(tmp_path, *callbacks).fit(Model(net), batches())
        nets.append(net)
    assert torch.equal(nets[0][0].weight, nets[1][0].weight)
    assert no_hooks(nets[1])


class Odd(nn.Module):
    """Layers that are frozen, called several times, not called, in place, and of odd outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.twice = nn.Linear(4, 4)
        self.inplace = nn.ReLU(inplace=True)
        self.unused = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4)
        self.numbers, self.loss = Numbers(), Single()
        self.own = nn.Linear(4, 4)
        self.given = Given()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inplace(self.twice(self.twice(self.frozen(x))))
        x, _ = self.lstm(x)
        assert self.numbers(x) is not None
        self.loss(x)
        return self.own(x) * self.given(x)


class Numbers(nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"class": x.argmax(1), "none": None, "empty": x[:0]}


class Single(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean()


class Given(nn.Module):
    """Gives its parameter itself: what is hooked on it must not stay there."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale


def test_odd_layers(tmp_path: Path) -> None:
    net = Odd()
    flow = fit(tmp_path, net, GradientFlow(every_n_steps=1))
    assert len(flow.history) == 12
    for row in flow.history:
        layers = row["layers"]
        called = ["frozen", "twice", "inplace", "lstm", "own", "given"]
        assert list(layers) == [f"net.{name}" for name in called]
        assert "gradient_norm" not in layers["net.frozen"]  # nothing below it needs one
        assert all("gradient_norm" in layers[f"net.{name}"] for name in called[1:])
        assert "net.frozen.weight" not in row["parameters"]
        assert "net.unused.weight" not in row["parameters"]
        assert layers["net.inplace"]["idle"] > 0 == layers["net.twice"]["idle"]
    assert no_hooks(net)
    assert not net.given.scale._backward_hooks


def test_calls_are_put_together() -> None:
    layer = nn.Linear(2, 2)
    net = nn.ModuleDict({"layer": layer})
    watch = Watch(net)
    first, second = layer(torch.ones(3, 2)), layer(torch.zeros(5, 2))
    (first.sum() + 2 * second.sum()).backward()
    watch.remove()
    found = watch.statistics()["layer"]
    both = torch.cat([first, second]).detach()
    assert found["activation_rms"] == pytest.approx(float(both.square().mean().sqrt()), rel=1e-6)
    assert found["gradient_norm"] == pytest.approx(math.sqrt(3 * 2 + 4 * 5 * 2))
    layer(torch.ones(3, 2))
    assert watch.statistics()["layer"] == found


@pytest.mark.parametrize(
    ("layer", "inputs", "share"),
    [
        (nn.Sigmoid(), [-9.0, -3.0, 0.0, 3.5, 5.0], 0.4),
        (nn.Tanh(), [-9.0, -1.0, 0.0, 1.5, 5.0], 0.4),
        (nn.ReLU(), [-9.0, -1.0, 0.0, 1.5, 5.0], 0.6),
    ],
)
def test_idle_outputs(layer: nn.Module, inputs: list[float], share: float) -> None:
    net = nn.ModuleDict({"layer": layer})
    watch = Watch(net)
    net["layer"](torch.tensor(inputs))
    watch.remove()
    expected = share if not isinstance(layer, nn.Sigmoid) else 0.4
    assert watch.statistics()["layer"]["idle"] == pytest.approx(expected)


def deep(activation: type[nn.Module], std: float | None, depth: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential()
    for _ in range(depth):
        net.append(nn.Linear(4, 4)).append(activation())
    for p in net.parameters():
        if p.dim() > 1 and std is not None:
            nn.init.normal_(p, 0, std)
    return net


@pytest.mark.parametrize(
    ("net", "verb"),
    [(deep(nn.Sigmoid, 0.5), "vanish"), (deep(nn.Identity, 10.0), "explode")],
)
def test_a_layer_is_warned_of_once(
    net: nn.Module, verb: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flow = GradientFlow(every_n_steps=1)
    with caplog.at_level(logging.WARNING, logger="lightning_modules"):
        fit(tmp_path, net, flow, factor=1e-30)  # the weights stay as they are
    first = [m for m in said(caplog) if f"gradients {verb} in layer net.0:" in m]
    assert len(first) == 1
    norms = {k: v["gradient_norm"] for k, v in flow.history[0]["layers"].items()}
    ratio = norms["net.0"] / norms["net.19"]
    assert f"{ratio:.2g} of that in the last layer, net.19" in first[0]
    expected = {n for n, v in norms.items() if not 1e-3 <= v / norms["net.19"] <= 1e3}
    assert 1 < len(expected) < 20
    assert {warned.split()[1] for warned in flow.warned} >= expected
    assert len(said(caplog)) == len(flow.warned) == len(set(flow.warned))


class Zero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0 * x


def test_a_last_layer_without_gradients_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="lightning_modules"):
        flow = fit(tmp_path, nn.Sequential(nn.Linear(4, 3), Zero()), GradientFlow(1))
    assert flow.warned == ["zero net.1"]
    (message,) = said(caplog)
    assert "gradients are 0 in the last layer, net.1" in message
    assert "nan" not in message


class OwnLoss(nn.MSELoss):
    """With a reduction of its own: one number for each example."""


class Criterion(OwnLoss):
    """A loss by its parents."""


@pytest.mark.parametrize("loss", [nn.MSELoss(reduction="none"), Criterion(reduction="none")])
def test_losses_are_no_layers(loss: nn.Module) -> None:
    net = nn.ModuleDict({"layer": nn.Linear(4, 3), "loss": loss})
    watch = Watch(net)
    x = torch.ones(2, 4)
    net["loss"](net["layer"](x), torch.zeros(2, 3)).sum().backward()
    watch.remove()
    assert list(watch.statistics()) == ["layer"]


def test_thresholds_are_arguments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = deep(nn.Sigmoid, 0.5)
    fit(tmp_path, net, GradientFlow(every_n_steps=1, vanishing=0, exploding=1e9))
    assert said(caplog) == []
    fit(tmp_path, net, GradientFlow(every_n_steps=1, vanishing=0.5, exploding=0.9))
    assert any("(vanishing=0.5)" in message for message in said(caplog))
    assert any("(exploding=0.9)" in message for message in said(caplog))


def test_what_is_not_finite_explodes(
    pictures: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flow = fit(tmp_path, deep(nn.Identity, 1e30), GradientFlow(every_n_steps=1))
    assert "exploding net.0" in flow.warned
    assert any("their norm is nan" in m or "their norm is inf" in m for m in said(caplog))
    assert (tmp_path / "gradient_flow.png").stat().st_size > 5000


@pytest.mark.parametrize("options", [{}, {"options": {"gradient_clip_val": 1e-3}}])
def test_the_digits_nets_raise_no_alarm(
    options: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flow = GradientFlow(every_n_steps=5)
    run = trainer(tmp_path, flow, **{"max_epochs": 3, **options.get("options", {})})
    run.fit(Classifier(MLP(hidden=[32, 16])), datamodule=DigitsDataModule())
    assert len(flow.history) == 12
    assert said(caplog) == []
    assert max(flow.history[0]["parameters"].values()) > 1e-2  # before they are clipped


def test_files_and_pictures(pictures: None, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    flow = fit(tmp_path, net, GradientFlow(every_n_steps=2))
    table = pd.read_csv(tmp_path / "gradient_flow.csv")
    assert list(table.columns) == ["epoch", "step", "kind", "name", "quantity", "value"]
    for row in flow.history:
        of = table[table.step == row["step"]]
        layers, parameters = of[of.kind == "layer"], of[of.kind == "parameter"]
        for name, values in row["layers"].items():
            mine = layers[layers.name == name].set_index("quantity").value
            assert mine.to_dict() == pytest.approx(values)
        assert parameters.set_index("name").value.to_dict() == pytest.approx(row["parameters"])
    picture = imread(tmp_path / "gradient_flow.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 100
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "gradient_flow.csv",
        "gradient_flow.png",
    ]


def test_a_picture_of_many_layers_and_of_nothing_to_see(tmp_path: Path) -> None:
    values = {"activation_rms": 0.0, "idle": 1.0, "gradient_norm": math.nan}
    history = [{"step": 0, "layers": {f"l{i}": values for i in range(300)}, "parameters": {}}]
    assert heat_maps(history, tmp_path / "many.png").stat().st_size > 5000


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    flow = fit(tmp_path, net, GradientFlow(every_n_steps=1), fast_dev_run=True)
    assert flow.history == []
    assert list(tmp_path.iterdir()) == []


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    """Gradients of the outputs are the first mini-batch's, those of parameters the whole step's."""
    found = []
    for size, every in ((8, 1), (4, 2)):
        net = deep(nn.Tanh, None, depth=2)
        options = {"accumulate_grad_batches": every, "size": size, "max_epochs": 1}
        found.append(fit(tmp_path, net, GradientFlow(every_n_steps=2), **options).history)
    whole, accumulated = found
    assert [row["step"] for row in accumulated] == [row["step"] for row in whole] == [0, 2, 4]
    for one, other in zip(whole, accumulated, strict=True):
        assert other["parameters"] == pytest.approx(one["parameters"], rel=1e-5)
        ratio = other["layers"]["net.3"]["gradient_rms"] / one["layers"]["net.3"]["gradient_rms"]
        assert 1 < ratio < 4  # of half as many examples, the mean's gradients are twice as large


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "64-true"])
def test_precisions(precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the factor that the loss has in mixed precision."""
    plugin: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":
        from pytorch_lightning.plugins.precision import MixedPrecision

        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)  # type: ignore[attr-defined]
        plugin = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    found = []
    for options in ({}, plugin):
        net = deep(nn.Tanh, None, depth=3)
        flow = GradientFlow(every_n_steps=3)
        loader = batches()
        if precision == "64-true" and options:
            loader = DataLoader(TensorDataset(loader.dataset.tensors[0].double()), batch_size=8)
        trainer(tmp_path, flow, **options).fit(Model(net), loader)
        found.append(flow.history)
    for plain, other in zip(*found, strict=True):
        assert other["parameters"] == pytest.approx(plain["parameters"], rel=0.1)
        for name, values in plain["layers"].items():
            assert other["layers"][name] == pytest.approx(values, rel=0.1, abs=1e-6)


class Stop(Callback):
    """Interrupt in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_after_backward(self, trainer: Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == self.step:
            raise RuntimeError("power cut")


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_has_all_of_it(tmp_path: Path) -> None:
    def run(root: Path, *more: Callback, ckpt: str | None = None) -> GradientFlow:
        flow = GradientFlow(every_n_steps=1)
        saved = ModelCheckpoint(root, save_last=True, every_n_train_steps=1)
        model = Model(deep(nn.Sigmoid, 0.5))
        options = {"enable_checkpointing": True}
        training = trainer(root, ExactResume(), flow, *more, saved, **options)
        training.fit(model, batches(), ckpt_path=ckpt)
        assert no_hooks(model)
        return flow

    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", Stop(8))
    cut = pd.read_csv(tmp_path / "cut" / "gradient_flow.csv")
    assert sorted(set(cut.step)) == list(range(8))  # nothing is lost, and no half record is kept
    last = tmp_path / "cut" / "last.ckpt"
    torch.load(last, weights_only=True)
    resumed = run(tmp_path / "resumed", ckpt=str(last))
    assert resumed.history == whole.history
    assert sorted(resumed.warned) == sorted(whole.warned) != []


def test_an_exception_leaves_no_hooks(tmp_path: Path) -> None:
    model = Model(deep(nn.Tanh, None))
    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path, GradientFlow(every_n_steps=1), Stop(3)).fit(model, batches())
    assert no_hooks(model)
    assert (tmp_path / "gradient_flow.png").is_file()


def test_another_fit_begins_anew(tmp_path: Path) -> None:
    flow = GradientFlow(every_n_steps=5)
    for _ in range(2):
        fit(tmp_path, nn.Sequential(nn.Linear(4, 3)), flow)
        assert [row["step"] for row in flow.history] == [0, 5, 10]


def test_a_deep_copy_of_a_watched_net_is_not_watched_by_name() -> None:
    """What copies a module in a step, as `BuiltinBeside` does, copies neither callback nor sums."""
    net = nn.Sequential(nn.Linear(2, 2))
    watch = Watch(net)
    copy.deepcopy(net)
    net(torch.ones(1, 2))
    watch.remove()
    assert list(watch.statistics()) == ["0"]


def test_two_processes_write_once(tmp_path: Path) -> None:
    flow = GradientFlow(every_n_steps=2)
    options = {"strategy": "ddp_fork", "devices": 2, "num_sanity_val_steps": 0}
    fit(tmp_path, nn.Sequential(nn.Linear(4, 3)), flow, **options)
    table = pd.read_csv(tmp_path / "gradient_flow.csv")
    assert sorted(set(table.step)) == [0, 2, 4]
    assert not table.duplicated(["step", "kind", "name", "quantity"]).any()


def test_from_the_command_line(
    pictures: None, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ["--trainer.max_epochs", "1", "--read_test", "false"]
    flow = ["--trainer.callbacks+=GradientFlow", "--trainer.callbacks.every_n_steps", "5"]
    train(["fit", "--config", "mlp", *short, *flow])
    folder = here / "runs" / "mlp" / "version_0"
    assert sorted(set(pd.read_csv(folder / "gradient_flow.csv").step)) == [0, 5, 10, 15]
    assert (folder / "gradient_flow.png").is_file()
    assert "gradient_flow.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be at least 1, got 0"),
        ({"vanishing": -1.0}, "vanishing must be 0 or more.*got -1.0"),
        ({"vanishing": 2.0, "exploding": 1.0}, "below exploding, got 2.0 and 1.0"),
        ({"vanishing": math.nan}, "vanishing must be 0 or more"),
    ],
)
def test_mistakes_are_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientFlow(**options)


# Deep nets.


def test_golden_a_deep_sigmoid_net_loses_a_factor_of_4_per_layer() -> None:
    """One unit per layer, |w| ≤ 1."""
    for seed in range(5):
        sizes = nets.gradients("sigmoid", "unit_uniform", width=1, depth=12, seed=seed)
        assert all(a <= b / 4 for a, b in pairwise(sizes))


def test_a_chain_of_units_is_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.Tensor] = []

    def draw(weight: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        drawn.append(weight.uniform_(-2, 2, generator=generator).detach().clone())
        return weight

    monkeypatch.setattr(nets, "INITIALIZATIONS", {"mine": draw})
    for activation in nets.ACTIVATIONS:
        drawn.clear()
        found = nets.gradients(activation, "mine", width=1, depth=8, examples=5)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(5, 1, generator=generator, dtype=torch.float64)
        for _ in range(8):
            torch.empty(1, 1, dtype=torch.float64).uniform_(-2, 2, generator=generator)
        top = torch.randn(5, 1, generator=generator, dtype=torch.float64)
        w = torch.stack([weight.squeeze() for weight in drawn])
        right = bias_gradients(w, torch.zeros_like(w), x, activation) * top
        assert found == pytest.approx(right.square().mean((1, 2)).sqrt().tolist(), rel=1e-12)


@pytest.mark.parametrize(
    ("activation", "rule", "low", "high"),
    [
        ("relu", "kaiming_normal", 0.1, 10),  # the lecture's rule keeps the size
        ("tanh", "lecun_normal", 0.01, 10),
        ("sigmoid", "xavier_normal", 0, 1e-10),  # no rule does so for a sigmoid
        ("relu", "standard_normal", 1e10, math.inf),
        ("tanh", "small_normal", 0, 1e-15),
    ],
)
def test_what_the_lecture_says_of_initial_weights(
    activation: str, rule: str, low: float, high: float
) -> None:
    first, *_, last = nets.gradients(activation, rule)
    assert low < first / last < high


@pytest.mark.parametrize("activation", nets.ACTIVATIONS)
def test_with_batch_norm_the_size_of_the_weights_does_not_matter(activation: str) -> None:
    ratios = []
    for rule in ("standard_normal", "kaiming_normal", "small_normal"):
        first, *_, last = nets.gradients(activation, rule, batch_norm=True)
        ratios.append(first / last)
    assert min(ratios) > 0.1
    assert max(ratios) < 100
    assert ratios == pytest.approx([ratios[0]] * 3, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, "activation must be one of"),
        ({"initialization": "ones"}, "initialization must be one of"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"examples": 1, "batch_norm": True}, "examples must be at least 2, got 1"),
    ],
)
def test_mistakes_of_nets_are_named(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nets.gradients(**{"activation": "tanh", "initialization": "lecun_normal", **options})


def test_the_command_writes_table_picture_and_numbers(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = ["lecun_normal", "lecun_uniform", "small_normal"]
    assert main(["--depth", "5", "--width", "8", "--init", *rules, "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "small_normal" in printed
    assert "per layer" in printed
    found = json.loads((here / "runs/gradient_flow/gradient_flow.json").read_text())
    assert found["settings"] == {"depth": 5, "width": 8, "examples": 128, "seed": 3}
    assert len(found["runs"]) == 2 * 3 * 3
    run = found["runs"][0]
    assert run["gradients"] == nets.gradients("sigmoid", rules[0], depth=5, width=8, seed=3)
    assert run["per_layer"] == pytest.approx((run["gradients"][0] / run["gradients"][4]) ** 0.25)
    picture = imread(here / "runs/gradient_flow/gradient_flow.png")
    assert len(np.unique(picture.reshape(-1, picture.shape[-1]), axis=0)) > 100


def test_a_dead_net_is_no_crash(here: Path) -> None:
    chain = ["--depth", "30", "--width", "1"]
    assert main([*chain, "--activation", "relu", "--batch-norm", "without"]) == 0
    text = (here / "runs/gradient_flow/gradient_flow.json").read_text()
    assert ": NaN" not in text  # strict JSON
    assert '"per_layer": "NaN"' in text


def test_mistakes_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    for args, said in ((["--width", "0"], "width must be at least 1"), (["--init", "x"], "RULE")):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err
