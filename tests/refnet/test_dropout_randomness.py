"""Where dropout's random numbers come from, and when none are drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from refnet import functional, use_backend
from refnet.functional import dropout

CHANNELS = {"dropout1d": (40, 30, 3), "dropout2d": (40, 30, 3, 2), "dropout3d": (20, 30, 3, 2, 2)}


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_references_masks_are_torchs_on_a_cpu(p: float, dtype: torch.dtype) -> None:
    x = torch.randn(40, 30, dtype=dtype)
    torch.manual_seed(3)
    with use_backend("reference"):
        ours = dropout(x, p)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(ours, F.dropout(x, p))
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("name", CHANNELS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:dropout")
def test_masks_of_channels_are_torchs_on_a_cpu(
    name: str, batched: bool, dtype: torch.dtype
) -> None:
    x = torch.randn(CHANNELS[name], dtype=dtype)
    x = x if batched else x[0]
    torch.manual_seed(3)
    ours = getattr(functional, name)(x, 0.3)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(ours, getattr(F, name)(x, 0.3))
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_is_kept_or_shut_off_as_a_whole(name: str) -> None:
    y = getattr(functional, name)(torch.ones(CHANNELS[name]), 0.3)
    whole = y.flatten(2)
    assert (whole == whole[..., :1]).all()
    assert 0.6 < (whole[..., 0] != 0).double().mean() < 0.8


@pytest.mark.parametrize("name", ["dropout", *CHANNELS])
@pytest.mark.parametrize(("p", "training"), [(0.0, True), (1.0, True), (0.5, False)])
def test_nothing_is_drawn(name: str, p: float, training: bool) -> None:
    x = torch.randn(CHANNELS.get(name, (10,)))
    before = torch.get_rng_state()
    y = getattr(functional, name)(x, p, training)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(y, x * 0 if p == 1 else x)


@pytest.mark.parametrize("name", ["dropout", *CHANNELS])
def test_memory_format_decides_the_order_of_the_mask_as_in_torch(name: str) -> None:
    x = torch.randn(CHANNELS.get(name, (6, 5, 4, 3))).movedim(1, -1).contiguous().movedim(-1, 1)
    torch.manual_seed(3)
    with use_backend("reference"):
        ours = getattr(functional, name)(x, 0.3)
    torch.manual_seed(3)
    assert torch.equal(ours, getattr(F, name)(x, 0.3))


def test_a_generator_decides_and_the_default_one_rests() -> None:
    before = torch.get_rng_state()
    results = [
        dropout(torch.ones(50), generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert torch.equal(before, torch.get_rng_state())


def test_a_mask_from_outside() -> None:
    x = torch.arange(1.0, 7).reshape(2, 3).requires_grad_()
    before = torch.get_rng_state()
    y = dropout(x, 0.75, mask=torch.tensor([True, False, True]))
    assert y.tolist() == [[4, 0, 12], [16, 0, 24]]
    y.backward(torch.ones(2, 3))
    assert x.grad.tolist() == [[4, 0, 4], [4, 0, 4]]
    assert torch.equal(before, torch.get_rng_state())
    assert dropout(x, 0.75, training=False, mask=torch.tensor([False])) is x


def test_identity_is_the_input_itself() -> None:
    x = torch.randn(3)
    assert dropout(x, 0.0) is x
    assert dropout(x, 0.5, training=False) is x


def test_backward_uses_the_forwards_mask() -> None:
    x = torch.randn(1000, requires_grad=True)
    y = dropout(x, 0.4)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad == 0, y == 0)


@pytest.mark.parametrize(("implementation", "expected"), [("reference", 1000), ("cpu", 16)])
def test_one_byte_per_element_or_a_key_is_kept(implementation: str, expected: int) -> None:
    kept: list[torch.Tensor] = []
    x = torch.randn(1000, requires_grad=True)
    saving = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with use_backend(implementation), saving:
        dropout(x, 0.5)
    assert sum(t.numel() * t.element_size() for t in kept) == expected
