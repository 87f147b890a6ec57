"""The command line: `python -m lightning_modules fit | validate | test --config mlp ...`.

A run writes to `runs/<name>/version_<n>/`: config.yaml, metrics.csv, summary.json, pictures, and
checkpoints/best.ckpt (of the best epoch by the dev set) and last.ckpt.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from jsonargparse import Namespace
from jsonargparse.typing import ClosedUnitInterval, PositiveInt
from lightning_utilities.core.imports import RequirementCache
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
)
from pytorch_lightning.cli import ArgsType, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from lightning_modules.callbacks import HowToGoOn, Pictures, is_trial, progress, run_folder
from lightning_modules.classifier import Classifier
from lightning_modules.data import ClassificationData, DigitsDataModule
from lightning_modules.data_openml import OpenMLDataModule  # noqa: F401 (--data knows what is imported)
from lightning_modules.data_sources import CSVDataModule  # noqa: F401
from lightning_modules.errors import Parser, UserError, explained, of_data, stop
from lightning_modules.files import (
    SUBCOMMANDS,
    check_folder,
    command,
    find_checkpoint,
    load_checkpoint,
    relative,
    with_configs,
)
from lightning_modules.gradient_flow import GradientFlow  # noqa: F401 (--trainer.callbacks, too)
from lightning_modules.option_checks import (
    check_epochs,
    check_length,
    check_monitor,
    check_net,
    check_outputs,
    check_schedule,
    fit_sizes,
)
from lightning_modules.quiet import quiet
from lightning_modules.resume import ExactResume
from lightning_modules.summary import Summary, show, summarize

PROG = "python -m lightning_modules"
TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs",
    "devices": 1,  # the data is far too small to be shared out
    "log_every_n_steps": 1,  # all is logged per epoch; more than an epoch's batches gives a warning
    "enable_model_summary": False,
}


class TrainCLI(LightningCLI):
    """Lightning's command line for a classifier, with its callbacks, loggers and summary.

    Attributes:
        summary: what a fit came to; None before, and after a `--trainer.fast_dev_run`.
    """

    summary: Summary | None = None
    datamodule: ClassificationData
    model: Classifier

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Name the subcommands, each with the arguments that are not options."""
        every = LightningCLI.subcommands()
        return {name: {*every[name], "weights_only", "verbose"} for name in SUBCOMMANDS}

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Add the options of the run, of `--early_stopping` and of `--checkpoint`."""
        parser.set_defaults({"data": {"class_path": "lightning_modules.DigitsDataModule"}})
        parser.link_arguments("model.implementation", "model.net.init_args.implementation")
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Folder below trainer.default_root_dir; by default the name of the config.",
        )
        parser.add_argument(
            "--read_test",
            type=bool,
            default=True,
            help="Read the test set once, at the end of fit; false for tuning runs.",
        )
        parser.add_argument(
            "--human_error",
            type=ClosedUnitInterval | None,
            default=None,
            help="Share of labels that people get wrong, such as 0.01: tells avoidable bias at the "
            "end of fit. By default 0 for the digits, unknown for other data.",
        )
        parser.add_argument(
            "--threads",
            type=PositiveInt | None,
            default=1,
            help="Threads on the CPU; null leaves it to torch. One is the fastest for nets as "
            "small as these, and gives the same numbers however many cores there are.",
        )
        parser.add_argument(
            "--save_every",
            type=PositiveInt | None,
            default=None,
            help="Write last.ckpt every so many steps too, and not at an epoch's end alone. A run "
            "that goes on from it with --ckpt_path last has the numbers of one never interrupted.",
        )
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        by_dev_loss = {"monitor": "dev_loss", "mode": "min"}
        checkpoint = {"filename": "best", "save_last": True, "enable_version_counter": False}
        groups: dict[str, dict[str, Any]] = {
            "early_stopping": {**by_dev_loss, "patience": 20},
            "checkpoint": {**by_dev_loss, **checkpoint},
        }
        for group, defaults in groups.items():
            parser.set_defaults({f"{group}.{key}": value for key, value in defaults.items()})

    def parse_arguments(self, parser: Any, args: ArgsType) -> None:
        """Parse; args is never None here, and no warning is due for that."""
        self.config = parser.parse_args(args)
        seed = self.config[self.config.subcommand].seed_everything
        if seed not in (True, False, None) and not 0 <= seed < 2**32:
            raise UserError(f"--seed_everything must be from 0 to 2**32 - 1, got {seed}")

    def _parse_ckpt_path(self) -> None:
        """Leave the configuration as given; Lightning would let the checkpoint's override it."""

    def before_instantiate_classes(self) -> None:
        """Name the run and find its checkpoint."""
        config = self.config[self.subcommand]
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        check_folder("--trainer.default_root_dir", config.trainer.default_root_dir)
        if not config.name:
            config.name = Path(str(config.config[-1])).stem if config.config else "run"
        for group in ("early_stopping", "checkpoint"):
            check_monitor(group, config[group].monitor, config[group].mode)
        if self.subcommand == "fit":
            check_length(config.trainer)
        self._checkpoint: dict[str, Any] | None = None
        if config.ckpt_path:
            runs = Path(config.trainer.default_root_dir) / config.name
            path = find_checkpoint(str(config.ckpt_path), runs)
            self._checkpoint = load_checkpoint(path)
            config.ckpt_path = str(path)
        elif self.subcommand != "fit":
            raise UserError(
                f"{self.subcommand} needs --ckpt_path: a file, or best or last for the newest run"
            )

    def instantiate_classes(self) -> None:
        """Build everything, and try the optimizer and the checkpoint, so that mistakes show now."""
        with explained():
            data = self._read_data()
            super().instantiate_classes()
            self.datamodule.take(data)
            check_schedule(self.model.configure_optimizers())
            if self.subcommand == "test" and not self.datamodule.fractions["test"]:
                raise UserError("test: there is no test set, since --data.test is 0")
            normalized = any(isinstance(m, nn.BatchNorm1d) for m in self.model.modules())
            if self.datamodule.batch_size == 1 and normalized and self.subcommand == "fit":
                raise UserError("--data.batch_size 1: batch norm needs 2 examples or more")
            if self._checkpoint:
                path = self.config[self.subcommand].ckpt_path
                check_net(path, self._checkpoint, self.model)
                if state := self._checkpoint.get(type(self.datamodule).__qualname__):
                    self.datamodule.load_state_dict(state)
                if self.subcommand == "fit":
                    check_epochs(path, self._checkpoint, self.trainer.max_epochs)
        check_outputs(self.model, data)  # runs the net, whose errors are its own

    def _read_data(self) -> ClassificationData:
        """Build and read the data ahead of the net, whose sizes follow it."""
        config = self.config[self.subcommand]
        only = Namespace(data=config.data)  # type: ignore[no-untyped-call]
        parser = Parser()
        parser.add_subclass_arguments(ClassificationData, "data")
        try:
            data: ClassificationData = parser.instantiate(only).data
            data.setup()
        except ValueError as error:
            raise ValueError(of_data(str(error), config.data.init_args)) from error
        fit_sizes(config.model, data)
        return data

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with loggers, progress, pictures and the learning rate's record."""
        config = self.config_init[self.subcommand].trainer
        if config.logger in (None, True):
            kwargs["logger"] = self._loggers(Path(config.default_root_dir))
        elif config.logger:
            given = config.logger if isinstance(config.logger, list) else [config.logger]
            has_csv = any(isinstance(logger, CSVLogger) for logger in given)
            kwargs["logger"] = given if has_csv else [*self._loggers(Path("runs"))[:1], *given]
        else:
            kwargs["default_root_dir"] = str(Path(config.default_root_dir, self._name))
        if config.fast_dev_run:  # writes nothing; Lightning would keep last.ckpt
            self.config_init[self.subcommand].checkpoint.save_last = False
        callbacks = config.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        if config.enable_progress_bar is not False and not _has(callbacks, ProgressBar):
            callbacks = [*callbacks, progress()]
            kwargs["enable_progress_bar"] = _has(callbacks, ProgressBar)
        if self.subcommand == "fit" and config.logger is not False:
            callbacks = [*callbacks, LearningRateMonitor(self.model.interval)]
        kwargs["callbacks"] = [ExactResume(), *callbacks, Pictures(), HowToGoOn()]
        trainer: Any = super().instantiate_trainer(**kwargs)
        if every := self.config_init[self.subcommand].save_every:
            between = ModelCheckpoint(
                filename="last", every_n_train_steps=every, enable_version_counter=False
            )
            trainer.callbacks.append(between)  # the first one is asked for the best epoch
        return cast("Trainer", trainer)

    def _loggers(self, root: Path) -> list[Logger]:
        name = self._name
        if self.subcommand != "fit":
            name = f"{name}/{self.subcommand}"  # a folder of its own: version_<n> are trainings
        csv = CSVLogger(str(root), name=name)
        loggers: list[Logger] = [csv]
        if RequirementCache("tensorboard") or RequirementCache("tensorboardX"):
            loggers.append(TensorBoardLogger(str(root), name=name, version=csv.version))
        return loggers

    @property
    def _name(self) -> str:
        return str(self.config[self.subcommand].name)

    def before_fit(self) -> None:
        """Say what is about to be trained, and where it goes."""
        parameters = sum(p.numel() for p in self.model.parameters())
        config = self.config["fit"]
        print(
            f"training {config.name}: {parameters:,} parameters, {config.model.implementation} "
            f"layers, seed {config.seed_everything}, {self.trainer.strategy.root_device}, "
            f"to {relative(run_folder(self.trainer))}",
            flush=True,
        )
        if config.ckpt_path:
            print(
                f"going on from {config.ckpt_path}: best.ckpt will be the best epoch from here on"
            )
        self._start = time.perf_counter()

    def after_fit(self) -> None:
        """Measure the best checkpoint and say what to do next."""
        seconds = time.perf_counter() - self._start
        if is_trial(self.trainer) or not self.trainer.is_global_zero:
            return
        if self.trainer.world_size > 1:
            print("no summary: it is made by runs on one device")
            return
        config = self.config["fit"]
        human = self.datamodule.human_error if config.human_error is None else config.human_error
        if bar := self.trainer.progress_bar_callback:
            bar.disable()
        self.summary = summarize(
            self.trainer,
            self.model,
            self.datamodule,
            human_error=human,
            folder=run_folder(self.trainer),
            name=config.name,
            seed=config.seed_everything,
            seconds=seconds,
            read_test=config.read_test,
        )
        show(self.summary, command(), digits=isinstance(self.datamodule, DigitsDataModule))

    def after_validate(self) -> None:
        """Say where the picture is."""
        print(f"written to {relative(run_folder(self.trainer))}")

    def after_test(self) -> None:
        """Say where the picture is."""
        self.after_validate()


def _has(callbacks: list[Any], kind: type) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def main(args: list[str] | None = None) -> TrainCLI:
    """Run one command.

    Args:
        args: what follows the program's name; by default that of this process.

    Returns:
        The finished command line: `trainer`, `model`, `datamodule`, `summary`.

    Raises:
        SystemExit: code 2 and a line or two on stderr, for a mistake in args; 1 or 143, if the
            training was interrupted by SIGINT or SIGTERM.
    """
    quiet()
    try:
        return TrainCLI(
            Classifier,
            ClassificationData,
            subclass_mode_data=True,
            parser_class=Parser,
            parser_kwargs={
                "prog": PROG,
                "description": "Train, validate and test a net on digits, or on data of yours.",
            },
            trainer_defaults=TRAINER_DEFAULTS,
            # Each run has a folder of its own, except with trainer.logger=false.
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            args=with_configs(list(sys.argv[1:] if args is None else args)),
        )
    except SIGTERMException as error:  # its code is that of success
        raise SystemExit(128 + signal.SIGTERM) from error
    except UserError as error:
        stop(str(error))
