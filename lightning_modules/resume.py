"""Resume a training bit for bit: what Lightning's checkpoints lack.

Lightning keeps weights, optimizers, schedules and counters. It doesn't keep the random states, the
place in the middle of an epoch, the running averages of `self.log` and of torchmetrics, nor
gradients that are being accumulated; and what comes after `on_train_batch_end` (a validation,
schedules that watch a metric, the end of the epoch) it skips when it resumes from there.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, cast

import numpy as np
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer

# Loops and logged results have no public interface: the private names are here and in this file.
from pytorch_lightning.loops.evaluation_loop import RestartStage
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultMetric,
    _Sync,
)
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import Metric, MetricCollection

KEY = "exact_resume"
State = dict[str, Any]


class ExactResume(Callback):
    """Make a resumed run end with the same bits as one that was never interrupted.

    Put it first among the callbacks, of the run that writes the checkpoints and of the one that
    resumes; nothing else changes. It works from any checkpoint that a `ModelCheckpoint` writes: at
    the end of an epoch or of a validation, or every few steps, for automatic and manual
    optimization, in the middle of an accumulation too. A run that isn't interrupted has the numbers
    that it has without this callback; only where several loaders, or hooks ahead of the very first
    batch, draw from the same generator do they take turns in another order. Stored are

    - the states of the generators of torch (CPU and CUDA), NumPy and Python, and of every
      generator that is an attribute of the model and its layers, of the datamodule, or of a
      loader, its sampler and its dataset;
    - how many batches of the epoch were used, and the states with which the epoch began. The
      resumed run loads those batches once more and throws them away, so that samplers and workers
      draw what they drew; that costs their loading time;
    - averages of the epoch so far (`self.log`, torchmetrics), the metrics that schedules and other
      callbacks watch, gradients of an unfinished accumulation.

    All of it is tensors and plain types: the checkpoint loads with `weights_only=True`.

    Not exact, with a warning: several devices (the first process's states alone are stored);
    `reload_dataloaders_every_n_epochs`; a checkpoint written in the middle of a batch, as by
    `save_on_exception`; `persistent_workers` whose dataset draws random numbers; a checkpoint that
    was written without this callback. Not exact, unnoticed: nondeterministic CUDA kernels; other
    hardware, thread counts or versions; samplers of one's own that draw from a global generator
    again for every batch; state that the module, a dataset or a callback keeps outside of its
    `state_dict`; and the module's own `on_train_batch_end` or `on_validation_end` right after the
    checkpoint was written, which Lightning doesn't call again.

    Raises:
        MisconfigurationException: the training data is an `IterableDataset`, or not served by a
            `DataLoader`, and its loader has no `state_dict` of its own.

    Example:
        >>> from pytorch_lightning.callbacks import ModelCheckpoint
        >>> every = ModelCheckpoint(every_n_train_steps=100, save_last=True)
        >>> trainer = Trainer(callbacks=[ExactResume(), every], logger=False)
        >>> # trainer.fit(model, ckpt_path="last")
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._saved: State = {}  # of the checkpoint, while it is being resumed from
        self._random: State = {}  # the generators' states, until the training goes on
        self._resumed = False
        self._watched: list[_Resumable] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have the loaders pass through this callback."""
        self._trainer, self._saved, self._random, self._resumed = trainer, {}, {}, False
        if stage != "fit":
            return
        vars(trainer.strategy).pop("process_dataloader", None)  # of a fit that failed
        process = trainer.strategy.process_dataloader

        def process_dataloader(dataloader: Any) -> Any:
            return self._watch(process(dataloader), trainer)

        trainer.strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]
        if trainer.world_size > 1:
            rank_zero_warn(
                "ExactResume stores the random states of the first process alone: on "
                f"{trainer.world_size} devices a resumed run is not exact"
            )
        if every := getattr(trainer, "reload_dataloaders_every_n_epochs", 0):
            rank_zero_warn(
                f"reload_dataloaders_every_n_epochs={every}: Lightning begins to count again when "
                "it resumes, and the resumed run is not exact"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave loaders and strategy as they were."""
        vars(trainer.strategy).pop("process_dataloader", None)
        for loader in self._watched:
            loader.__class__ = type(loader).__mro__[2]
            for name in _Resumable.own:
                vars(loader).pop(name, None)
        self._watched = []

    def _watch(self, loader: Any, trainer: Trainer) -> Any:
        if self._saved:
            _finish_batch(trainer, self._saved["batch_ended"])
        if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
            kind = type(loader)
            if not hasattr(loader, "state_dict"):
                loader.__class__ = type(f"Resumable{kind.__name__}", (_Resumable, kind), {})
            if isinstance(loader, _Resumable):  # it may still be, after a fit that failed
                later = _loop(trainer).epoch_progress.current.processed > 0
                checked = not trainer.training and trainer.num_sanity_val_steps > 0
                kept = self._resumed and loader.persistent_workers and (later or checked)
                loader.begin(self, kept_workers=kept)
                self._watched.append(loader)
        elif trainer.training and not hasattr(loader, "state_dict"):
            of = f" of {type(loader.dataset).__name__}" if hasattr(loader, "dataset") else ""
            raise MisconfigurationException(
                f"ExactResume cannot find its place again in a {type(loader).__name__}{of}: use a "
                "DataLoader of a map-style dataset, or a loader with state_dict and "
                "load_state_dict, such as torchdata's StatefulDataLoader"
            )
        return loader

    # ------------------------------------------------------------------------------- saving

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: State
    ) -> None:
        """Add the state to a checkpoint."""
        loop = _loop(trainer)
        batch, epoch = loop.epoch_loop.batch_progress.current, loop.epoch_progress.current
        ended = epoch.processed == epoch.started
        if self.in_batch():
            rank_zero_warn(
                "this checkpoint is written in the middle of a batch: resuming from it starts "
                "the batch again, which is not exact"
            )
        logged = {} if ended else loop.epoch_loop._results
        # Lightning resets what it logged at the end of the epoch, or of the validation.
        reset = list(loop.epoch_loop.val_loop._results.values())
        reset += loop.epoch_loop._results.values() if ended else ()
        leave = {id(item.value) for item in reset if not item.is_tensor}
        accumulating = not pl_module.automatic_optimization or loop._should_accumulate()
        checkpoint[KEY] = {
            "random": _states(self.generators()),
            "batch_ended": not ended and batch.completed < batch.processed,
            "callback_metrics": dict(trainer.callback_metrics),
            "logged_metrics": dict(trainer.logged_metrics),
            "results": {k: _dump_result(v) for k, v in logged.items() if not v.has_reset},
            "metrics": {
                name: _dump_metric(metric)
                for name, metric in _metrics(pl_module).items()
                if id(metric) not in leave
            },
            "gradients": {
                name: parameter.grad
                for name, parameter in pl_module.named_parameters()
                if accumulating and not ended and parameter.grad is not None
            },
        }

    # ----------------------------------------------------------------------------- resuming

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: State
    ) -> None:
        """Take the state out of a checkpoint."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._saved = checkpoint.get(KEY, {})
        self._random, self._resumed = self._saved.get("random", {}), bool(self._saved)
        if not self._saved:
            rank_zero_warn(
                "the checkpoint was written without ExactResume: the run goes on with other "
                "random numbers than an uninterrupted one"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what is not random."""
        saved, self._saved = self._saved, {}
        if not saved:
            return
        for loader in self._watched:
            drawing = type(loader.dataset) is not TensorDataset
            if loader.num_workers and loader.persistent_workers and drawing:
                rank_zero_warn(
                    "no checkpoint holds the random states of persistent workers: if the dataset "
                    f"({type(loader.dataset).__name__}) draws random numbers, the resumed run "
                    "is not exact"
                )
        for name, parameter in pl_module.named_parameters():
            if name in saved["gradients"]:
                parameter.grad = saved["gradients"][name].to(parameter.device)
        metrics = _metrics(pl_module)
        for name in saved["metrics"].keys() & metrics.keys():
            _load_metric(metrics[name], saved["metrics"][name])
        trainer.callback_metrics.update(saved["callback_metrics"])
        trainer.logged_metrics.update(saved["logged_metrics"])
        if saved["results"]:
            results = trainer.fit_loop.epoch_loop._results
            for key, item in saved["results"].items():
                results[key] = _load_result(item, trainer)
            trainer._logger_connector._first_loop_iter = False  # or they would be reset
        _catch_up(trainer, batch_ended=saved["batch_ended"])
        if differing := sorted(self.generators().keys() ^ self._random.keys()):
            rank_zero_warn(f"the checkpoint and this run have other generators: {differing}")

    # The random states come last, whatever drew numbers until then. One of the hooks below is the
    # first to be called where the training goes on, or a loader in the middle of an epoch.

    def restore(self) -> None:
        """Set the generators to the states of the checkpoint, once."""
        if not self._fit().sanity_checking:
            _set_states(self.generators(), self._random)
            self._random = {}

    def generators(self) -> dict[str, Any]:
        """Return every generator whose state is kept, by name."""
        return _generators(self._fit())

    def in_batch(self) -> bool:
        """Tell whether a batch was fetched and isn't done with."""
        batch = _loop(self._fit()).epoch_loop.batch_progress.current
        return bool(batch.ready > batch.processed)

    def _fit(self) -> Trainer:
        if self._trainer is None:
            raise RuntimeError("ExactResume is used outside of Trainer.fit")
        return self._trainer

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin an epoch, the first one of a resumed run perhaps."""
        self.restore()
        for loader in self._watched:
            loader._to_load = None  # a place in the epoch before

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End an epoch, of which perhaps only the end was left."""
        self.restore()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a validation, before which the checkpoint was written perhaps."""
        self.restore()


class _Resumable(DataLoader[Any]):
    """What a DataLoader becomes for the time of a fit: Lightning asks it for its state."""

    own = ("callback", "_place", "_to_load", "_kept_workers")  # what `begin` gives it

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the user's loader: a fit that failed leaves this one behind."""
        plain = {name: value for name, value in vars(self).items() if name not in self.own}
        return object.__new__, (type(self).__mro__[2],), plain

    def begin(self, callback: ExactResume, *, kept_workers: bool) -> None:
        self.callback = callback
        self._place: State | None = None  # in the epoch that goes on
        self._to_load: State | None = None
        self._kept_workers = kept_workers  # an uninterrupted run would have persistent ones by now

    def state_dict(self) -> State:
        place = dict(self._place or {})
        if place and self.callback.in_batch():
            place["batches"] -= 1
        return place

    def load_state_dict(self, state: State) -> None:
        self._to_load = state or None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator function: nothing is drawn until the first batch is asked for, which in a
        # resumed run is the same moment as in one that wasn't interrupted.
        self.callback.restore()
        generators = self.callback.generators()
        now = _states(generators)
        if self._kept_workers:
            self._kept_workers = False
            super().__iter__()  # new workers draw a seed, which those kept from before didn't
            _set_states(generators, now)
        place, self._to_load = self._to_load, None
        if place:
            _set_states(generators, place["start"])
        skip = place["batches"] if place else 0
        self._place = {"start": _states(generators), "batches": skip}
        iterator = super().__iter__()
        if place:
            for _ in range(skip):
                next(iterator)
            _set_states(generators, now)
        for batch in iterator:
            self._place["batches"] += 1
            yield batch


