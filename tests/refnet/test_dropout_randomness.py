"""Where dropout's random numbers come from, and when none are drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from refnet.functional import dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_are_torchs_on_a_cpu(p: float, dtype: torch.dtype) -> None:
    x = torch.randn(40, 30, dtype=dtype)
    torch.manual_seed(3)
    ours = dropout(x, p)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    assert torch.equal(ours, F.dropout(x, p))
    assert torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (1.0, True), (0.5, False)])
def test_nothing_is_drawn(p: float, training: bool) -> None:
    before = torch.get_rng_state()
    dropout(torch.ones(10), p, training)
    assert torch.equal(before, torch.get_rng_state())


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


def test_one_byte_per_element_is_kept() -> None:
    kept: list[torch.Tensor] = []
    x = torch.randn(1000, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dropout(x, 0.5)
    assert sum(t.numel() * t.element_size() for t in kept) == 1000
