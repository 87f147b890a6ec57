"""The averaged weights of a Lightning run beside torch's AveragedModel and our own average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.data import DataLoader, TensorDataset

import refnet
from lightning_modules import ExponentialWeightAveraging
from refnet.averages import ExponentialAverage

BETA = 0.8
Snapshot = dict[str, Tensor]


def snapshot(module: nn.Module) -> Snapshot:
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(a: Snapshot, b: Snapshot) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)).double()


def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(rows(24, seed=1)), batch_size=6)  # four batches


class Net(pl.LightningModule):
    """Remembers its weights after each step of the optimizer, and those that it was judged by."""

    def __init__(self, fail_in_validation_of_epoch: int = -1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            refnet.nn.Linear(4, 6), refnet.nn.BatchNorm1d(6), refnet.nn.Tanh(), nn.Linear(6, 1)
        ).double()
        self.fail_in_validation_of_epoch = fail_in_validation_of_epoch
        self.after_steps: list[Snapshot] = []
        self.judged: dict[str, Snapshot] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Net:
        twin = Net()  # without the memories
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x: Tensor) -> Any:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x = rows(6, seed=self.global_step)
        return (self(x) - x.sum(1, keepdim=True)).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step > len(self.after_steps):
            self.after_steps.append(snapshot(self))

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.judged["validate"] = snapshot(self)
        if not self.trainer.sanity_checking:
            assert self.current_epoch != self.fail_in_validation_of_epoch

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.judged["test"] = snapshot(self)

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.judged["predict"] = snapshot(self)
        return self(batch[0])

    def train_dataloader(self) -> Any:
        return loader()

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def configure_optimizers(self) -> Any:
        return refnet.optim.Adam(self.parameters(), lr=0.05)


def trainer(folder: Path, *callbacks: pl.Callback, epochs: int = 3, **options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    writes = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    options = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": writes} | options
    return pl.Trainer(
        default_root_dir=folder, callbacks=list(callbacks), max_epochs=epochs, **quiet, **options
    )


def every_step(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)


class SaveAt(pl.Callback):
    """Without a state, so that Lightning does not miss it when resuming."""

    def __init__(self, path: Path, step: int) -> None:
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def load(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def averaged(steps: list[Snapshot], bias_correction: bool, use_buffers: bool) -> Snapshot:
    """What the weights after each step average to: by our average, or by torch's."""
    model = Net()
    model.load_state_dict(steps[-1])
    floating = {n for n, value in steps[0].items() if value.is_floating_point()}
    if not bias_correction:
        torchs = AveragedModel(
            Net(), multi_avg_fn=get_ema_multi_avg_fn(BETA), use_buffers=use_buffers
        )
        for step in steps:
            source = Net()
            source.load_state_dict(step)
            torchs.update_parameters(source)
        found = snapshot(torchs.module)
        return {n: found[n] if n in floating else steps[-1][n] for n in steps[0]}
    averages = {n: ExponentialAverage[Tensor](BETA, bias_correction=True) for n in steps[0]}
    for step in steps:
        for name, value in step.items():
            averages[name].update(value)
    kept = set(steps[0]) - floating
    kept |= set() if use_buffers else {name for name, _ in model.named_buffers()}
    return {n: steps[-1][n] if n in kept else averages[n].value for n in steps[0]}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_the_average_of_a_run(
    tmp_path: Path, bias_correction: bool, use_buffers: bool, accumulate: int
) -> None:
    model = Net()
    callback = ExponentialWeightAveraging(BETA, bias_correction, use_buffers)
    run = trainer(tmp_path, callback, accumulate_grad_batches=accumulate)
    run.fit(model)
    steps = model.after_steps
    assert len(steps) == {1: 12, 3: 6}[accumulate]  # 3 + 1 batches
    expected = averaged(steps, bias_correction, use_buffers)
    torch.testing.assert_close(snapshot(model), expected, rtol=1e-13, atol=1e-15)
    assert not torch.allclose(model.net[0].weight, steps[-1]["net.0.weight"], rtol=1e-3)