# ------------------------------------------------------------------------------ random states


def _generators(trainer: Trainer) -> dict[str, Any]:
    """Name the global generators and those that the model, the datamodule and the loaders own."""
    found: dict[str, Any] = {"python": random, "numpy": np.random, "torch": torch.default_generator}
    found |= {f"cuda.{i}": g for i, g in enumerate(torch.cuda.default_generators)}
    owners: dict[str, Any] = dict(trainer.lightning_module.named_modules(prefix="model"))
    owners["datamodule"] = getattr(trainer, "datamodule", None)
    for part, loaders in (("train", trainer.train_dataloader), ("val", trainer.val_dataloaders)):
        for i, loader in enumerate(tree_leaves(loaders)):
            owners[f"{part}.{i}"] = loader
            for name in ("sampler", "batch_sampler", "dataset"):
                owners[f"{part}.{i}.{name}"] = getattr(loader, name, None)
    seen = {id(generator) for generator in found.values()}  # many hold the same one
    kinds = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
    for owner, thing in owners.items():
        for name, value in getattr(thing, "__dict__", {}).items():
            if isinstance(value, kinds) and id(value) not in seen:
                seen.add(id(value))
                found[f"{owner}.{name}"] = value
    return found


def _states(generators: dict[str, Any]) -> State:
    return {name: _plain(_state(generator)) for name, generator in generators.items()}


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if hasattr(generator, "getstate") else generator.get_state()


