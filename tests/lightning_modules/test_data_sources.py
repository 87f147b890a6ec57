from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits, load_iris

from lightning_modules import DigitsDataModule
from lightning_modules.cli import main
from lightning_modules.data import split
from lightning_modules.data_sources import ArraysDataModule, CSVDataModule, ImageFolderDataModule


@pytest.fixture
def table(here: Path) -> str:
    iris = load_iris(as_frame=True)
    frame = iris.frame.assign(kind=iris.target_names[iris.target]).drop(columns="target")
    frame.to_csv("iris.csv", index=False)
    return "iris.csv"


def test_arrays_are_served_as_the_digits_are(tmp_path: Path) -> None:
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8)  # without an axis of channels
    file = str(tmp_path / "digits.npz")
    np.savez(file, images=images, y=labels)
    options: dict[str, Any] = {"standardize": "feature", "seed": 3, "batch_size": 100}
    wanted = list(DigitsDataModule(seed=3, batch_size=100).train_dataloader())
    for data in (
        ArraysDataModule(images, labels, **options),
        ArraysDataModule(path=file, x="images", **options),
    ):
        found = list(data.train_dataloader())
        for ours, digits in zip(found, wanted, strict=True):
            assert torch.equal(ours[0], digits[0])
            assert torch.equal(ours[1], digits[1])


