"""Nets of an outside library: converted, trained beside themselves on the builtins, and back.

Both start from the same random weights and see the same batches and seeds, in float64. One is
torch's alone; the other has refnet's layers, loss and optimizer. (Dropout's reference draws the
masks that torch draws.)
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import refnet
from refnet.ops import dropout as dropout_op

CLASSES = 5
STEPS = 20


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    """Imported for these tests alone, and told not to ask the network for anything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        import transformers

        return transformers


def resnet(lib: Any) -> nn.Module:
    config = lib.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], num_labels=CLASSES
    )
    return lib.ResNetForImageClassification(config)


def mobilenet(lib: Any) -> nn.Module:
    config = lib.MobileNetV2Config(
        depth_multiplier=0.25,
        min_depth=4,
        output_stride=8,
        classifier_dropout_prob=0.2,
        num_labels=CLASSES,
    )
    return lib.MobileNetV2ForImageClassification(config)


def bert(lib: Any) -> nn.Module:
    config = lib.BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=32,
        hidden_act="relu",
        num_labels=CLASSES,
    )
    return lib.BertForSequenceClassification(config)


def segformer(lib: Any) -> nn.Module:
    config = lib.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        hidden_sizes=[8, 16],
        sr_ratios=[2, 1],
        num_attention_heads=[1, 2],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        hidden_dropout_prob=0.1,
        decoder_hidden_size=16,
        num_labels=CLASSES,
    )
    return lib.SegformerForSemanticSegmentation(config)


def mobilevit(lib: Any) -> nn.Module:
    config = lib.MobileViTConfig(
        hidden_sizes=[12, 16, 20],
        neck_hidden_sizes=[4, 4, 8, 8, 12, 12, 16],
        num_attention_heads=2,
        aspp_out_channels=8,
        num_labels=CLASSES,
    )
    return lib.MobileViTForSemanticSegmentation(config)


def images(*target: int) -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 32, 32, dtype=torch.float64), torch.randint(CLASSES, (4, *target))


def sentences() -> tuple[Tensor, Tensor]:
    return torch.randint(50, (4, 12)), torch.randint(CLASSES, (4,))


# How a net is made, its batch, the optimizer, and the layers that are swapped.
NETS: dict[str, tuple[Callable[[Any], nn.Module], Any, str, dict[str, Any], dict[str, int]]] = {
    "ResNet": (
        resnet,
        images,
        "Adam",
        {"lr": 1e-3},
        {"BatchNorm2d": 11, "ReLU": 10, "Linear": 1},
    ),
    "MobileNetV2": (
        mobilenet,
        images,
        "SGD",
        {"lr": 0.01, "momentum": 0.9},
        {"BatchNorm2d": 52, "Dropout": 1, "Linear": 1},
    ),
    "BERT": (
        bert,
        sentences,
        "AdamW",
        {"lr": 3e-3},
        {"Linear": 14, "Dropout": 8, "ReLU": 2, "Tanh": 1},
    ),
    "SegFormer": (
        segformer,
        lambda: images(8, 8),
        "SGD",
        {"lr": 0.1},
        {"Linear": 14, "Dropout": 5, "BatchNorm2d": 1, "ReLU": 1},
    ),
    "MobileViT": (
        mobilevit,
        lambda: images(1, 1),
        "SGD",
        {"lr": 0.05},
        {"BatchNorm2d": 37, "Linear": 54, "Dropout": 28, "ReLU": 6, "Dropout2d": 1},
    ),
}


def train(net: nn.Module, name: str, package: Any) -> list[float]:
    """Fit one batch; `package` gives the loss and the optimizer."""
    _, batch, optimizer_name, options, _ = NETS[name]
    optimizer = getattr(package.optim, optimizer_name)(net.parameters(), **options)
    criterion = package.nn.CrossEntropyLoss()
    torch.manual_seed(1)
    x, y = batch()
    losses = []
    for step in range(STEPS):
        torch.manual_seed(step)  # of the dropout masks
        loss = criterion(net(x).logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", NETS)
def test_training_beside_the_builtins(
    transformers: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(dropout_op._SERVES, "cpu", lambda *_: "torch's masks are wanted")
    make, batch, _, _, counts = NETS[name]
    torch.manual_seed(0)
    theirs = make(transformers).double().train()
    reports: list[Any] = []
    ours = refnet.convert(copy.deepcopy(theirs), report=reports.append)
    assert Counter(row.layer for row in reports[0].swapped) == counts
    modules = [type(module).__module__.split(".")[:2] for module in ours.modules()]
    assert modules.count(["refnet", "nn"]) == sum(counts.values())

    losses, builtin = train(ours, name, refnet), train(theirs, name, torch)
    difference = max(abs(a - b) for a, b in zip(losses, builtin, strict=True))
    print(f"{name}: loss {losses[0]:.3f} -> {losses[-1]:.3f}, at most {difference:.1e} apart")
    assert losses[-1] < 0.9 * losses[0]
    for a, b in zip(losses, builtin, strict=True):
        assert abs(a - b) <= 1e-9 * max(1, abs(b))
    # The keys' biases have gradients of rounding alone: their values stay near 0.
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-7, atol=1e-9)

    x, _ = batch()
    plain = make(transformers).double()
    plain.load_state_dict(ours.state_dict())
    with torch.no_grad():
        converted, loaded = ours.eval()(x).logits, plain.eval()(x).logits
    torch.testing.assert_close(converted, loaded, rtol=1e-12, atol=1e-13)
    assert [type(m) for m in refnet.convert(ours, "torch").modules()] == [
        type(m) for m in theirs.modules()
    ]
    with torch.no_grad():
        assert torch.equal(ours(x).logits, loaded)
