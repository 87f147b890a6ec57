"""`python -m lightning_modules.comparison`: what each part buys, on digits."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from lightning_modules.comparison import report
from lightning_modules.comparison.choices import CHOICES, EPOCHS, HIDDEN, Setting, beside
from lightning_modules.comparison.training import train
from lightning_modules.data import DigitsDataModule
from lightning_modules.errors import explained
from lightning_modules.experiments import Job, Result, at_least, finish, key_of, load, save
from lightning_modules.files import check_folder, relative

Groups = Mapping[str, Mapping[str, Setting]]
PROG = "lightning_modules.comparison"
TUNING_SEED = 1000  # one that the comparison does not use
EXAMPLES = f"""examples:
  python -m {PROG}                          # everything, with two workers
  python -m {PROG} --only optimizer batch_size --seeds 5
  python -m {PROG} --tune                   # try the learning rates beside those of the table

Finished trainings are kept in runs.json: an interrupted command goes on, and one with more seeds or
other epochs runs what is missing. Each choice has a learning rate of its own, and the best epoch of
a training is chosen by the dev set; the test set is read once, at that epoch.
"""


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROG}",
        description="Train digits with one choice changed at a time around a base (initialization, "
        "batch norm, dropout, L2, optimizer, batch size, decay); write a table and pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=list(CHOICES), default=list(CHOICES), metavar="GROUP",
        help=f"compare these alone: {', '.join(CHOICES)}")  # fmt: skip
    add("--seeds", type=at_least(1), default=3, help="trainings of each choice; default 3")
    add("--epochs", type=at_least(1), default=EPOCHS, help=f"of each training; default {EPOCHS}")
    add("--subset", type=float, default=1.0, help="share of the training set, in (0, 1]; default 1")
    add("--workers", type=at_least(1), default=2, help="processes, of one thread each; default 2")
    add("--out", type=Path, default=Path("runs/comparison"), help="folder of comparison.md, "
        "comparison.csv and images/; default runs/comparison")  # fmt: skip
    add("--runs", type=Path, default=Path("runs/comparison/runs.json"), help="where finished "
        "trainings are kept; default runs/comparison/runs.json")  # fmt: skip
    add("--fresh", action="store_true", help="repeat finished trainings: after a change of the "
        "code, which they don't know of")  # fmt: skip
    add("--tune", action="store_true", help="train each choice with its learning rate, a third of "
        "it and three times as much, from another seed, and print what is best")  # fmt: skip
    options = parser.parse_args(args)
    if not 0 < options.subset <= 1:
        parser.error(f"--subset must be a fraction in (0, 1], got {options.subset}")
    return options


def job(name: str, setting: Setting, seed: int, options: argparse.Namespace) -> Job:
    """Return one training, known by all that it depends on; the same setting twice is one."""
    train_it = partial(train, setting, seed, options.epochs, options.subset)
    key = key_of(asdict(setting), HIDDEN, seed, options.epochs, options.subset)
    return Job(f"{name}, seed {seed}", key, train_it)


def run(
    settings: Mapping[str, Setting], seeds: Sequence[int], options: argparse.Namespace
) -> dict[str, list[Result]]:
    """Train every setting from every seed, and return the results by setting and seed.

    Raises:
        KeyboardInterrupt: what is finished has been kept.
    """
    runs = load(options.runs, "--runs")
    jobs = {key: [job(key, s, seed, options) for seed in seeds] for key, s in settings.items()}
    # Stochastic gradient descent takes longest: first, so that no worker ends alone with it.
    size = {key: setting.batch_size for key, setting in settings.items()}
    order = sorted(jobs, key=lambda key: math.inf if size[key] == "all" else size[key])
    todo = [each for key in order for each in jobs[key]]
    finish(todo, runs, partial(save, options.runs), options.workers, fresh=options.fresh)
    return {key: [runs[each.key] for each in jobs[key]] for key in settings}


def main(args: Sequence[str] | None = None) -> int:
    """Train what is missing, write everything, return 0; 1 if it was interrupted.

    Raises:
        SystemExit: code 2 and a line or two on stderr, for a mistake in args.
    """
    options = arguments(args)
    groups = {group: CHOICES[group] for group in options.only}
    with explained():
        check_folder("--runs", options.runs.parent)
        if not options.tune:
            check_folder("--out", options.out)
        DigitsDataModule(subset=options.subset).setup()  # says here if a class is left out
    try:
        if options.tune:
            tune(groups, options)
        else:
            compare(groups, options)
    except KeyboardInterrupt:
        typed = shlex.join(sys.argv[1:] if args is None else args)
        print(f"\ninterrupted; what is finished is kept: python -m {PROG} {typed}")
        return 1
    return 0


def named(groups: Groups) -> dict[str, Setting]:
    """Return the settings by group and choice: "none" is a choice of several groups."""
    return {
        f"{group}: {name}": setting
        for group, choices in groups.items()
        for name, setting in choices.items()
    }


def compare(groups: Groups, options: argparse.Namespace) -> None:
    """Train every choice, write the page, the table and the picture, print the table."""
    found = run(named(groups), range(options.seeds), options)
    results = {
        group: {name: found[f"{group}: {name}"] for name in choices}
        for group, choices in groups.items()
    }
    report.show(report.table(groups, results))
    for path in report.write(options.out, groups, results, options.epochs, options.subset):
        print(relative(path))


def tune(groups: Groups, options: argparse.Namespace) -> None:
    """Train every choice with the learning rates beside its own, and print which is best."""
    choices = named(groups)
    settings = {
        f"{name}, α = {lr:g}": replace(setting, lr=lr)
        for name, setting in choices.items()
        for lr in beside(setting.lr)
    }
    found = run(settings, [TUNING_SEED], options)
    results = {
        name: {lr: found[f"{name}, α = {lr:g}"] for lr in beside(setting.lr)}
        for name, setting in choices.items()
    }
    print("\n".join(report.rates(results)))


if __name__ == "__main__":
    sys.exit(main())