def test_the_two_forms_differ_by_the_first_weights(tmp_path: Path) -> None:
    """Eₜ = Vₜ + βᵗ θ₁, and ours is Vₜ / (1 − βᵗ)."""
    found = []
    for bias_correction in (True, False):
        model = Net()
        trainer(tmp_path, ExponentialWeightAveraging(BETA, bias_correction)).fit(model)
        found.append(model.net[0].weight.detach())
    corrected, torchs = found
    power = BETA ** len(model.after_steps)
    first = model.after_steps[0]["net.0.weight"]
    torch.testing.assert_close(
        torchs, (1 - power) * corrected + power * first, rtol=1e-13, atol=1e-15
    )


def test_swapped_in_for_judging_and_back(tmp_path: Path) -> None:
    plain, model = Net(), Net()
    trainer(tmp_path, limit_val_batches=0).fit(plain)
    run = trainer(tmp_path, ExponentialWeightAveraging(BETA))
    run.fit(model)
    # Training is what it is without an average …
    assert all(map(equal, model.after_steps, plain.after_steps))
    # … and everything that judges the model, then and later, sees the averaged weights.
    final = snapshot(model)
    run.test(model, verbose=False)
    run.predict(model)
    assert all(equal(model.judged[part], final) for part in ("validate", "test", "predict"))
    run.validate(model, verbose=False)
    assert equal(model.judged["validate"], final)
    other = Net()
    run.validate(other, verbose=False)  # a model that has nothing to do with the average
    assert equal(other.judged["validate"], snapshot(Net()))


def test_checkpoints_hold_both_and_are_judged_by_the_average(tmp_path: Path) -> None:
    model = Net()
    run = trainer(tmp_path, ExponentialWeightAveraging(BETA), every_step(tmp_path))
    run.fit(model)
    for step in (1, 5, 8):
        checkpoint = load(tmp_path / f"step={step}.ckpt")
        assert equal(checkpoint["current_model_state"], model.after_steps[step - 1])
        expected = averaged(model.after_steps[:step], True, True)
        torch.testing.assert_close(dict(checkpoint["state_dict"]), expected, rtol=1e-13, atol=1e-15)
        plain = torch.nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))
        plain.load_state_dict({n[4:]: v for n, v in checkpoint["state_dict"].items()})
        another = trainer(tmp_path, ExponentialWeightAveraging(BETA), every_step(tmp_path))
        for judge in (run, another):
            # the model of the fit, too, with which Lightning's own tests the other weights
            judged = model if judge is run else Net()
            for part in ("test", "validate", "predict"):
                quiet = {} if part == "predict" else {"verbose": False}
                path = tmp_path / f"step={step}.ckpt"
                getattr(judge, part)(judged, ckpt_path=path, weights_only=True, **quiet)
                assert equal(judged.judged[part], dict(checkpoint["state_dict"]))


# Lightning does not keep the place in a loader; here the rows follow from the step.
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("step", [3, 8, 10])  # in the middle of an epoch, and at its end
def test_resumed_bit_for_bit(tmp_path: Path, step: int) -> None:
    whole, resumed = Net(), Net()
    callback = ExponentialWeightAveraging(BETA)
    trainer(tmp_path, callback, SaveAt(tmp_path / "here.ckpt", step)).fit(whole)
    resumed.after_steps = whole.after_steps[:step]
    # another instance, or one that has made a run before
    used = callback if step == 8 else ExponentialWeightAveraging(BETA)
    trainer(tmp_path, used).fit(resumed, ckpt_path=tmp_path / "here.ckpt", weights_only=True)
    assert len(resumed.after_steps) == 12
    assert all(map(equal, whole.after_steps, resumed.after_steps))
    assert equal(snapshot(whole), snapshot(resumed))


