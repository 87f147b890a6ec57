"""refnet: every gradient written by hand, every line verified.

The layers, losses and optimizers of a deep-learning lecture as hand-written
`torch.autograd.Function`s and optimizer classes, under torch's own names:

    from refnet import functional, nn, optim
"""

from __future__ import annotations

from refnet import averages, functional, init, nn, optim, regularization
from refnet.backend import use_backend
from refnet.convert import convert

__all__ = [
    "__version__",
    "averages",
    "convert",
    "functional",
    "init",
    "nn",
    "optim",
    "regularization",
    "use_backend",
]
__version__ = "0.1.0"
