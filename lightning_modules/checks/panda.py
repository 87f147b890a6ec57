"""The panda's part of the suite: `python -m verification panda`.

A training that takes orders beside one by hand: a plain loop over the same batches that sets the
same hyperparameters itself. `verification` may not import what is checked here; it finds `panda` by
its entry point.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_modules.checks.rows import judged
from lightning_modules.panda import Panda
from refnet.nn import Dropout
from refnet.optim import SGD
from refnet.optim.lr_scheduler import ExponentialDecay
from verification.report import ANOTHER, Row

NAN = math.nan
# Before which step what is ordered; epochs have 4 steps and rates halve with each. The best
# checkpoint is that of the first epoch: the way back leads to what step 4 began with.
KEPT, BACK = 4, 9
ORDERS: dict[int, dict[str, Any]] = {
    2: {"lr": 1 / 32},
    6: {"scale_lr": 4, "weight_decay": 0.25, "dropout": 0.75},
    BACK: {"rollback": True},
}
# What each step should train with: exact in binary, so that no rounding is in between.
RATES = [1 / 8] * 2 + [1 / 32] * 2 + [1 / 64] * 2 + [1 / 16] * 2 + [1 / 32] + [1 / 64] * 3
RATES += [1 / 128] * 4
DECAYS = [0.0] * 6 + [0.25] * 3 + [0.0] * 7
DROPOUTS = [0.25] * 6 + [0.75] * 3 + [0.25] * 7

Steps = list[dict[str, Any]]  # with what each step begins


def panda(*, quick: bool = False, device: str = "cpu") -> Iterator[list[Row]]:
    """Yield the rows of a training that takes orders, and goes back to its best checkpoint.

    Args:
        quick: has no effect: it takes a second.
        device: has no effect.

    Example:
        >>> rows = next(panda())
        >>> rows[0].case, all(row.passed for row in rows)
        ('orders before steps 2 and 6', True)
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = _ordered(Path(folder))
            log = pd.read_csv(Path(folder) / "panda.csv")
        yield list(_rows(found, _by_hand(), log))
    except Exception as error:  # code that crashes gets a row
        note = f"{type(error).__name__}: {error}".splitlines()[0]
        yield [Row("panda", "-", "-", "-", NAN, NAN, NAN, "runs", ANOTHER, note)]


def _rows(found: Steps, right: Steps, log: pd.DataFrame) -> Iterator[Row]:
    case = "orders before steps 2 and 6"
    for name, values in {"lr": RATES, "weight_decay": DECAYS, "dropout": DROPOUTS}.items():
        pairs = zip(found, values, strict=True)
        wrong = sum(step[name] != value for step, value in list(pairs)[:BACK])
        yield _row(case, f"{name}, steps", wrong, "from that step on")
    logged = [int(step) for step in log["step"].unique()]
    yield _row(case, "steps in the log", len(set(logged) ^ set(ORDERS)), "those of the orders")
    for name in ("weights", "momentum"):
        both = list(zip(found, right, strict=True))[:BACK]
        wrong = sum(not torch.equal(a[name], b[name]) for a, b in both)
        yield _row(case, f"{name}, steps", wrong, "a loop by hand, bitwise")
    case = f"rollback before step {BACK}"
    for name in ("weights", "momentum"):
        back, kept, before = (found[step][name] for step in (BACK, KEPT, BACK - 1))
        yield _row(case, name, float(not torch.equal(back, kept)), "the checkpoint's, bitwise")
        yield _row(case, f"{name} left", float(torch.equal(before, kept)), "others")
        wrong = sum(
            not torch.equal(a[name], b[name])
            for a, b in zip(found[BACK:], right[BACK:], strict=True)
        )
        yield _row(case, f"{name}, steps after it", wrong, "a loop by hand, bitwise")
    for name, values in {"lr": RATES, "weight_decay": DECAYS, "dropout": DROPOUTS}.items():
        wrong = sum(a[name] != b for a, b in zip(found[BACK:], values[BACK:], strict=True))
        yield _row(case, f"{name}, steps after it", wrong, "the checkpoint's")


_row = partial(judged, "panda", dtype="float32")


class _Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), Dropout(0.25), nn.Linear(16, 3))
        for p in self.net.parameters():
            nn.init.uniform_(p, -0.5, 0.5, generator=generator)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("age", float(self.current_epoch), on_step=False, on_epoch=True)
        return _loss(self.net, batch)

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=1 / 8, momentum=0.9)
        return [optimizer], [ExponentialDecay(optimizer, gamma=0.5)]


def _loss(net: nn.Module, batch: Any) -> torch.Tensor:
    x, y = batch
    loss: torch.Tensor = (net(x) - y).square().mean()
    return loss


def _batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(32, 6, generator=generator), torch.randn(32, 3, generator=generator)
    # of a generator of its own: a loader's draws come not between those of dropout
    return DataLoader(TensorDataset(x, y), batch_size=8, generator=generator)


def _beginning(net: nn.Module, optimizer: Any) -> dict[str, Any]:
    """With what a step begins."""
    state = [optimizer.state.get(p, {}).get("momentum_buffer") for p in net.parameters()]
    (group,) = optimizer.param_groups
    return {
        "weights": nn.utils.parameters_to_vector(net.parameters()).detach().clone(),
        "momentum": torch.cat([torch.zeros(0) if v is None else v.flatten() for v in state]),
        "lr": group["lr"],
        "weight_decay": group["weight_decay"],
        "dropout": next(m.p for m in net.modules() if isinstance(m, Dropout)),
    }


class _Orders(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if order := ORDERS.get(trainer.global_step):
            (self.folder / "control.json").write_text(json.dumps(order))


class _Notes(Callback):
    def __init__(self) -> None:
        self.steps: Steps = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.steps.append(_beginning(pl_module.net, trainer.optimizers[0]))


def _ordered(folder: Path) -> Steps:
    notes = _Notes()
    best = ModelCheckpoint(dirpath=folder / "checkpoints", monitor="age", mode="min")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer = Trainer(
            default_root_dir=folder, max_epochs=4, accelerator="cpu", devices=1, logger=False,
            enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
            callbacks=[_Orders(folder), Panda(settle=0), notes, best],
        )  # fmt: skip
        model = _Model()
        torch.manual_seed(2)
        trainer.fit(model, _batches())
    return notes.steps


def _by_hand() -> Steps:
    net: Any = _Model().net
    steps: Steps = []
    kept: list[Any] = []
    optimizer = SGD(net.parameters(), lr=RATES[0], momentum=0.9)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        for _ in range(4):
            for batch in _batches():
                step = len(steps)
                if step == KEPT:
                    kept = copy.deepcopy([net.state_dict(), optimizer.state_dict()])
                if step == BACK:
                    net.load_state_dict(kept[0])
                    optimizer.load_state_dict(kept[1])
                optimizer.param_groups[0].update(lr=RATES[step], weight_decay=DECAYS[step])
                net[1].p = DROPOUTS[step]
                steps.append(_beginning(net, optimizer))
                optimizer.zero_grad()
                torch.autograd.backward(_loss(net, batch))
                optimizer.step()
    return steps