def test_a_callback_serves_a_second_run(tmp_path: Path) -> None:
    callback, found = ExponentialWeightAveraging(BETA), []
    for epochs in (2, 1):
        model = Net()
        trainer(tmp_path, callback, epochs=epochs).fit(model)
        found.append(model)
    expected = averaged(found[1].after_steps, True, True)
    torch.testing.assert_close(snapshot(found[1]), expected, rtol=1e-13, atol=1e-15)


def test_a_checkpoint_of_a_failed_validation(tmp_path: Path) -> None:
    model, other = Net(fail_in_validation_of_epoch=1), Net()
    rescue = ModelCheckpoint(tmp_path, "rescue", save_on_exception=True, save_top_k=0)
    run = trainer(tmp_path, ExponentialWeightAveraging(BETA), rescue)
    with pytest.raises(AssertionError):
        run.fit(model)
    assert not equal(model.judged["validate"], model.after_steps[-1])
    checkpoint = load(tmp_path / "rescue.ckpt")
    assert equal(checkpoint["current_model_state"], model.after_steps[-1])
    assert equal(checkpoint["state_dict"], model.judged["validate"])
    run.validate(other, verbose=False)  # a model that has nothing to do with the average
    assert equal(other.judged["validate"], snapshot(Net()))


@pytest.mark.parametrize(
    "when", ["on_validation_epoch_start", "on_train_end", "on_fit_end", "later"]
)
def test_a_checkpoint_of_any_moment_is_to_go_on_from(tmp_path: Path, when: str) -> None:
    class Save(pl.Callback):
        def save(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "it.ckpt")

    setattr(Save, when, Save.save)
    model, whole, resumed = Net(), Net(), Net()
    run = trainer(tmp_path, ExponentialWeightAveraging(BETA), Save(), epochs=2)
    run.fit(model)
    run.save_checkpoint(tmp_path / "it.ckpt") if when == "later" else None
    checkpoint = load(tmp_path / "it.ckpt")
    assert equal(checkpoint["current_model_state"], model.after_steps[-1])
    assert equal(checkpoint["state_dict"], snapshot(model))
    if when != "on_validation_epoch_start":  # of which Lightning resumes the validation first
        trainer(tmp_path, ExponentialWeightAveraging(BETA)).fit(whole)
        go_on = trainer(tmp_path, ExponentialWeightAveraging(BETA))
        go_on.fit(resumed, ckpt_path=tmp_path / "it.ckpt", weights_only=True)
        assert equal(snapshot(resumed), snapshot(whole))


def test_update_bn_takes_the_statistics_of_the_averaged_weights(tmp_path: Path) -> None:
    model = Net()
    trainer(tmp_path, ExponentialWeightAveraging(BETA, use_buffers=False)).fit(model)
    twin = torch.nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1))
    twin.double().load_state_dict(model.net.state_dict())
    before = model.net[1].running_mean.clone()
    update_bn(loader(), model)
    update_bn(loader(), twin)
    torch.testing.assert_close(model.net.state_dict(), twin.state_dict(), rtol=1e-13, atol=1e-15)
    assert not torch.allclose(before, model.net[1].running_mean, rtol=1e-3)


@pytest.mark.parametrize(("device", "kept"), [(None, "meta"), ("cpu", "cpu")])
def test_the_average_follows_the_model_to_its_device(
    tmp_path: Path, device: str | None, kept: str
) -> None:
    """Lightning moves the model between setup and on_fit_start; "meta" plays the accelerator."""
    run, model = trainer(tmp_path), Net()
    callback = ExponentialWeightAveraging(BETA, device=device)
    callback.setup(run, model, "fit")
    callback.on_fit_start(run, model.to("meta"))
    assert callback._average_model is not None
    assert {p.device.type for p in callback._average_model.parameters()} == {kept}


@pytest.mark.parametrize("beta", [1.0, -0.5])
def test_beta_outside_its_range(beta: float) -> None:
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\), got"):
        ExponentialWeightAveraging(beta)
