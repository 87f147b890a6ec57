"""Bias or variance? What the errors of a net say about it, and what to try next.

Legend: errors are shares of wrong labels in [0, 1]; avoidable bias = train error - human error,
variance = dev error - train error.

Source: lecture, "Bias and variance", "Basic recipe for machine learning".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng

from lightning_modules.callbacks import is_trial, run_folder
from lightning_modules.data import ClassificationData
from lightning_modules.files import relative, to_json, write_whole

# The lecture calls 1 % low and 10 % high: this is their geometric mean, rounded.
THRESHOLD = 0.03

# The lecture's basic recipe: what to try, and the options of `fit` by which to try it.
RECIPE: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "bias": (
        ("a bigger network", ("--model.net.hidden",)),
        ("training longer, or faster", ("--trainer.max_epochs", "--model.optimizer")),
        ("less regularization", ("--model.l2", "--model.l1", "--model.net.dropout")),
        ("another architecture", ("--config", "--model.net")),
    ),
    "variance": (
        ("more data, or augmentation", ("--data.train", "--data.augment")),
        (
            "regularization",
            ("--model.l2", "--model.l1", "--model.net.dropout", "--early_stopping.patience"),
        ),
        ("another architecture", ("--config", "--model.net")),
    ),
}


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; see there.

    Attributes:
        train_error, dev_error, human_error, threshold: as given.
        avoidable_bias: train error - human error; None where the human error is not known.
        variance: dev error - train error; negative if the dev set is the easier one.
        high_bias: whether the avoidable bias is above the threshold; None if that is not known.
        high_variance: whether the variance is above the threshold.
        verdict: the same in words.
        next_to_try: lines of the basic recipe, with options of `fit`; none if all is well.
    """

    train_error: float
    dev_error: float
    human_error: float | None
    threshold: float
    avoidable_bias: float | None
    variance: float
    high_bias: bool | None
    high_variance: bool
    verdict: str
    next_to_try: list[str]

    def lines(self) -> list[str]:
        """Return it as text, a few lines."""
        known = self.avoidable_bias is not None
        human = f"human {self.human_error:.2%}, " if known else "human unknown, "
        bias = f"avoidable bias {self.avoidable_bias:.2%}, " if known else ""
        return [
            f"bias and variance: {self.verdict}",
            f"  {human}train {self.train_error:.2%}, dev {self.dev_error:.2%}: "
            f"{bias}variance {self.variance:.2%}",
            *(f"  try {line}" for line in self.next_to_try),
        ]


def diagnose(
    train_error: float,
    dev_error: float,
    human_error: float | None = 0.0,
    threshold: float = THRESHOLD,
) -> Diagnosis:
    """Tell high bias and high variance apart, and say what the basic recipe tries next.

    avoidable bias = train error - human error, variance = dev error - train error; each of them is
    high above the threshold.

    Args:
        train_error: share of wrong labels on the training set, in [0, 1], dropout switched off.
        dev_error: the same on the dev set.
        human_error: that of people (or the Bayes error), below which no net is expected to come.
            None if nobody knows: bias then is only known to be low, where train_error is.
        threshold: between low and high, in (0, 1). 3 % gives the lecture's four verdicts, as does
            all from 1 % to below 10 %; what is high for a task is for its owner to say.

    Returns:
        The diagnosis.

    Raises:
        ValueError: naming an error outside [0, 1], a threshold outside (0, 1), and their value.

    Example:
        >>> [diagnose(*errors).verdict for errors in ((0.01, 0.11), (0.15, 0.16))]
        ['low bias, high variance', 'high bias, low variance']
        >>> diagnose(0.15, 0.16, human_error=0.14).verdict
        'low bias, low variance'
        >>> diagnose(0.01, 0.11).next_to_try[0]
        'more data, or augmentation: --data.train, --data.augment'

    Source: lecture, "Bias and variance", "Basic recipe for machine learning".
    """
    given = {"train_error": train_error, "dev_error": dev_error, "human_error": human_error}
    for name, value in given.items():
        if value is not None and not 0 <= value <= 1:  # NaN, too
            hint = f": {value} % is {value / 100:g}" if 1 < value <= 100 else ""
            raise ValueError(f"{name} must be a fraction in [0, 1], got {value}{hint}")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a fraction in (0, 1), got {threshold}")
    variance = dev_error - train_error
    bias = None if human_error is None else train_error - human_error
    # People err at least never: where the train error is low, so is whatever part can be avoided.
    high_bias: bool | None = _high(train_error if bias is None else bias, threshold)
    if bias is None and high_bias:
        high_bias = None
    high_variance = _high(variance, threshold)
    lines = [] if high_bias is not None else ["to find out how well people do: --human_error"]
    for part, high in (("bias", high_bias), ("variance", high_variance)):
        lines += [f"{what}: {', '.join(options)}" for what, options in RECIPE[part] if high]
    words = {True: "high", False: "low", None: "unknown"}
    return Diagnosis(
        train_error=train_error,
        dev_error=dev_error,
        human_error=human_error,
        threshold=threshold,
        avoidable_bias=bias,
        variance=variance,
        high_bias=high_bias,
        high_variance=high_variance,
        verdict=f"{words[high_bias]} bias, {words[high_variance]} variance",
        next_to_try=list(dict.fromkeys(lines)),
    )


