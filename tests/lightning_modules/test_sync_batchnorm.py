"""The plugin in a real Lightning run on two CPU processes, and the error of a run without it.

The file is also the program of those runs, since Lightning starts it again for each process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import TorchSyncBatchNorm
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import refnet
from lightning_modules import RefnetSyncBatchNorm
from lightning_modules.sync_batchnorm import CheckSyncBatchNorm, callbacks

ROWS, BATCH = 24, 8  # three steps an epoch


class Net(pl.LightningModule):
    """Batch norm of refnet and of torch, in float64; the loss is a mean over the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            refnet.nn.Linear(4, 6),
            refnet.nn.BatchNorm1d(6),
            refnet.nn.ReLU(),
            nn.Unflatten(1, (3, 2, 1)),
            nn.BatchNorm2d(3),
            nn.Flatten(),
            refnet.nn.Linear(6, 1),
        ).double()
        self.kinds: list[str] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.kinds = classes(self)
        return self.net(batch[0]).square().mean()

    def train_dataloader(self) -> DataLoader[Any]:
        rows = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)).double()
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return DataLoader(TensorDataset(rows[rank::world]), BATCH // world)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return refnet.optim.SGD(self.parameters(), lr=0.1)


def classes(net: nn.Module) -> list[str]:
    kinds = [type(m) for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [f"{kind.__module__.split('.')[0]} {kind.__name__}" for kind in kinds]


ORIGINAL = ["refnet BatchNorm1d", "torch BatchNorm2d"]


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    options = {"accelerator": "cpu", "devices": 1, "max_epochs": 2} | quiet | options
    return pl.Trainer(default_root_dir=folder, use_distributed_sampler=False, **options)


def main(folder: Path, accelerator: str) -> None:
    """Fit in two processes; the first writes down what came out."""
    options = {"accelerator": accelerator, "devices": 2, "strategy": "ddp", "sync_batchnorm": True}
    net = Net()
    layers = list(net.modules())
    light = "sklearn" not in sys.modules
    try:
        trainer(folder, **options).fit(Net())  # on a GPU it's a warning
    except MisconfigurationException as error:
        Path(folder, f"error{os.environ.get('LOCAL_RANK', '0')}").write_text(str(error))
    fitted = trainer(folder, plugins=[RefnetSyncBatchNorm()], **options)
    fitted.fit(net)
    if fitted.is_global_zero:
        same = all(a is b for a, b in zip(net.modules(), layers, strict=True))
        outcome = (net.state_dict(), net.kinds, classes(net), same, light)
        torch.save(outcome, folder / "outcome.pt")


@pytest.mark.parametrize(
    "accelerator",
    [
        "cpu",
        pytest.param(
            "gpu",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs"),
            ],
        ),
    ],
)
def test_two_processes_train_as_one(accelerator: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, __file__, str(tmp_path), accelerator],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    state, during, after, same, light = torch.load(tmp_path / "outcome.pt")
    assert during == ["refnet SyncBatchNorm"] * 2
    assert after == ORIGINAL
    assert same
    assert light  # the plugin comes without the rest of the package
    one = Net()
    trainer(tmp_path).fit(one)
    for name, expected in one.state_dict().items():
        torch.testing.assert_close(state[name].cpu(), expected, rtol=1e-12, atol=1e-13)
    if accelerator == "cpu":
        for rank in (0, 1):
            error = (tmp_path / f"error{rank}").read_text()
            assert "plugins=[RefnetSyncBatchNorm()]" in error
            assert "'net.1'" in error


class Late(pl.LightningModule):
    def configure_model(self) -> None:
        self.norm = refnet.nn.BatchNorm1d(3)


def applied(trainer: pl.Trainer, net: pl.LightningModule) -> nn.Module:
    """What Lightning does between the hooks `setup` and `on_fit_start`."""
    for callback in trainer.callbacks:
        callback.setup(trainer, net, "fit")
    net.configure_model()
    sync = trainer.strategy._layer_sync
    assert sync is not None
    return sync.apply(net)


def test_the_error_comes_for_layers_that_are_made_late(tmp_path: Path) -> None:
    ddp = trainer(tmp_path, devices=2, strategy="ddp", sync_batchnorm=True)
    with pytest.raises(MisconfigurationException, match=r"'norm', which does not work on a CPU"):
        applied(ddp, Late())


def test_on_a_gpu_it_is_a_warning(tmp_path: Path) -> None:
    ddp = trainer(tmp_path, devices=2, strategy="ddp", sync_batchnorm=True)
    ddp.strategy.parallel_devices = [torch.device("cuda", 0)] * 2
    net = Late()
    with pytest.warns(UserWarning, match=r"plugins=\[RefnetSyncBatchNorm\(\)\]"):
        applied(ddp, net)
    assert type(net.norm) is nn.SyncBatchNorm


class Own(TorchSyncBatchNorm):
    """A plugin of somebody's."""


@pytest.mark.parametrize("plugin", [None, Own(), RefnetSyncBatchNorm()])
def test_other_runs_are_left_alone(plugin: TorchSyncBatchNorm | None, tmp_path: Path) -> None:
    synced = plugin is not None
    plugins = [plugin] if synced else None
    ddp = trainer(tmp_path, devices=2, strategy="ddp", sync_batchnorm=synced, plugins=plugins)
    for callback in ddp.callbacks:
        callback.setup(ddp, Net(), "fit")
    assert ddp.strategy._layer_sync is plugin


def test_torchs_layers_are_lightnings_business(tmp_path: Path) -> None:
    ddp = trainer(tmp_path, devices=2, strategy="ddp", sync_batchnorm=True)
    net = pl.LightningModule()
    net.norm = nn.BatchNorm1d(3)
    applied(ddp, net)
    assert type(net.norm) is nn.SyncBatchNorm


def test_a_single_process_ignores_the_flag(tmp_path: Path) -> None:
    net = Net()
    trainer(tmp_path, sync_batchnorm=True, fast_dev_run=True).fit(net)
    assert net.kinds == ORIGINAL


def test_the_check_leaves_no_trace_in_checkpoints(tmp_path: Path) -> None:
    single = trainer(tmp_path, fast_dev_run=True)
    single.fit(Net())
    assert [type(c) for c in single.callbacks] == [CheckSyncBatchNorm]
    path = tmp_path / "checkpoint"
    single.save_checkpoint(path)
    assert torch.load(path)["callbacks"] == {}


def test_who_does_not_use_refnet_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(callback) for callback in callbacks()] == [CheckSyncBatchNorm]
    monkeypatch.delitem(sys.modules, "refnet.nn")
    assert callbacks() == []


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
