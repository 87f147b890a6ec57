"""Optimizers with hand-written update rules, on torch's base class and with torch's arguments.

`SGD`, `RMSprop`, `Adam` and `AdamW` are drop-in for their namesakes in `torch.optim`; `Momentum` is
the lecture's averaged form. Each file has the update rule as a pure function of tensors, next to
the lecture's formula, and the class around it.
"""

from __future__ import annotations

from refnet.optim import lr_scheduler
from refnet.optim.adam import Adam
from refnet.optim.adamw import AdamW
from refnet.optim.groups import decay_groups
from refnet.optim.momentum import Momentum
from refnet.optim.rmsprop import RMSprop
from refnet.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Momentum", "RMSprop", "decay_groups", "lr_scheduler"]
