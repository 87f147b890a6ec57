"""torch's builtins beside a live training run: every n-th batch is computed with both.

The model, its optimizer and the batch are copied; one copy is converted to torch's layers, loss and
optimizer. Both make one step from the same state with the same random numbers and dropout masks,
and `verification.models` compares them layer by layer. The training itself is not touched.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

import refnet
import refnet.optim
from lightning_modules.implementation import torch_counterpart
from verification.models import ModelsReport
from verification.models.findings import report
from verification.models.matching import match_models
from verification.models.parties import Crash
from verification.models.recording import Party
from verification.models.teacher import Teacher
from verification.models.trees import map_tensors
from verification.report import ANOTHER, PASSING
from verification.training.lockstep import builtin_masks

Copy = tuple[LightningModule, Optimizer | None]
NAME = "builtin_beside"
PLAIN = {"32-true": torch.float32, "64-true": torch.float64}  # what can be compared as it is


class BuiltinDiffersError(RuntimeError):
    """The model and torch's builtins do not compute the same; the message names the layer."""


class BuiltinBeside(Callback):
    """Compare a training run with torch's builtins, now and then, layer by layer.

    Every n-th batch is computed again by a copy of the model, and by a copy that
    `refnet.convert(copy, "torch")` and torch's optimizer have made the builtins' own: in float64,
    and, where the trainer's precision is "32-true", in float32 too. Outputs of the layers, loss,
    gradients, buffers, the optimizer's state and the weights after one step are judged as by
    `verification.models.compare_models`. The weights that are trained, and the random numbers, are
    the same bit for bit as without the callback.

    `builtin_beside.json` in the logger's folder has the rows of every comparison that differs and
    the counts of all; the logger gets the largest share of a bound that was used, below 1 where
    all is well, as `builtin_beside`.

    Left out on both sides: accumulation of gradients, clipping, autocast and the scaler, and the
    hooks around the step. Not compared, with a warning: training over several processes, manual
    optimization, modules that can't be copied, and the optimizer where torch has none like it.

    Args:
        every_n_steps: of how many batches one is compared, the first one included.
        on_difference: "warn" once, or "stop" the training by a BuiltinDiffersError; also where the
            model crashes beside the builtins, or where both do and nothing can be compared.

    Attributes:
        reports: of every comparison, with the number of its batch.

    Raises:
        ValueError: every_n_steps below 1, or on_difference neither "warn" nor "stop".
        BuiltinDiffersError: in training, a difference with `on_difference="stop"`.

    Example:
        >>> trainer = Trainer(callbacks=[BuiltinBeside(100)], logger=False,
        ...                   enable_checkpointing=False)
    """

    def __init__(
        self, every_n_steps: int = 50, on_difference: Literal["warn", "stop"] = "warn"
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        if on_difference not in ("warn", "stop"):
            raise ValueError(f"on_difference must be 'warn' or 'stop', got {on_difference!r}")
        self.every_n_steps, self.on_difference = every_n_steps, on_difference
        self.reports: list[tuple[int, ModelsReport]] = []
        self._batches = 0
        self._said: set[str] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self.reports, self._batches, self._said = [], 0, set()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Compare what is about to be computed."""
        number, self._batches = self._batches, self._batches + 1
        if number % self.every_n_steps or not self._possible(trainer, pl_module):
            return
        with isolate_rng():
            found = list(self._compare(trainer, pl_module, batch, batch_idx, number))
        reports = [one for one in found if isinstance(one, ModelsReport)]
        crashes = [one for one in found if not isinstance(one, ModelsReport)]
        if reports:
            self.reports += [(number, of_dtype) for of_dtype in reports]
            self._write(trainer, reports)
        first = next((r.first_difference for r in reports if r.first_difference), None)
        if first is not None:
            message = f"the model and torch's builtins differ at batch {number}: {first}"
            if self.on_difference == "stop":
                raise BuiltinDiffersError(message)
            self._say("differs", message)
        for dtype, crash in crashes:
            alone = crash.judged.verdict == ANOTHER  # the builtins do not crash
            if self.on_difference == "stop" and (alone or not reports):
                message = f"can't compare batch {number} in {dtype}: {crash}"
                raise BuiltinDiffersError(message) from crash
            self._say(f"crash {dtype}", f"can't compare in {dtype}: {crash}")

    def _possible(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        if trainer.world_size > 1:
            self._say("processes", "does not compare training over several processes")
        elif not pl_module.automatic_optimization:
            self._say("manual", "does not compare manual optimization")
        return not self._said & {"processes", "manual", "copy"}

    def _compare(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, number: int
    ) -> Iterator[ModelsReport | tuple[torch.dtype, Crash]]:
        precision = str(trainer.precision)
        if precision not in PLAIN:
            self._say("precision", f"compares in float64 alone, not in {precision}")
        for dtype in dict.fromkeys((PLAIN.get(precision, torch.float64), torch.float64)):
            try:
                copies = [_copy(pl_module, trainer) for _ in range(3)]
            except Exception as error:  # anybody's module
                self._say("copy", f"can't copy the model: {type(error).__name__}: {error}")
                return
            ours, *others = copies
            theirs, other = [self._builtin(*pair) for pair in others]
            if theirs[1] is None:  # then for nobody
                ours = (ours[0], None)
            builtin_masks(ours[0])
            try:
                yield _step((ours, theirs, other), trainer, batch, batch_idx, dtype, number)
            except Crash as error:
                yield dtype, error

    def _builtin(self, module: LightningModule, optimizer: Optimizer | None) -> Copy:
        refnet.convert(module, "torch", report=lambda conversion: None)
        try:
            return module, None if optimizer is None else builtin_optimizer(optimizer)
        except ValueError as error:
            self._say("optimizer", f"does not compare the optimizer: {error}")
            return module, None

    def _write(self, trainer: Trainer, found: list[ModelsReport]) -> None:
        used = max(row.used for report in found for row in report.rows)
        for logger in trainer.loggers:
            logger.log_metrics({NAME: used}, step=trainer.global_step)
        if trainer.loggers and trainer.log_dir:
            path = Path(trainer.log_dir) / f"{NAME}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            comparisons = [_as_data(number, report) for number, report in self.reports]
            path.write_text(json.dumps(comparisons, indent=1, ensure_ascii=False), encoding="utf-8")

    def _say(self, what: str, message: str) -> None:
        """Warn once of each thing."""
        if what not in self._said:
            self._said.add(what)
            rank_zero_warn(f"BuiltinBeside: {message}")


def builtin_optimizer(optimizer: Optimizer) -> Optimizer:
    """Build torch's optimizer with the options and the state of one of refnet's.

    Args:
        optimizer: one in use. One that is not refnet's comes back as it is.

    Returns:
        The optimizer over the same parameters. For refnet's Momentum it is SGD with dampening and
        zero buffers laid in, which is the same rule.

    Raises:
        ValueError: torch has none like it.

    Example:
        >>> w = torch.nn.Parameter(torch.ones(1))
        >>> builtin_optimizer(refnet.optim.Momentum([w], lr=0.1)).param_groups[0]["dampening"]
        0.9
    """
    if type(optimizer) is refnet.optim.Momentum:
        if any(group["bias_correction"] for group in optimizer.param_groups):
            raise ValueError("torch.optim has no Momentum with bias_correction=True")
        known = ("params", "lr", "momentum", "weight_decay", "maximize", "differentiable")
        groups = [{key: group[key] for key in known} for group in optimizer.param_groups]
        theirs: Optimizer = _Momentum([{**g, "dampening": g["momentum"]} for g in groups])
    else:
        theirs = torch_counterpart(optimizer)
    if theirs is not optimizer:
        for p, kept in optimizer.state.items():
            theirs.state[p] = dict(kept)
    return theirs


class _Momentum(torch.optim.SGD):
    """SGD with zero buffers laid in, and the count of steps that refnet keeps."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    kept = self.state[p]
                    kept.setdefault("momentum_buffer", torch.zeros_like(p))
                    kept["step"] = kept.get("step", torch.zeros(())) + 1
        return super().step(closure)


def _copy(module: LightningModule, trainer: Trainer) -> Copy:
    """Copy a module and its optimizer, which logs nothing but sees the trainer."""
    new, optimizers = copy.deepcopy((module, trainer.optimizers[:1]))
    new.trainer = trainer
    vars(new).update(dict.fromkeys(("log", "log_dict"), lambda *args, **options: None))
    return new, optimizers[0] if optimizers else None


def _step(
    copies: tuple[Copy, Copy, Copy],
    trainer: Trainer,
    batch: Any,
    batch_idx: int,
    dtype: torch.dtype,
    number: int,
) -> ModelsReport:
    indexed = is_param_in_hook_signature(copies[0][0].training_step, "batch_idx", min_args=2)
    index = (batch_idx,) if indexed else ()

    def loss(module: Any, batch: Any) -> Any:
        return module.training_step(batch, *index)

    matching = match_models(copies[0][0], copies[1][0])
    pairs = [{name: name for name in kind} for kind in (matching.parameters, matching.buffers)]
    parties = []
    for module, optimizer in copies:
        module.to(dtype)
        for p, kept in () if optimizer is None else optimizer.state.items():
            kept |= {
                key: value.to(dtype) for key, value in kept.items()
                if isinstance(value, Tensor) and value.shape == p.shape and p.is_floating_point()
            }  # fmt: skip
        names = [layer for layers, _ in matching.layers for layer in layers]
        parties.append(Party(module, optimizer, loss, names, *pairs))
    batch = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, batch)
    ours, theirs, other = parties
    teacher = Teacher(matching, ours, theirs, other, seed=number)
    findings = list(teacher.step(0, batch))
    subject = f"{type(copies[0][0]).__name__} beside the builtins, batch {number}"
    unmatched = [*matching.unmatched, *teacher.left_out]
    found = report(subject, str(dtype).removeprefix("torch."), findings, unmatched)
    return found


def _as_data(number: int, report: ModelsReport) -> dict[str, Any]:
    data = json.loads(report.to_json())
    return {
        "batch": number,
        "dtype": report.rows[0].dtype,
        "rows": len(report.rows),
        "failures": [row for row in data["rows"] if row["verdict"] not in PASSING],
        **{key: data[key] for key in ("passed", "first_difference", "unmatched")},
    }
