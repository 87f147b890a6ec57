"""`python -m lightning_modules.tuning`: a search at random, coarse to fine."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import optuna
import yaml
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from lightning_modules.cli import main as train
from lightning_modules.errors import UserError, explained, stop
from lightning_modules.experiments import at_least
from lightning_modules.files import check_folder, command, find_config, relative
from lightning_modules.tuning.objective import Settings
from lightning_modules.tuning.results import Watcher, show, write
from lightning_modules.tuning.space import find_space, load_space, suggest
from lightning_modules.tuning.workers import (
    Shared,
    finished,
    hopeless,
    run_workers,
    settings_of,
)

EXAMPLES = """examples:
  python -m lightning_modules.tuning --config mlp --trials 40 --workers 2
  python -m lightning_modules.tuning --config mlp --space mine.yaml --objective dev_error
  python -m lightning_modules.tuning --study mlp --resume --trials 80
  python -m lightning_modules.tuning --config mlp --storage postgresql://user@host/tuning
      on several machines: they share the study; every one of them draws other trials

An interrupted study (Ctrl-C, or killed) goes on with the same command: finished trials are kept and
those that were running are tried again. The test set is never read; the trial with the best dev set
is written to best.yaml:
  python -m lightning_modules fit --config runs/tune/mlp/best.yaml
"""


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m lightning_modules.tuning",
        description="Search for hyperparameters: at random (never on a grid), on log scales where "
        "they belong, coarse to fine, with many workers on one study.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-c", "--config", help="what every trial starts from: a file, or mlp or conv; default mlp")
    add("--space", help="YAML file of what is searched; by default the one that comes with mlp or "
        "conv: copy lightning_modules/tuning/spaces/mlp.yaml to write your own")  # fmt: skip
    add("--trials", type=at_least(1), default=40, help="finished trials in all; default 40")
    add("--workers", type=at_least(1), default=1, help="processes, of one thread each; default 1")
    add("--epochs", type=at_least(1), default=10, help="epochs of each trial; default 10")
    add("--objective", choices=["dev_loss", "dev_error"], default="dev_loss", help="what is "
        "minimized: that of a trial's best epoch; default dev_loss")  # fmt: skip
    add("--rounds", type=at_least(1), default=2, help="the first one draws from the whole space, "
        "each further one from a box around the best so far; default 2; 1: random search "
        "alone")  # fmt: skip
    add("--best", type=at_least(2), default=5, help="trials that a box is put around; default 5")
    add("--sampler", choices=["random", "tpe"], default="random", help="tpe: Optuna's tree "
        "of Parzen estimators instead of rounds")  # fmt: skip
    add("--pruner", choices=["median", "none"], default="median", help="median: give up a trial "
        "that is worse than the median of earlier ones at the same epoch (default)")  # fmt: skip
    add("--seed", type=at_least(0), default=0, help="of the draws; default 0")
    add("--study", help="name of the study and of its folder; by default the configuration's")
    add(
        "--out", type=Path, default=Path("runs/tune"), help="where its folder is; default runs/tune"
    )
    add("--storage", metavar="URL", help="database for several machines, such as "
        "postgresql://user@host/db; by default study.db in the study's folder")  # fmt: skip
    add("--heartbeat", type=at_least(1), default=5, metavar="SECONDS", help="a worker that gives "
        "no sign of life for six times as long is taken for dead, and its trial is tried again; "
        "default 5")  # fmt: skip
    add("--resume", action="store_true", help="go on with a study that is there, with the settings "
        "that it was made with, whatever the other options say")  # fmt: skip
    options = parser.parse_args(args)
    name = options.study
    if name is not None and (name in ("", ".", "..") or set(name) & set("/\\\0")):
        parser.error(f"--study must be a name, not a path, got {name!r}: --out is where it goes")
    return options


def settings(options: argparse.Namespace) -> Settings:
    """Read configuration and space, and have the command line try what they come to.

    Raises:
        ValueError: naming what makes no sense.
    """
    config = options.config or "mlp"
    try:
        base = yaml.safe_load(find_config(config).read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"--config {config}: {error}") from error
    if not isinstance(base, dict):
        raise UserError(f"--config {config}: must be a mapping")
    space = load_space(find_space(options.space, config))
    plain = {
        row.name: {k: v for k, v in asdict(row).items() if k != "name" and v is not None}
        for row in space
    }
    return Settings(
        config=base,
        space=plain,
        epochs=options.epochs,
        measure=options.objective,
        seed=options.seed,
        sampler=options.sampler,
        pruner=options.pruner,
        rounds=options.rounds,
        size=math.ceil(options.trials / options.rounds),
        best=options.best,
    )


def check(made: Settings, folder: Path) -> None:
    """Have the command line parse one configuration: wrong keys show before any training.

    Raises:
        SystemExit: code 2 and a line or two on stderr.
    """
    trial = optuna.create_study().ask()
    drawn = made.configuration(suggest(made.rows(), trial))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "check.yaml"
    path.write_text(yaml.safe_dump(drawn, sort_keys=False))
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train(["fit", "--config", str(path), "--print_config"])
    except SystemExit as done:
        if done.code:
            raise
    path.unlink()


def main(args: Sequence[str] | None = None) -> int:
    """Search, and return 0; 1 if trials are missing.

    Raises:
        SystemExit: code 2 and a line or two on stderr, for a mistake in args.
    """
    options = arguments(args)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = options.study or Path(options.config or "mlp").stem
    folder = options.out / name
    url = options.storage or f"sqlite:///{folder / 'study.db'}"
    shared = Shared(url, name, options.trials, options.heartbeat)
    with explained():
        check_folder("--out", folder)
        if options.resume and not options.storage and not (folder / "study.db").is_file():
            raise UserError(f"--resume: there is no study in {folder}")
        made = None if options.resume else settings(options)
        if made:
            check(made, folder)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            study = shared.open(made)
            kept = settings_of(study)
        except KeyError:
            stop(f"--resume: there is no study {name} in {url}")
        except (SQLAlchemyError, StorageInternalError, ImportError) as error:
            stop(f"--storage {url}: {str(error).splitlines()[0]}")
    before = len(finished(study))
    print(
        f"study {name} in {relative(folder)}: {options.trials} trials of {kept.epochs} epochs, "
        + (f"{before} are there, " if before else "")
        + f"minimizing {kept.measure}, {options.workers} worker(s)",
        flush=True,
    )
    with Watcher(study, options.trials) as watch:
        through = before >= options.trials or run_workers(shared, folder, options.workers, watch)
    missing = options.trials - len(finished(study))
    written = write(study, folder)
    show(study)
    for path in written:
        print(relative(path))
    if failure := hopeless(study):
        stop(f"every trial failed, the last one with {failure}", f"(see {relative(folder)}/trials)")
    python = command().split(" ")[0]
    if missing > 0:
        typed = shlex.join(sys.argv[1:] if args is None else args)
        why = "a worker failed" if through else "interrupted"
        print(f"\n{why}: {missing} trials are missing; to go on: {python} -m {_PROG} {typed}")
        return 1
    if (folder / "best.yaml").is_file():
        print(f"\nnext:\n  {command()} fit --config {shlex.quote(relative(folder / 'best.yaml'))}")
    return 0


_PROG = "lightning_modules.tuning"

if __name__ == "__main__":
    sys.exit(main())
