"""Train hand-written layers and optimizers on real digits, through Lightning.

Example:
    >>> from lightning_modules import MLP, Classifier
    >>> Classifier(MLP(hidden=[32])).net.linear1
    Linear(in_features=64, out_features=32, bias=False)
"""

from __future__ import annotations

from lightning_modules.classifier import Classifier
from lightning_modules.data import DigitsDataModule
from lightning_modules.nets import MLP, ConvNet

__all__ = ["MLP", "Classifier", "ConvNet", "DigitsDataModule"]
