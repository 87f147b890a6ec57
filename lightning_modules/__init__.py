"""Train hand-written layers and optimizers on real digits, through Lightning.

Example:
    >>> from lightning_modules import MLP, Classifier
    >>> Classifier(MLP(hidden=[32])).net.linear1
    Linear(in_features=64, out_features=32, bias=False)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "MLP",
    "ArraysDataModule",
    "Augmentation",
    "BiasVariance",
    "BuiltinBeside",
    "CSVDataModule",
    "ClassificationData",
    "Classifier",
    "ConvNet",
    "DigitsDataModule",
    "ExactResume",
    "ExponentialWeightAveraging",
    "GradientFlow",
    "ImageFolderDataModule",
    "OpenMLDataModule",
    "RefnetSyncBatchNorm",
]

if TYPE_CHECKING:
    from lightning_modules.augmentation import Augmentation
    from lightning_modules.bias_variance import BiasVariance
    from lightning_modules.builtin_beside import BuiltinBeside
    from lightning_modules.classifier import Classifier
    from lightning_modules.data import ClassificationData, DigitsDataModule
    from lightning_modules.data_openml import OpenMLDataModule
    from lightning_modules.data_sources import (
        ArraysDataModule,
        CSVDataModule,
        ImageFolderDataModule,
    )
    from lightning_modules.gradient_flow import GradientFlow
    from lightning_modules.nets import MLP, ConvNet
    from lightning_modules.resume import ExactResume
    from lightning_modules.sync_batchnorm import RefnetSyncBatchNorm
    from lightning_modules.weight_averaging import ExponentialWeightAveraging
else:
    # Every Trainer reads `sync_batchnorm`, anybody's: it shall not wait for scikit-learn.
    _HOMES = {
        "MLP": "nets",
        "ArraysDataModule": "data_sources",
        "Augmentation": "augmentation",
        "BiasVariance": "bias_variance",
        "CSVDataModule": "data_sources",
        "ClassificationData": "data",
        "GradientFlow": "gradient_flow",
        "ImageFolderDataModule": "data_sources",
        "OpenMLDataModule": "data_openml",
        "BuiltinBeside": "builtin_beside",
        "Classifier": "classifier",
        "ConvNet": "nets",
        "DigitsDataModule": "data",
        "ExactResume": "resume",
        "RefnetSyncBatchNorm": "sync_batchnorm",
        "ExponentialWeightAveraging": "weight_averaging",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
