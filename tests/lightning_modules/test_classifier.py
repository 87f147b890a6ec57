from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

import refnet.nn
import refnet.optim
from lightning_modules import MLP, Classifier, DigitsDataModule
from lightning_modules.implementation import torch_counterpart
from refnet.optim.lr_scheduler import ExponentialDecay, InverseTimeDecay


def quiet_trainer(root: Path, epochs: int = 1, **options: Any) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        **{"logger": False, "enable_checkpointing": False, **options},
    )


def test_python_interface_trains_and_logs(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, epochs=2)
    optimizer = partial(refnet.optim.Adam, lr=0.01)
    trainer.fit(Classifier(MLP(hidden=[32]), optimizer), DigitsDataModule())
    assert {"train_loss", "train_acc", "dev_loss", "dev_acc"} <= set(trainer.callback_metrics)
    assert trainer.callback_metrics["dev_acc"] > 0.8
    (measured,) = trainer.test(datamodule=DigitsDataModule(), model=trainer.model, verbose=False)
    assert measured["test_acc"] > 0.8


def test_own_lightning_module_trains(tmp_path: Path) -> None:
    class Own(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = refnet.nn.Linear(64, 32)
            self.norm = refnet.nn.BatchNorm1d(32)
            self.relu = refnet.nn.ReLU()
            self.logits = refnet.nn.Linear(32, 10)
            self.loss = refnet.nn.CrossEntropyLoss()
            self.losses: list[float] = []

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            images, labels = batch
            hidden = self.relu(self.norm(self.hidden(images.flatten(1))))
            loss: Tensor = self.loss(self.logits(hidden), labels)
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return refnet.optim.Adam(self.parameters(), lr=0.01)

    own = Own()
    quiet_trainer(tmp_path, epochs=2).fit(own, DigitsDataModule().train_dataloader())
    assert own.losses[0] > 1.5
    assert own.losses[-1] < 0.4


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        (refnet.optim.SGD, {"lr": 0.2, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
        (refnet.optim.RMSprop, {"lr": 0.2, "alpha": 0.8, "eps": 1e-5, "centered": True}),
        (refnet.optim.Adam, {"lr": 0.2, "betas": (0.8, 0.7), "eps": 1e-5, "amsgrad": True}),
        (refnet.optim.AdamW, {"lr": 0.2, "weight_decay": 0.3}),
    ],
)
def test_counterpart_has_the_options(ours: Any, options: dict[str, Any]) -> None:
    net = MLP(hidden=[4])
    theirs = torch_counterpart(ours(net.parameters(), **options))
    assert type(theirs) is getattr(torch.optim, ours.__name__)
    for name, value in options.items():
        assert theirs.param_groups[0][name] == value
    assert [id(p) for p in theirs.param_groups[0]["params"]] == [id(p) for p in net.parameters()]


def test_counterpart_keeps_groups_and_refuses_what_torch_lacks() -> None:
    a, b = (torch.nn.Parameter(torch.zeros(1)) for _ in "ab")
    groups = [{"params": [a], "lr": 0.5}, {"params": [b]}]
    theirs = torch_counterpart(refnet.optim.SGD(groups, lr=0.1))
    assert [group["lr"] for group in theirs.param_groups] == [0.5, 0.1]
    with pytest.raises(ValueError, match="no counterpart of the optimizer Momentum"):
        torch_counterpart(refnet.optim.Momentum([a], lr=0.1))
    inside = refnet.optim.RMSprop([a], eps_inside_root=True)
    with pytest.raises(ValueError, match="RMSprop has no option 'eps_inside_root'"):
        torch_counterpart(inside)
    plain = torch.optim.Adagrad([a])
    assert torch_counterpart(plain) is plain


def test_implementation_chooses_loss_and_optimizer() -> None:
    ours, theirs = Classifier(MLP()), Classifier(MLP(), implementation="torch")
    assert type(ours.loss) is refnet.nn.CrossEntropyLoss
    assert type(theirs.loss) is torch.nn.CrossEntropyLoss
    assert type(ours.configure_optimizers()) is refnet.optim.Adam
    assert type(theirs.configure_optimizers()) is torch.optim.Adam


@pytest.mark.parametrize(("interval", "steps"), [("epoch", 2), ("step", 40)])
def test_schedule_moves_by_epoch_or_step(tmp_path: Path, interval: Any, steps: int) -> None:
    model = Classifier(
        MLP(hidden=[8]),
        optimizer=partial(refnet.optim.SGD, lr=0.1),
        lr_scheduler=partial(InverseTimeDecay, decay_rate=1.0),
        interval=interval,
    )
    trainer = quiet_trainer(tmp_path, epochs=2)
    trainer.fit(model, DigitsDataModule())
    assert trainer.global_step == 40
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 / (1 + steps))


def test_plateau_schedule_watches_the_dev_loss() -> None:
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=3)
    schedule = Classifier(MLP(), lr_scheduler=plateau).configure_optimizers()["lr_scheduler"]
    assert schedule["monitor"] == "dev_loss"


def test_resuming_equals_not_stopping(tmp_path: Path) -> None:
    def model() -> Classifier:
        torch.manual_seed(0)  # no dropout: nothing else is drawn from the global generator
        decay = partial(ExponentialDecay, gamma=0.5)
        return Classifier(MLP(hidden=[16], dropout=0.0), lr_scheduler=decay)

    whole = model()
    quiet_trainer(tmp_path, epochs=3).fit(whole, DigitsDataModule())
    trainer = quiet_trainer(tmp_path, epochs=1)
    trainer.fit(model(), DigitsDataModule())
    path = tmp_path / "first.ckpt"
    trainer.save_checkpoint(path)
    resumed = model()
    quiet_trainer(tmp_path, epochs=3).fit(resumed, DigitsDataModule(), ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_checkpoint_of_the_python_interface_is_plain(tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path)
    optimizer = partial(refnet.optim.SGD, lr=0.1)
    model = Classifier(MLP(hidden=[8]), optimizer=optimizer, label_smoothing=0.1)
    trainer.fit(model, DigitsDataModule())
    path = tmp_path / "x.ckpt"
    trainer.save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert saved["hyper_parameters"]["label_smoothing"] == 0.1
    again = Classifier.load_from_checkpoint(path, net=MLP(hidden=[8]))
    assert torch.equal(again.net.linear1.weight, model.net.linear1.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 3}, r"label_smoothing must be in \[0, 1\], got 3"),
        ({"interval": "day"}, "interval must be 'epoch' or 'step', got 'day'"),
        ({"implementation": "jax"}, "implementation must be one of .*, got 'jax'"),
    ],
)
def test_errors_name_argument_and_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(MLP(hidden=[8]), **options)
