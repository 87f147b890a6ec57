"""What is compared: a base, as bare as the lecture begins, and one change of it at a time.

Every choice has a learning rate of its own, since one that suits gradient descent is no fair rate
for Adam, nor for a mini-batch of one. `python -m lightning_modules.comparison --tune` is how they
were found: each rate of the table beats the two beside it, a third of it and three times as much,
by the dev loss of the best epoch, from a seed that the comparison doesn't use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Setting:
    """All that a training of this comparison depends on, but seed and epochs.

    Args:
        lr: learning rate α.
        optimizer: of `refnet.optim`.
        options: of the optimizer.
        batch_size: examples per mini-batch; "all" is m.
        batch_norm: in every hidden layer.
        initialization: a rule of `refnet.init`; None is torch's own, of variance 1/(3 n_in).
        dropout: 1 - keep_prob in every hidden layer.
        l2: the lecture's λ.
        decay: of `refnet.optim.lr_scheduler`, after every epoch.
        decay_options: of the decay.
    """

    lr: float
    optimizer: str = "SGD"
    options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int | Literal["all"] = 64
    batch_norm: bool = False
    initialization: str | None = "kaiming_normal"
    dropout: float = 0.0
    l2: float = 0.0
    decay: str | None = None
    decay_options: Mapping[str, Any] = field(default_factory=dict)


EPOCHS = 20  # of a training; the rates below were found with these, on the whole training set
HIDDEN = (64, 64, 64)  # units of the layers, with ReLU: deep enough for initial weights to matter
BASE = Setting(lr=0.3)


def _but(lr: float, **changes: Any) -> Setting:
    return replace(BASE, lr=lr, **changes)


# Lecture: "Momentum", "RMSprop" (ε inside the root), "Adam", "Choosing your mini-batch size",
# "Batch normalization", "Weight initialization", "Regularization", "Learning rate decay".
CHOICES: dict[str, dict[str, Setting]] = {
    "optimizer": {
        "gradient descent": BASE,
        "momentum, β = 0.9": _but(0.3, optimizer="Momentum"),
        "RMSprop": _but(0.001, optimizer="RMSprop", options={"eps_inside_root": True}),
        "Adam": _but(0.01, optimizer="Adam"),
        "AdamW, weight decay 0.01": _but(0.01, optimizer="AdamW"),
    },
    "batch_size": {
        "64": BASE,
        "1 (stochastic)": _but(0.003, batch_size=1),
        "m (batch)": _but(1.0, batch_size="all"),
    },
    "batch_norm": {
        "without": BASE,
        "with": _but(3.0, batch_norm=True),
    },
    "initialization": {
        "2/n_in (He)": BASE,
        "2/(n_in + n_out) (Xavier)": _but(0.3, initialization="xavier_normal"),
        "1/n_in": _but(0.3, initialization="lecun_normal"),
        "1/(3 n_in) (torch's)": _but(0.3, initialization=None),
    },
    "regularization": {
        "none": BASE,
        "dropout 0.3": _but(0.3, dropout=0.3),
        "L2, λ = 1": _but(0.3, l2=1.0),
        "L2, λ = 10": _but(0.3, l2=10.0),
    },
    "decay": {
        "none": BASE,
        "1/(1 + 0.1 epoch)": _but(0.3, decay="InverseTimeDecay", decay_options={"decay_rate": 0.1}),
        "0.95^epoch": _but(0.3, decay="ExponentialDecay", decay_options={"gamma": 0.95}),
        "1/√epoch": _but(0.3, decay="InverseSqrtDecay"),
    },
}


def beside(lr: float) -> list[float]:
    """Return a third of a rate, the rate, and three times as much, on the ladder 1, 3, 10, 30, ...

    Example:
        >>> beside(0.1), beside(0.3)
        ([0.03, 0.1, 0.3], [0.1, 0.3, 1.0])
    """
    down, up = (10 / 3, 3) if f"{lr:e}".startswith("1") else (3, 10 / 3)
    return [float(f"{rate:.0e}") for rate in (lr / down, lr, lr * up)]