def _set_states(generators: dict[str, Any], states: State) -> None:
    for name in generators.keys() & states.keys():
        generator, state = generators[name], states[name]
        if isinstance(generator, np.random.Generator):
            generator.bit_generator.state = state
        elif hasattr(generator, "setstate"):
            generator.setstate(state)
        else:
            generator.set_state(state.cpu() if isinstance(state, torch.Tensor) else state)


def _plain(state: Any) -> Any:
    """Replace NumPy's arrays by lists, which load with `weights_only=True`."""
    if isinstance(state, np.ndarray):
        return state.tolist()
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    return tuple(map(_plain, state)) if isinstance(state, tuple) else state


# ----------------------------------------------------------------------------------- averages

_META = [f.name for f in fields(_Metadata) if f.name not in ("reduce_fx", "_sync")]
_VALUES = ("value", "cumulated_batch_size", "_forward_cache")
_REDUCTIONS = (torch.mean, torch.sum, torch.max, torch.min, sum, max, min)


def _dump_result(item: _ResultMetric) -> State:
    """Return what one `self.log` has gathered in this epoch."""
    values = {name: vars(item).get(name) for name in _VALUES}
    return {
        "meta": {name: getattr(item.meta, name) for name in _META},
        "reduction": _REDUCTIONS.index(item.meta.reduce_fx),
        "sync": {"_should": item.meta.sync.should, "rank_zero_only": item.meta.sync.rank_zero_only},
        "values": {name: v for name, v in values.items() if isinstance(v, torch.Tensor)},
        "count": item._update_count,
        "is_tensor": item.is_tensor,
    }