def _high(gap: float, threshold: float) -> bool:
    return gap > threshold + 1e-12  # 0.05 - 0.02 is 0.03, but not in binary


class BiasVariance(Callback):
    """Diagnose bias and variance at the end of fit: print it, and write `bias_variance.json`.

    For any Trainer whose module returns scores (N, classes) for the inputs of a batch (x, y). The
    errors are those of the weights that the training ended with, in evaluation mode, on the whole
    training set and dev set; of `ClassificationData` without augmentation. The command line says
    the same of the best epoch, in its summary.

    Args:
        human_error: in [0, 1], or None, as in `diagnose`.
        threshold: between low and high.

    Raises:
        ValueError: an argument that makes no sense; in training, if there is no dev set.

    Example:
        >>> callback = BiasVariance(human_error=0.01)
        >>> trainer = Trainer(callbacks=[callback], logger=False)
        >>> callback.diagnosis  # None before trainer.fit(...)
    """

    def __init__(self, human_error: float | None = 0.0, threshold: float = THRESHOLD) -> None:
        diagnose(0.0, 0.0, human_error, threshold)  # says now what makes no sense
        self.human_error, self.threshold = human_error, threshold
        self.diagnosis: Diagnosis | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a training without a dev set."""
        if not trainer.enable_validation:
            raise ValueError("BiasVariance needs a dev set: give fit a validation dataloader")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first epoch, see whether the scores of a batch can be read."""
        if trainer.sanity_checking:
            loaders: Any = trainer.val_dataloaders
            if isinstance(loaders, list | tuple):
                raise ValueError(f"BiasVariance needs one dev set, but got {len(loaders)}")
            _error(trainer, pl_module, islice(loaders, 1))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure, print and write."""
        if is_trial(trainer):
            return
        data = getattr(trainer, "datamodule", None)
        batches = data.ordered("train") if isinstance(data, ClassificationData) else None
        train = _error(trainer, pl_module, batches or trainer.train_dataloader)
        dev = _error(trainer, pl_module, trainer.val_dataloaders)
        self.diagnosis = diagnose(train, dev, self.human_error, self.threshold)
        path = run_folder(trainer) / "bias_variance.json"
        if trainer.is_global_zero:
            write_whole(path, to_json(asdict(self.diagnosis)))
            print("\n".join([*self.diagnosis.lines(), f"  written to {relative(path)}"]))


def _error(trainer: Trainer, model: LightningModule, batches: Any) -> float:
    """Return the share of wrong labels; draws no random numbers, and leaves the modes alone."""
    training = {module: module.training for module in model.modules()}
    counts = torch.zeros(2, dtype=torch.double, device=model.device)
    model.eval()
    try:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in batches:
                x, y = _pair(trainer.strategy.batch_to_device(batch))
                scores = _classes(model(x), y)
                counts += torch.tensor([(scores.argmax(1) != y).sum(), len(y)]).to(counts)
    finally:
        for module, mode in training.items():
            module.training = mode
    wrong, total = trainer.strategy.reduce(counts, reduce_op="sum")
    return float(wrong / total)


def _pair(batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        raise ValueError(f"BiasVariance needs batches (x, y), but got a {type(batch).__name__}")
    return batch[0], batch[1]


def _classes(scores: Any, y: torch.Tensor) -> torch.Tensor:
    """Return scores if they are one per class, and there is one label for each example."""
    if not isinstance(scores, torch.Tensor):
        raise ValueError(f"BiasVariance needs scores (N, classes), got a {type(scores).__name__}")
    if scores.dim() != 2 or scores.shape[1] < 2 or y.shape != scores.shape[:1]:
        raise ValueError(
            "BiasVariance needs scores (N, classes), two classes or more, and labels (N), but got "
            f"scores {tuple(scores.shape)} and labels {tuple(y.shape)}"
        )
    return scores
