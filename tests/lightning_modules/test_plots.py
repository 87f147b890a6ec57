from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from lightning_modules import plots


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved."""
    figures: list[Figure] = []
    save = plots._save

    def keep(figure: Figure, path: Path) -> Path:
        figures.append(figure)
        return save(figure, path)

    monkeypatch.setattr(plots, "_save", keep)
    return figures


def test_learning_curves_mark_the_minimum_of_dev(tmp_path: Path, drawn: list[Figure]) -> None:
    history = [
        {"epoch": i, "train_loss": 1 / (i + 1), "dev_loss": d, "train_acc": 0.9, "dev_acc": 0.8}
        for i, d in enumerate([0.9, 0.5, 0.7])
    ]
    path = plots.learning_curves(history, tmp_path / "new" / "curves.png", title="a title")
    assert imread(path).std() > 0.05
    loss, error, rate = drawn[0].axes
    legend = loss.get_legend()
    assert legend is not None
    assert "dev minimum 0.500, epoch 2" in [text.get_text() for text in legend.get_texts()]
    assert "(nats)" in loss.get_ylabel()
    assert "(%)" in error.get_ylabel()
    assert all(axes.get_xlabel() == "epoch" for axes in (loss, error, rate))


def test_confusion_matrix_shows_the_counts(tmp_path: Path, drawn: list[Figure]) -> None:
    counts = np.diag([5, 6, 7])
    counts[0, 2] = 3
    plots.confusion_matrix(counts, tmp_path / "c.png", title="Digits")
    axes = drawn[0].axes[0]
    places = {text.get_position(): text.get_text() for text in axes.texts}
    assert places == {(0, 0): "5", (1, 1): "6", (2, 2): "7", (2, 0): "3"}
    assert axes.get_title() == "Digits\n3 of 21 wrong, accuracy 85.71 %"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
