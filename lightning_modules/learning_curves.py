"""`python -m lightning_modules.learning_curves`: errors against the size of the training set.

What it shows: where both curves have met far above the human error, more data won't help (bias);
where the dev error still falls towards the train error, more data will (variance).

Source: lecture, "Bias and variance", "Basic recipe for machine learning".
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from lightning_modules import plots
from lightning_modules.bias_variance import diagnose
from lightning_modules.errors import UserError, stop
from lightning_modules.experiments import (
    Job,
    Runs,
    at_least,
    configuration,
    finish,
    fit,
    key_of,
    load,
    save,
)
from lightning_modules.files import check_folder, relative

PROG = "lightning_modules.learning_curves"
EXAMPLES = f"""examples:
  python -m {PROG}
  python -m {PROG} --config conv --fractions 0.1 0.3 1 --seeds 5 --workers 2
  python -m {PROG} --human_error 0.01 -- --data CSVDataModule --data.path table.csv --data.target y
  python -m {PROG} -- --model.l2 1 --trainer.max_epochs 80

A smaller training set is part of each larger one, with the classes in the same shares; inputs are
standardized by its mean and standard deviation. The dev set is the same for all, the test set is
not read. A seed is one draw of the examples, their order, the initial weights and the dropout
masks. Every training has the epochs of the configuration, and its best one by the dev set counts.

Finished trainings are kept in runs.json: an interrupted command goes on, and other options are
other trainings. Of a data file that was changed it does not know: --fresh.
"""
# Options of fit that this command gives itself, and what to say in their place.
OURS = {
    "-c": "give --config before --",
    "--config": "give it before --",
    "--human_error": "give it before --",
    "--data.subset": "that is --fractions, before --",
    "--data.sampling_seed": "that is --seeds, before --",
    "--seed_everything": "that is --seeds, before --",
    "--read_test": "the test set is not read",
    "--trainer.default_root_dir": "that is --out, before --",
    "--trainer.fast_dev_run": "it leaves nothing to draw",
}


def arguments(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {PROG}",
        description="Train on ever larger parts of the training set; draw the errors.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("-c", "--config", default="mlp", help="a file, or mlp or conv; default mlp")
    add("--fractions", nargs="+", type=float, default=[0.05, 0.1, 0.2, 0.4, 0.7, 1.0],
        help="of the training set, in (0, 1]; default 0.05 0.1 0.2 0.4 0.7 1")  # fmt: skip
    add("--seeds", type=at_least(1), default=3, help="trainings of each size; default 3")
    add("--human_error", type=float, help="share of labels that people get wrong, such as 0.01; "
        "by default 0 for the digits, unknown for other data")  # fmt: skip
    add("--workers", type=at_least(1), default=1, help="processes, of one thread each; default 1")
    add("--out", type=Path, help="folder of what is written; default "
        "runs/learning_curves/<config>")  # fmt: skip
    add("--fresh", action="store_true", help="repeat finished trainings")
    add("rest", nargs="*", help="options of fit, after --", metavar="-- OPTION")
    options = parser.parse_args(args)
    if wrong := [f for f in options.fractions if not 0 < f <= 1]:
        parser.error(f"--fractions must be in (0, 1], got {wrong[0]:g}")
    if options.human_error is not None and not 0 <= options.human_error <= 1:
        parser.error(f"--human_error must be a fraction in [0, 1], got {options.human_error:g}")
    for option in options.rest:
        if said := OURS.get(option.partition("=")[0]):
            parser.error(f"{option}: {said}")
    if options.out is None:
        options.out = Path("runs/learning_curves") / Path(options.config).stem
    return options


def jobs_for(options: argparse.Namespace) -> list[Job]:
    """Return a training for every fraction and seed.

    Raises:
        UserError: there is no such configuration.
    """
    config = configuration(options.config)
    human = [] if options.human_error is None else ["--human_error", str(options.human_error)]
    jobs = []
    for fraction in sorted(set(options.fractions)):
        for seed in range(options.seeds):
            args = ["--config", options.config, "--seed_everything", str(seed)]
            args += ["--data.subset", str(fraction), "--data.sampling_seed", str(seed)]
            args += ["--read_test", "false", *human, *options.rest]
            label = f"{options.config}, {fraction:g} of the training set, seed {seed}"
            jobs.append(Job(label, key_of(args, config), partial(fit, args)))
    return jobs


def table(runs: Runs) -> pd.DataFrame:
    """Return a row for each size m: mean, least and largest errors over the seeds, in percent.

    Example:
        >>> run = {"train_total": 10, "train_error": 0.0}
        >>> found = table({"a": {**run, "dev_error": 4.0}, "b": {**run, "dev_error": 6.0}})
        >>> found.loc[0, ["m", "dev_error", "dev_error_max"]].tolist()
        [10.0, 5.0, 6.0]
    """
    frame = pd.DataFrame(list(runs.values())).rename(columns={"train_total": "m"})
    sizes = frame.groupby("m")[["train_error", "dev_error"]]
    ends = [sizes.min().add_suffix("_min"), sizes.max().add_suffix("_max")]
    return pd.concat([sizes.mean(), *ends], axis=1).reset_index()


def show(found: pd.DataFrame) -> None:
    """Print mean, least and largest errors."""
    shown = Table(title="Percent, over the seeds: mean (least–largest)")
    for title in ("m", "train error", "dev error", "variance"):
        shown.add_column(title, justify="right")
    for _, row in found.iterrows():
        cells = [
            f"{row[name]:.2f} ({row[f'{name}_min']:.2f}–{row[f'{name}_max']:.2f})"
            for name in ("train_error", "dev_error")
        ]
        shown.add_row(f"{row['m']:.0f}", *cells, f"{row['dev_error'] - row['train_error']:.2f}")
    Console().print(shown)


def main(args: Sequence[str] | None = None) -> int:
    """Train what is missing, print and write everything, return 0; 1 if it was interrupted.

    Raises:
        SystemExit: code 2 and a line or two on stderr, for a mistake in args.
    """
    options = arguments(args)
    path: Path = options.out / "runs.json"
    try:
        check_folder("--out", options.out)
        runs = load(path)
        jobs, keep = jobs_for(options), partial(save, path)
        found = finish(jobs, runs, keep, options.workers, fresh=options.fresh)
    except UserError as error:
        stop(str(error))
    except KeyboardInterrupt:
        typed = shlex.join(sys.argv[1:] if args is None else args)
        print(f"\ninterrupted; what is finished is kept in {relative(path)}; to go on:\n"
              f"  python -m {PROG} {typed}")  # fmt: skip
        return 1
    errors = table(found)
    show(errors)
    largest = errors.iloc[-1]
    human = next(iter(found.values()))["human_error"]  # in percent, or None
    human = None if human is None else human / 100
    diagnosis = diagnose(largest["train_error"] / 100, largest["dev_error"] / 100, human)
    print("\n".join(diagnosis.lines()))
    errors.to_csv(options.out / "errors.csv", index=False)
    title = f"{Path(options.config).stem}: {diagnosis.verdict}"
    picture = plots.errors_by_size(errors, options.out / "errors.png", human, title)
    for written in (options.out / "errors.csv", picture, path):
        print(relative(written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
