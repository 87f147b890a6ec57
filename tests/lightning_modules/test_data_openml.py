from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from lightning_modules import data_openml
from lightning_modules.data_openml import LISTED, OpenMLDataModule


class StandIn:
    """What OpenML would send, if it were small; None is no network."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.online = True
        self.width = None

    def __call__(self, *, data_id: int, **options: Any) -> tuple[Any, Any]:
        assert options["as_frame"] is False
        self.calls.append(data_id)
        if not self.online:
            raise URLError("no network")
        (shape,) = [listed.shape for listed in LISTED.values() if listed.data_id == data_id]
        draw = np.random.default_rng(data_id)
        x = draw.integers(0, 256, (100, self.width or np.prod(shape))).astype(float)
        return x, np.array([str(i % 10) for i in range(100)], dtype=object)


@pytest.fixture
def openml(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(data_openml, "fetch_openml", stand_in)
    return stand_in


def mnist(folder: Path, name: Any = "mnist") -> OpenMLDataModule:
    return OpenMLDataModule(name, folder=str(folder), train=0.6, dev=0.2, test=0.2)


@pytest.mark.parametrize("name", LISTED)
def test_the_second_use_reads_what_the_first_stored(
    name: str, openml: StandIn, tmp_path: Path
) -> None:
    data = mnist(tmp_path / "new", name)
    assert openml.calls == []
    assert data.shape == LISTED[name].shape
    assert (data.num_classes, data.examples) == (10, 100)
    again = mnist(tmp_path / "new", name)
    assert again.dataset("dev").tensors[0].equal(data.dataset("dev").tensors[0])
    assert openml.calls == [LISTED[name].data_id]
    line = (tmp_path / "new" / f"{name}.npz.sha256").read_text()
    digest = hashlib.sha256((tmp_path / "new" / f"{name}.npz").read_bytes()).hexdigest()
    assert line == f"{digest}  {name}.npz\n"
    assert {file.name for file in (tmp_path / "new").iterdir()} == {
        f"{name}.npz",
        f"{name}.npz.sha256",
    }


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_file_is_fetched_again(openml: StandIn, tmp_path: Path) -> None:
    whole = mnist(tmp_path).read()[0]
    damage(tmp_path / "mnist.npz")
    assert np.array_equal(mnist(tmp_path).read()[0], whole)
    (tmp_path / "mnist.npz.sha256").unlink()
    mnist(tmp_path).setup()
    assert len(openml.calls) == 3


def test_offline_it_says_what_to_do(openml: StandIn, tmp_path: Path) -> None:
    openml.online = False
    wanted = (
        rf"mnist\.npz is not there, and it can't .*no network.*copy mnist\.npz and .*{tmp_path}"
    )
    with pytest.raises(ValueError, match=wanted):
        mnist(tmp_path).setup()
    openml.online = True
    mnist(tmp_path).setup()
    openml.online = False
    mnist(tmp_path).setup()
    damage(tmp_path / "mnist.npz")
    with pytest.raises(ValueError, match=r"mnist\.npz is damaged \(its checksum differs\)"):
        mnist(tmp_path).setup()


def test_what_is_sent_is_looked_at(openml: StandIn, tmp_path: Path) -> None:
    openml.width = 783  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"other data than images of \(1, 28, 28\): \(100, 783\)"):
        mnist(tmp_path).setup()
    with pytest.raises(ValueError, match="one of mnist, fashion_mnist, cifar10, got 'emnist'"):
        OpenMLDataModule("emnist")  # type: ignore[arg-type]


def test_advice_is_known_without_the_data(openml: StandIn) -> None:
    assert OpenMLDataModule("cifar10").fractions == {"train": 0.9, "dev": 0.05, "test": 0.05}
    rest = OpenMLDataModule("mnist", train=0.95).fractions
    assert rest == pytest.approx({"train": 0.95, "dev": 0.025, "test": 0.025})
    with pytest.raises(ValueError, match="leaves nothing for the dev set"):
        OpenMLDataModule("mnist", train=1.0)
    assert openml.calls == []
