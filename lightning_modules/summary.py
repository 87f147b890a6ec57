"""What a training run came to: accuracies, bias and variance, files, and what to type next."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table
from sklearn.metrics import confusion_matrix
from torch.utils.data import DataLoader

from lightning_modules import plots
from lightning_modules.bias_variance import diagnose
from lightning_modules.classifier import Classifier
from lightning_modules.data import ClassificationData, Part
from lightning_modules.files import to_json, write_whole


@dataclass(frozen=True)
class Measured:
    """How one set was labelled: `right` of `total` examples, and the counts (classes, classes)."""

    right: int
    total: int
    confusion: list[list[int]]

    @property
    def accuracy(self) -> float:
        """Share of right labels, in [0, 1]."""
        return self.right / self.total

    @property
    def error(self) -> float:
        """Share of wrong labels, in percent."""
        return 100 * (1 - self.accuracy)


def measure(
    trainer: Trainer, model: Classifier, batches: DataLoader[tuple[torch.Tensor, ...]]
) -> Measured:
    """Label a set with the trainer's device and precision, and count.

    Args:
        trainer: any trainer.
        model: in any mode; it is evaluated in eval mode.
        batches: images and labels, in a fixed order.

    Returns:
        The counts.
    """
    logits = torch.cat(cast("list[torch.Tensor]", trainer.predict(model, batches)))
    predicted = logits.argmax(dim=1).cpu().numpy()
    labels = torch.cat([batch[1] for batch in batches]).numpy()
    labels = labels[: len(predicted)]  # fewer with trainer.limit_predict_batches
    confusion = confusion_matrix(labels, predicted, labels=range(model.confusion.num_classes))
    return Measured(int(np.trace(confusion)), len(labels), confusion.tolist())


@dataclass(frozen=True)
class Summary:
    """The result of a run; errors, bias and variance in percent, accuracies in [0, 1].

    Bias, variance and what to try are those of `lightning_modules.bias_variance.diagnose`. `test_*`
    is None where the test set was not read, `human_error` and `avoidable_bias` where nobody said.
    """

    name: str
    implementation: str
    seed: int | None
    epochs: int
    seconds: float
    train_error: float
    dev_error: float
    human_error: float | None
    avoidable_bias: float | None
    variance: float
    verdict: str
    next_to_try: list[str]
    dev_accuracy: float
    train_total: int
    test_accuracy: float | None
    test_wrong: int | None
    test_total: int | None
    checkpoint: str
    files: list[str]

    def save(self, path: Path) -> Path:
        """Write JSON."""
        write_whole(path, to_json(asdict(self)))
        return path


def summarize(
    trainer: Trainer,
    model: Classifier,
    data: ClassificationData,
    *,
    folder: Path,
    name: str,
    seed: int | None,
    seconds: float,
    read_test: bool = True,
    human_error: float | None = None,
) -> Summary:
    """Measure the best checkpoint on train, dev and (once) test, draw and write everything.

    Args:
        trainer: the trainer of the fit.
        model: the trained module; it gets the weights of the best checkpoint.
        data: what it was trained on.
        folder: of the run; gets summary.json and the confusion matrices.
        name: of the configuration.
        seed: of the run.
        seconds: that the fit took.
        read_test: False leaves the test set alone, for tuning.
        human_error: share of labels that people get wrong, in [0, 1]; None if nobody knows.

    Returns:
        The summary.
    """
    checkpoint = str(getattr(trainer.checkpoint_callback, "best_model_path", ""))
    epochs = trainer.current_epoch
    if checkpoint:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["state_dict"])
    parts: list[Part] = ["train", "dev"]
    if read_test and data.fractions["test"] > 0:
        parts.append("test")
    found = {part: measure(trainer, model, data.ordered(part)) for part in parts}
    for part in parts[1:]:
        plots.confusion_matrix(
            np.array(found[part].confusion),
            folder / f"confusion_{part}.png",
            title=f"{name}: best checkpoint on the {part} set",
        )
    test = found.get("test")
    train_error, dev_error = found["train"].error, found["dev"].error
    diagnosis = diagnose(1 - found["train"].accuracy, 1 - found["dev"].accuracy, human_error)
    human = None if human_error is None else 100 * human_error
    summary = Summary(
        name=name,
        implementation=model.implementation,
        seed=seed,
        epochs=epochs,
        seconds=round(seconds, 2),
        train_error=train_error,
        dev_error=dev_error,
        human_error=human,
        avoidable_bias=None if human is None else train_error - human,
        variance=dev_error - train_error,
        verdict=diagnosis.verdict,
        next_to_try=diagnosis.next_to_try,
        dev_accuracy=found["dev"].accuracy,
        train_total=found["train"].total,
        test_accuracy=test.accuracy if test else None,
        test_wrong=test.total - test.right if test else None,
        test_total=test.total if test else None,
        checkpoint=checkpoint,
        files=sorted(
            [str(f) for f in folder.iterdir() if f.suffix in (".csv", ".png", ".yaml")]
            + [str(folder / "summary.json")]
        ),
    )
    summary.save(folder / "summary.json")
    return summary


def show(summary: Summary, command: str, *, digits: bool = True) -> None:
    """Print a table, the files and the next commands.

    Args:
        summary: of a run.
        command: what starts this program, such as "python -m lightning_modules".
        digits: whether the data is what every configuration takes without further options.
    """
    # Paths and commands are printed plainly, never wrapped: they are there to be copied.
    console = Console(soft_wrap=True, highlight=False)
    table = Table(title=f"{summary.name} on {summary.implementation}, best epoch by the dev set")
    table.add_column("measure")
    table.add_column("value", justify="right")
    rows: list[tuple[str, float | None]] = [
        ("dev accuracy", 100 * summary.dev_accuracy),
        ("test accuracy", None if summary.test_accuracy is None else 100 * summary.test_accuracy),
        ("train error", summary.train_error),
        ("dev error", summary.dev_error),
        ("human error (assumed)", summary.human_error),
        ("avoidable bias = train - human", summary.avoidable_bias),
        ("variance = dev - train", summary.variance),
    ]
    for label, percent in rows:
        missing = "not read" if label == "test accuracy" else "not given"
        table.add_row(label, missing if percent is None else f"{percent:.2f} %")
    table.add_row("epochs", str(summary.epochs))
    table.add_row("wall time", f"{summary.seconds:.1f} s")
    table.caption = summary.verdict
    console.print(table)
    for line in summary.next_to_try:
        print(f"try {line}")
    print("checkpoint  " + (summary.checkpoint or "none"))
    for file in summary.files:
        print("            " + file)
    print("\nnext:")
    for line in next_commands(summary, command, digits=digits):
        print("  " + line)


def next_commands(summary: Summary, command: str, *, digits: bool = True) -> list[str]:
    """Return commands that can be pasted into a shell.

    Example:
        >>> import dataclasses
        >>> fields = {field.name: None for field in dataclasses.fields(Summary)}
        >>> given = {"name": "mlp", "checkpoint": "runs/mlp/best.ckpt", "test_total": 270}
        >>> run = Summary(**{**fields, **given})
        >>> next_commands(run, "python -m lightning_modules")[1]
        'python -m lightning_modules test --ckpt_path runs/mlp/best.ckpt'
    """
    lines = []
    if summary.checkpoint:
        path = shlex.quote(summary.checkpoint)
        verbs = ("validate", "test") if summary.test_total else ("validate",)
        lines += [f"{command} {verb} --ckpt_path {path}" for verb in verbs]
    if digits:
        other = "mlp" if summary.name == "conv" else "conv"
        lines.append(f"{command} fit --config {other}")
    python = command.split(" ")[0]
    return [*lines, f"{python} -m verification"]