def test_channels_have_a_mean_and_deviation_each() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 5, 4), dtype=np.uint8)
    images[:, 2] //= 4
    data = ArraysDataModule(images, np.arange(60) % 2)
    train = data.dataset("train").tensors[0].double()
    assert data.shape == (3, 5, 4)
    assert train.mean((0, 2, 3)).abs().max() < 1e-6
    assert (train.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6
    # Back by one factor and one offset per channel: those of the training set, on dev as well.
    rows = split(np.arange(60) % 2, data.fractions, data.seed)
    chosen = images[rows["train"]]
    mu, sigma = chosen.mean((0, 2, 3), keepdims=True), chosen.std((0, 2, 3), keepdims=True)
    dev = data.dataset("dev").tensors[0].numpy()
    assert np.abs(dev - (images[rows["dev"]] - mu) / sigma).max() < 1e-6


def test_nothing_is_standardized_if_so_wished() -> None:
    x = np.arange(80.0).reshape(40, 2)
    data = ArraysDataModule(x, np.arange(40) % 2, standardize="none")
    rows = torch.cat([data.dataset(part).tensors[0] for part in ("train", "dev", "test")])
    assert sorted(rows.flatten().tolist()) == x.flatten().tolist()


def test_large_data_is_standardized_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(5, 3, (100, 7))
    whole = ArraysDataModule(x, np.arange(100) % 2).dataset("test").tensors[0]
    monkeypatch.setattr("lightning_modules.data_preparation._NUMBERS", 30)
    pieces = ArraysDataModule(x, np.arange(100) % 2).dataset("test").tensors[0]
    # The mean is summed in another order: a few roundings of float64, then one of float32.
    assert torch.allclose(whole, pieces, rtol=2**-23, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (np.zeros(4), [0, 1] * 2, {}, r"must be images .* or features \(m, n\), got shape \(4,\)"),
        (np.zeros((0, 4)), [], {}, r"got shape \(0, 4\)"),
        (np.zeros((4, 2), complex), [0, 1] * 2, {}, "must be real numbers, got complex128"),
        (np.array([[1.0], [np.nan]]), [0, 1], {}, "got NaN or infinity in example 1"),
        (np.zeros((4, 2)), [0, 1], {}, r"one class for each of 4 examples, got shape \(2,\)"),
        (np.zeros((4, 2)), [0, 1, np.nan, 1], {}, "class of example 2 is missing"),
        (np.zeros((4, 2)), [3] * 4, {}, "two classes or more, got 3 alone"),
        (np.zeros((9, 2)), [*[0] * 8, 1], {"test": 0.3, "dev": 0.3, "train": 0.4},
         "class 1 has 1 of 9 examples: too few for train, dev, test"),
        (np.zeros((4, 2)), [0, 1] * 2, {"standardize": "channel"}, "'channel' is for images"),
        (np.zeros((4, 2)), [0, 1] * 2, {"standardize": "pixel"}, "standardize must be .*'pixel'"),
        (np.zeros((4, 2)), [0, 1] * 2, {"batch_size": "some"}, "whole number or 'all', got 'some'"),
        (np.zeros((4, 2)), [0, 1] * 2, {"batch_size": 2.5}, "whole number or 'all', got 2.5"),
        (np.zeros((4, 2)), [0, 1] * 2, {"batch_size": True}, "whole number or 'all', got True"),
        (np.zeros((4, 2)), np.array([0, "a"] * 2, object), {}, "of one type, got int, str"),
        ([[1], [1, 2]], [0, 1], {}, "x is no array: "),
        (np.eye(40) * 1e300, [0, 1] * 20, {}, r"at most 1e\+150 in size, got 1e\+300"),
        (np.eye(40) * 1e39, [0, 1] * 20, {"standardize": "none"}, r"at most 3e\+38 in"),
        ("x", "y", {}, "needs x and y, or the path"),
        ("x", "y", {"path": "no.npz"}, "path: no file at 'no.npz'"),
    ],
)  # fmt: skip
def test_arrays_that_make_no_sense(x: Any, y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ArraysDataModule(x, y, **options).setup()


def test_files_of_arrays_are_not_unpickled(here: Path) -> None:
    np.savez("objects.npz", x=np.array([{}, {}], dtype=object), y=np.arange(2))
    with pytest.raises(ValueError, match=r"can't read objects\.npz: .*allow_pickle=False"):
        ArraysDataModule(path="objects.npz").setup()
    with pytest.raises(ValueError, match=r"y: no array 'labels' in objects\.npz, only x, y"):
        ArraysDataModule(path="objects.npz", y="labels").setup()
    Path("text.npz").write_text("no archive")
    np.save("one.npy", np.arange(4))
    for name in ("text.npz", "one.npy"):
        with pytest.raises(ValueError, match=rf"path: {name} is no \.npz file"):
            ArraysDataModule(path=name).setup()


def test_images_need_not_be_square(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).random((40, 1, 4, 8))
    np.savez("wide.npz", x=x, y=np.arange(40) % 2)
    line = ["fit", "--config", "conv", "--trainer.max_epochs", "1", "--model.net.channels", "[4]"]
    line += ["--data", "ArraysDataModule", "--data.path", "wide.npz", "--data.augment.shift", "1"]
    assert main(line).model.net.linear.in_features == 4 * 2 * 4
    assert "fit --config mlp" not in capsys.readouterr().out  # the digits are of no interest here
    best = "runs/conv/version_0/checkpoints/best.ckpt"
    assert main(["test", "--ckpt_path", best]).datamodule.shape == (1, 4, 8)


def test_tensors_are_arrays_too() -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    wanted = ArraysDataModule(x.bfloat16().float().numpy(), y.numpy()).dataset("train").tensors
    for given in (x.bfloat16(), x.bfloat16().float().requires_grad_()):
        found = ArraysDataModule(given, y).dataset("train").tensors
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_table_trains_from_the_command_line(table: str) -> None:
    line = ["fit", "--config", "mlp", "--trainer.max_epochs", "2", "--model.net.hidden", "[8]"]
    cli = main([*line, "--data", "CSVDataModule", "--data.path", table, "--data.target", "kind"])
    assert cli.datamodule.classes == ["setosa", "versicolor", "virginica"]
    assert cli.model.net.linear1.in_features == 4
    assert cli.summary is not None
    assert cli.summary.test_total == 22
    config = yaml.safe_load(Path("runs/mlp/version_0/config.yaml").read_text())
    assert config["model"]["num_classes"] == 3  # what was trained, not what was typed
    assert config["model"]["net"]["init_args"]["out_features"] == 3
    best = "runs/mlp/version_0/checkpoints/best.ckpt"
    assert main(["test", "--ckpt_path", best]).datamodule.shape == (4,)
    torch.load(best, weights_only=True)
    lines = Path(table).read_text().splitlines()
    Path(table).write_text("\n".join([*lines[:-1], lines[-2]]))
    with pytest.raises(SystemExit, match="2"):  # other data: its test set may have been trained on
        main(["test", "--ckpt_path", best])


def test_a_header_alone_and_numbers_without_a_type(here: Path) -> None:
    Path("table.csv").write_text("u,kind\n")
    with pytest.raises(ValueError, match=r"table\.csv has a header and no rows"):
        CSVDataModule("table.csv", target="kind").setup()
    rows = [f"{10**25 * n},{'ab'[n % 2]}" for n in range(40)]
    Path("table.csv").write_text("\n".join(["u,kind", *rows]))
    assert CSVDataModule("table.csv", target="kind").shape == (1,)


@pytest.mark.parametrize(
    ("change", "target", "message"),
    [
        ((), "sort", r"target: no column 'sort' in iris\.csv, only 'sepal length \(cm\)', "),
        (("5.1,", ",", 1), "kind", r"column 'sepal length \(cm\)' lacks 1 of 150 values, .*row 1:"),
        (("setosa", "", 1), "kind", "column 'kind' lacks 1 of 150 values"),
        (("5.1,", "wide,", 1), "kind", "'sepal length .*' holds no numbers, but 'wide'"),
    ],
)
def test_tables_that_make_no_sense(
    change: tuple[Any, ...], target: str, message: str, table: str
) -> None:
    text = Path(table).read_text()
    Path(table).write_text(text.replace(*change) if change else text)
    with pytest.raises(ValueError, match=message):
        CSVDataModule(table, target).setup()
    with pytest.raises(ValueError, match=r"path: can't read none\.csv"):
        CSVDataModule("none.csv", target).setup()


@pytest.fixture
def folders(here: Path) -> Path:
    draw = np.random.default_rng(0)
    for name, level in (("dark", 40), ("light", 200)):
        (here / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(level, level + 50, (6, 6, 3), dtype=np.uint8)
            kind = "png" if i % 2 else "jpg"
            Image.fromarray(pixels).save(here / "images" / name / f"{i}.{kind}")
        (here / "images" / name / ".hidden").write_text("")
    return here / "images"


def test_folders_are_classes(folders: Path) -> None:
    data = ImageFolderDataModule(str(folders), batch_size=1)
    assert (data.shape, data.classes, data.examples) == ((3, 6, 6), ["dark", "light"], 40)
    x, y = data.dataset("train").tensors
    assert torch.equal(x.mean((1, 2, 3)) > 0, y == 1)
    assert len(data.train_dataloader()) == 28
    small = ImageFolderDataModule(str(folders), size=4, grayscale=True, standardize="none")
    assert small.shape == (1, 4, 4)
    first = Image.open(folders / "dark" / "1.png").convert("L").resize((4, 4))
    every = torch.cat([small.dataset(part).tensors[0] for part in ("train", "dev", "test")])
    wanted = torch.tensor(np.array(first), dtype=torch.float32)
    assert (every == wanted).all((1, 2, 3)).sum() == 1


def test_folders_that_make_no_sense(folders: Path) -> None:
    def refused(message: str, **options: Any) -> None:
        with pytest.raises(ValueError, match=message):
            ImageFolderDataModule(**{"path": str(folders), **options}).setup()

    refused("path: nowhere is no folder with a folder for each class", path="nowhere")
    refused("size must be at least 1, got 0", size=0)
    Image.new("RGB", (6, 9)).save(folders / "light" / "wide.png")
    refused(r"wide\.png has 6 x 9 pixels and .*0\.jpg 6 x 6: give a size")
    (folders / "dark" / "note.txt").write_text("no image")
    refused(r"note\.txt is no image that can be read")
    (folders / "empty").mkdir()
    refused(f"the folder {re.escape(str(folders / 'empty'))} has no images")


def test_a_photo_is_turned_as_it_was_held(here: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = 255  # a white line on top
    for name in ("a", "b"):
        Path(name).mkdir()
        Image.fromarray(pixels).save(f"{name}/0.png")
        exif = Image.Exif()
        exif[0x0112] = 3  # upside down
        Image.fromarray(pixels).save(f"{name}/1.png", exif=exif)
    x, _ = ImageFolderDataModule(".").read()
    assert [image[0].argmax(axis=0)[0] for image in x] == [0, 3, 0, 3]
