"""Whole training runs in lockstep: refnet beside torch's builtins, in float64, by Lightning.

The shipped configurations train step for step on the same data, with the same initial weights and
the same dropout masks. `python -m verification lockstep` runs it; the verdict is that of
`verification.training.lockstep`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.cli import LightningCLI
from torch import Tensor, nn

from lightning_modules.classifier import Classifier
from lightning_modules.data import DigitsDataModule
from lightning_modules.files import find_config
from lightning_modules.implementation import Implementation
from lightning_modules.quiet import quiet
from verification.report import Row
from verification.training.lockstep import Recording, builtin_masks, compare, perturb

CONFIGS = ("mlp", "conv")
STEPS = 200
QUICK_STEPS = 20


def suite(*, quick: bool = False, device: str = "cpu") -> Iterator[list[Row]]:
    """Yield the rows of every shipped configuration.

    Args:
        quick: 20 steps instead of 200.
        device: where to train, "cpu" or "cuda".

    Example:
        >>> rows = next(suite(quick=True))
        >>> all(row.passed for row in rows)
        True
    """
    steps = QUICK_STEPS if quick else STEPS
    for config in CONFIGS:
        ours = record(config, "refnet", steps, device)
        builtin = record(config, "torch", steps, device)
        perturbed = record(config, "torch", steps, device, perturbed=True)
        yield compare("lockstep", f"{config}, {steps} steps", ours, builtin, perturbed)


def record(
    config: str,
    implementation: Implementation,
    steps: int,
    device: str = "cpu",
    *,
    perturbed: bool = False,
) -> Recording:
    """Train a configuration in float64 and record the run.

    Args:
        config: name or file of a configuration; its seed, net, optimizer, schedule and data are
            used, its trainer is not.
        implementation: "refnet" or "torch".
        steps: number of optimizer steps.
        device: "cpu" or "cuda".
        perturbed: change the initial weights by 1 ulp.
    """
    quiet()
    model, data, seed = _build(config, implementation)
    recorder = _Recorder(perturbed)
    trainer = Trainer(
        accelerator=device,
        devices=1,
        precision="64-true",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        callbacks=[recorder],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    seed_everything(seed, verbose=False)  # both runs draw the same masks
    trainer.fit(model, datamodule=data)
    return recorder.recording(model.net)


class _Recorder(Callback):
    """Keeps the losses and the sizes of the gradients; hands the builtin's masks to refnet."""

    def __init__(self, perturbed: bool) -> None:
        self.perturbed = perturbed
        self.losses: list[Tensor] = []
        self.gradients: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the net, which is in float64 and on its device by now."""
        if self.perturbed:
            perturb(pl_module.net)  # type: ignore[arg-type]
        builtin_masks(pl_module)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        for name, parameter in pl_module.net.named_parameters():  # type: ignore[union-attr]
            size = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.abs()
            before = self.gradients.get(name, size)
            self.gradients[name] = torch.maximum(before, size).detach()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(outputs["loss"].detach())

    def recording(self, net: nn.Module) -> Recording:
        return Recording(
            losses=torch.stack(self.losses).double().cpu().numpy(),
            state={name: value.cpu().numpy() for name, value in net.state_dict().items()},
            gradients={name: value.cpu().numpy() for name, value in self.gradients.items()},
        )


class _Builder(LightningCLI):
    """Builds what a configuration describes and runs nothing."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.link_arguments("model.implementation", "model.net.init_args.implementation")

    def parse_arguments(self, parser: Any, args: Any) -> None:
        self.config = parser.parse_args(args)  # Lightning's own looks at sys.argv too


def _build(config: str, implementation: str) -> tuple[Classifier, DigitsDataModule, int]:
    cli = _Builder(
        Classifier,
        DigitsDataModule,
        run=False,
        save_config_callback=None,
        auto_configure_optimizers=False,
        trainer_defaults={"logger": False, "accelerator": "cpu", "enable_model_summary": False},
        args=["--config", str(find_config(config)), "--model.implementation", implementation],
    )
    return cli.model, cli.datamodule, cli.config.seed_everything
