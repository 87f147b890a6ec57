"""Vanishing and exploding gradients: watched in a training, and shown in deep nets.

    python -m lightning_modules fit --config mlp --trainer.callbacks+=GradientFlow
    python -m lightning_modules.gradient_flow                    # the lecture's chain, as a picture
    python -m lightning_modules.gradient_flow --width 1 --init unit_uniform --activation sigmoid

Source: lecture, "Vanishing/exploding gradient".
"""

from __future__ import annotations

from lightning_modules.gradient_flow.callback import GradientFlow

__all__ = ["GradientFlow"]
