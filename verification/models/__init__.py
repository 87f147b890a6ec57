"""Two models in lockstep, layer by layer and step by step: `compare_models`."""

from verification.models.command import main
from verification.models.compare import compare_models
from verification.models.findings import FirstDifference, ModelsReport

__all__ = ["FirstDifference", "ModelsReport", "compare_models", "main"]