def _load_result(state: State, trainer: Trainer) -> _ResultMetric:
    meta = _Metadata(**state["meta"], reduce_fx=_REDUCTIONS[state["reduction"]])
    meta.sync = _Sync(fn=trainer.strategy.reduce, **state["sync"])
    item = _ResultMetric(meta, state["is_tensor"])
    vars(item).update(state["values"], _update_count=state["count"])
    if not item.is_tensor:
        item.value = trainer.lightning_module.get_submodule(meta.metric_attribute or "")
    return item


def _metrics(model: LightningModule) -> dict[str, Metric]:
    modules = dict(model.named_modules())
    for module in modules.values():
        if isinstance(module, MetricCollection):
            module.values()  # lets metrics that share their states have them each
    return {name: module for name, module in modules.items() if isinstance(module, Metric)}


def _dump_metric(metric: Metric) -> State:
    states = {k: list(v) if isinstance(v, list) else v for k, v in metric.metric_state.items()}
    return {"states": states, "count": metric._update_count}


def _load_metric(metric: Metric, state: State) -> None:
    for name, value in state["states"].items():
        moved = tree_map(lambda tensor: tensor.to(metric.device), value)
        setattr(metric, name, moved)
    metric._update_count = state["count"]
    metric._computed = None


# -------------------------------------------------------------------------- Lightning's loops


def _loop(trainer: Trainer) -> Any:
    return trainer.fit_loop


def _finish_batch(trainer: Trainer, batch_ended: bool) -> None:
    """Tell the loops, before they look at their counters, that the batch or the epoch is over.

    The hook that writes a checkpoint runs before that is counted, and Lightning infers from the
    counters where it was; what it infers skips the rest of the step or, with `max_steps`, runs the
    end of the epoch again.
    """
    loop = _loop(trainer)
    progress = loop.epoch_loop.batch_progress
    if loop.epoch_progress.current.processed == loop.epoch_progress.current.started:
        cast("Any", _Loop.restarting).fset(loop, False)
    elif batch_ended:
        for count in (progress.total, progress.current):
            count.completed = count.processed


def _catch_up(trainer: Trainer, batch_ended: bool) -> None:
    """Do what follows in Lightning on the hook in which the checkpoint was written."""
    loop = _loop(trainer)
    epoch_loop, val_loop = loop.epoch_loop, loop.epoch_loop.val_loop
    if loop.resumed_on_epoch_end:
        for config in trainer.lr_scheduler_configs:
            due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
            if config.reduce_on_plateau and due and trainer.lightning_module.automatic_optimization:
                metric = trainer.callback_metrics[str(config.monitor)]
                trainer.lightning_module.lr_scheduler_step(config.scheduler, metric)
    elif batch_ended and epoch_loop._should_check_val_fx(loop._data_fetcher):
        val_loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION  # begin with it
        val_loop.batch_progress.reset_on_run()
    elif batch_ended:
        epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
        if not epoch_loop._should_accumulate():
            epoch_loop._batches_that_stepped += 1
    loop._restarting = False  # or schedules that watch a metric miss the end of this epoch
