"""The lecture's gradient check passes right gradients, finds wrong ones, and leaves no traces."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from refnet import nn
from refnet.functional import dropout
from verification.functions import differences
from verification.functions.gradient_checks import GradientReport, gradient_check
from verification.functions.quotients import bends, one_sided, two_sided
from verification.report import INCONCLUSIVE, NULL


def net(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 3)
    ).double()  # fmt: skip


def loss_of(model: torch.nn.Module, decay: float = 0.01) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (16,), generator=generator)
    cross_entropy = nn.CrossEntropyLoss()

    def loss() -> Tensor:
        penalty = sum(p.square().sum() for n, p in model.named_parameters() if "weight" in n)
        value: Tensor = cross_entropy(model(x), y) + decay / 2 * penalty
        return value

    return loss


def autograd(loss: Callable[[], Tensor], model: torch.nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss(), list(model.parameters())))


def row(report: GradientReport, case: str, quantity: str = "gradient") -> Any:
    (found,) = [r for r in report.rows if (r.case, r.quantity) == (case, quantity)]
    return found


@pytest.mark.parametrize("seed", range(3))
def test_refnets_nets_pass(seed: int) -> None:
    model = net(seed)
    report = gradient_check(loss_of(model), model)
    assert report.failures == []
    assert report.ratio < 1e-6
    assert set(report.ratios) == {name for name, _ in model.named_parameters()}
    assert 1.9 < report.slope < 2.1


def test_nothing_is_changed() -> None:
    model = net()
    model(torch.randn(4, 5, dtype=torch.float64))  # so that the buffers are not what they begin as
    before = [t.clone() for t in model.state_dict().values()]
    random = torch.get_rng_state()
    gradient_check(loss_of(model), model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_nothing_is_changed_by_a_loss_that_raises() -> None:
    model = net()
    before = [t.clone() for t in model.state_dict().values()]
    random = torch.get_rng_state()
    loss, calls = loss_of(model), iter(range(20))

    def broken() -> Tensor:
        if next(calls) == 15:  # an element of a parameter is changed
            raise RuntimeError("out of memory, say")
        return loss()

    with pytest.raises(RuntimeError, match="out of memory"):
        gradient_check(broken, model)
    assert next(calls) == 16
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("name", ["0.weight", "1.bias", "4.bias"])
@pytest.mark.parametrize("wrong", [lambda g: 2 * g, lambda g: None, lambda g: 1.003 * g])
def test_a_wrong_gradient_is_found_where_it_is(name: str, wrong: Any) -> None:
    model = net()
    loss, names = loss_of(model), [n for n, _ in model.named_parameters()]
    gradients = autograd_frozen(loss, model)
    gradients[names.index(name)] = wrong(gradients[names.index(name)])
    report = gradient_check(loss, model, gradients=gradients)
    failed = {r.case for r in report.failures if r.quantity == "gradient"}
    assert name in failed
    assert failed <= {name, "all parameters"}
    assert report.slope == pytest.approx(1, abs=0.1)
    assert "Taylor slope" in {r.quantity for r in report.failures}


def autograd_frozen(loss: Callable[[], Tensor], model: torch.nn.Module) -> list[Any]:
    with torch.random.fork_rng():
        return autograd(loss, model)


def test_a_forgotten_penalty_is_found_in_the_weights() -> None:
    model = net()
    gradients = autograd_frozen(loss_of(model, decay=0.0), model)
    report = gradient_check(loss_of(model), model, gradients=gradients)
    failed = {r.case for r in report.failures if r.quantity == "gradient"}
    assert failed == {"all parameters", "0.weight", "1.weight", "4.weight"}


class HalfOfIt(torch.autograd.Function):
    """Square whose derivative forgets the 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return gradients[0] * x


def test_a_wrong_autograd_function_is_found() -> None:
    w = torch.randn(4, dtype=torch.float64, requires_grad=True)
    report = gradient_check(lambda: HalfOfIt.apply(w).sum(), [w])  # type: ignore[no-untyped-call]
    assert [r.quantity for r in report.failures] == ["gradient", "gradient", "Taylor slope"]
    assert report.ratio == pytest.approx(1 / 3)


def test_masks_that_change_are_inconclusive() -> None:
    w = torch.ones(50, dtype=torch.float64, requires_grad=True)
    frozen = gradient_check(lambda: dropout(w, 0.5, training=True).pow(2).sum(), [w])
    assert frozen.failures == []
    generator = torch.Generator().manual_seed(0)
    report = gradient_check(lambda: dropout(w, 0.5, generator=generator).pow(2).sum(), [w])
    assert [r.verdict for r in report.rows] == [INCONCLUSIVE]
    assert "between two equal calls" in report.rows[0].note


def test_a_modules_buffers_are_frozen() -> None:
    model = torch.nn.BatchNorm1d(5).double()
    x = torch.randn(8, 5, dtype=torch.float64)

    def loss() -> Tensor:
        mean = model.get_buffer("running_mean")
        penalty: Tensor = model(x).pow(3).mean() + (model.weight * mean).sum()
        return penalty

    assert gradient_check(loss, model).failures == []
    report = gradient_check(loss, model.parameters())  # of whose buffers nothing is known
    assert [r.verdict for r in report.rows] == [INCONCLUSIVE]


def test_a_bias_before_batch_norm_is_a_null_direction() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    report = gradient_check(loss_of(model), model)
    assert report.failures == []
    assert row(report, "0.bias").verdict == NULL


def parameter(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    "function",
    [
        lambda w: nn.ReLU()(w).sum(),
        lambda w: w.abs().sum(),
        lambda w: w.clamp(0, 3).pow(2).sum() + w.abs().sum(),
        lambda w: (w > 0).double().sum() + w.pow(2).sum(),  # a jump
        lambda w: w.sum() + (w - 5e-8).abs().sum(),  # next to it
    ],
)
def test_a_kink_is_inconclusive(function: Any) -> None:
    w = parameter(1.0, 0.0, -2.0)
    report = gradient_check(lambda: function(w), [w])
    assert not report.passed
    assert {r.verdict for r in report.failures} == {INCONCLUSIVE}
    assert "no derivative here: 1 elements" in row(report, "parameter 0").note


def test_a_kink_hides_no_bug() -> None:
    w = parameter(1.0, 0.0, -2.0)
    wrong = 2 * torch.autograd.grad(w.abs().sum(), w)[0]
    report = gradient_check(lambda: w.abs().sum(), [w], gradients=[wrong])
    assert row(report, "parameter 0").verdict == "another function"


@pytest.mark.parametrize(
    ("function", "point"),
    [
        (lambda w: (1e4 * w).sin().sum(), 0.3),  # much curvature
        (lambda w: (w * w).sum(), 0.0),
        (lambda w: (w * w).sum() + 1e6, 1.0),  # large beside its differences
        (lambda w: 3 * w.sum(), 0.7),  # linear: no remainder
        (lambda w: (w - 1e4).pow(2).sum(), 1.0),
        (lambda w: w.exp().sum(), -30.0),
    ],
)
def test_smooth_points_raise_no_alarm(function: Any, point: float) -> None:
    w = parameter(point, point)
    report = gradient_check(lambda: function(w), [w])
    assert report.failures == []


@pytest.mark.parametrize("seed", range(20))
def test_piecewise_linear_losses_raise_no_alarm(seed: int) -> None:
    """Their remainder is 0 up to the first kink in the direction, and no power of h behind it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    w = parameter(0.3, -0.2, 0.9)
    report = gradient_check(lambda: (x @ w - 1).abs().mean(), [w], seed=seed)
    assert report.failures == []


@pytest.mark.parametrize(
    ("function", "point"), [(lambda w: w.sum() + 1e12, 1.0), (lambda w: w.pow(3).sum(), 0.0)]
)
def test_a_loss_that_hardly_differs_is_inconclusive(function: Any, point: float) -> None:
    w = parameter(point)
    report = gradient_check(lambda: function(w), [w])
    assert row(report, "parameter 0").verdict == INCONCLUSIVE


def test_float32_inside_the_loss_never_passes() -> None:
    w = parameter(0.3, 0.4)
    assert not gradient_check(lambda: w.float().pow(2).sum().double(), [w]).passed


def test_a_loss_without_the_parameters_is_inconclusive() -> None:
    w = parameter(1.0)
    report = gradient_check(lambda: torch.ones((), dtype=torch.float64), [w])
    assert row(report, "all parameters").verdict == INCONCLUSIVE


def test_a_detached_loss_is_found() -> None:
    w = parameter(1.0)
    assert row(gradient_check(lambda: w.detach().exp().sum(), [w]), "all parameters").error == 1


def test_some_elements() -> None:
    w = torch.randn(1000, dtype=torch.float64, requires_grad=True)
    calls = []

    def loss() -> Tensor:
        calls.append(1)
        return w.pow(2).sum()

    report = gradient_check(loss, {"w": w}.items(), elements=7, seed=3)
    assert report.failures == []
    assert "7 of 1000 elements, seed 3" in row(report, "w").note
    assert len(calls) < 100


def test_by_default_some_elements_of_large_parameters_are_taken() -> None:
    w, b = torch.randn(1000, dtype=torch.float64, requires_grad=True), parameter(2.0)
    wrong = 2 * w.detach()
    wrong[0] = -wrong[0] - 20

    def loss() -> Tensor:
        return w.pow(2).sum() + b.pow(2).sum()

    report = gradient_check(loss, {"w": w, "b": b}.items())
    report.raise_if_failed()
    assert "200 of 1000 elements, seed 0" in row(report, "w").note
    assert "201 of 1001 elements" in row(report, "all parameters").note
    assert " of " not in row(report, "b").note
    every = gradient_check(loss, {"w": w, "b": b}.items(), elements=None)
    assert " of " not in row(every, "w").note
    # one wrong element in a thousand that is not drawn: the slope tells
    some = gradient_check(loss, [w, b], gradients=[wrong, 2 * b.detach()])
    assert [r.quantity for r in some.failures] == ["Taylor slope"]
    assert len(gradient_check(loss, [w, b], gradients=[wrong, 2 * b.detach()],
                              elements=None).failures) == 3  # fmt: skip


def test_a_bar_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    w = torch.randn(30, dtype=torch.float64, requires_grad=True)
    monkeypatch.setattr(differences, "LONG", 10)
    gradient_check(lambda: w.pow(2).sum(), [w])
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    gradient_check(lambda: w.pow(2).sum(), [w])
    assert "gradient check" in capsys.readouterr().err


def test_tied_parameters_count_once() -> None:
    w = parameter(1.0, 2.0)
    assert set(gradient_check(lambda: w.pow(2).sum(), [("a", w), ("b", w)]).ratios) == {"a"}


def test_a_gradient_inside_the_loss() -> None:
    w, x = parameter(1.0, 2.0), parameter(3.0, 4.0)

    def loss() -> Tensor:
        (g,) = torch.autograd.grad((w * x.exp()).sum(), x, create_graph=True)
        return g.pow(2).sum() * 1e-3

    assert gradient_check(loss, [w]).failures == []


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        ([torch.ones(2, requires_grad=True)], {}, r"'parameter 0' is float32.*\.double\(\)"),
        ([torch.ones(2, dtype=torch.complex128)], {}, "'parameter 0' is complex128"),
        ([torch.ones(2, dtype=torch.float64)], {}, "'parameter 0' does not require a gradient"),
        ([], {}, "parameters holds none"),
        (torch.nn.ReLU(), {}, "parameters holds none"),
        (parameter(1.0), {}, "parameters is a tensor"),
        ([parameter(1.0)], {"eps": 0.0}, "eps is 0.0"),
        ([parameter(1.0)], {"threshold": 2}, "threshold is 2"),
        ([parameter(1.0)], {"elements": 0}, "elements is 0"),
        ([parameter(1.0)], {"gradients": []}, "gradients has 0 entries for 1 parameters"),
        ([parameter(1.0)], {"gradients": [torch.ones(3)]}, r"shape \(3,\), must be \(1,\)"),
    ],
)
def test_what_is_refused(parameters: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradient_check(lambda: torch.ones((), dtype=torch.float64), parameters, **options)


@pytest.mark.parametrize("value", [torch.ones(2, dtype=torch.float64), torch.ones(())])
def test_losses_that_are_refused(value: Tensor) -> None:
    with pytest.raises(ValueError, match="must be a scalar of float64"):
        gradient_check(lambda: value, [parameter(1.0)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number(value: float) -> None:
    w = parameter(1.0)
    report = gradient_check(lambda: (w * value).sum(), [w])
    assert [r.verdict for r in report.rows] == [INCONCLUSIVE]


def test_a_loss_in_numpy_with_gradients_by_hand() -> None:
    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    report = gradient_check(lambda: float(np.sum(w.numpy() ** 2)), [w], gradients=[2 * w])
    assert report.failures == []


@pytest.mark.parametrize(("quotient", "order"), [(one_sided, 1), (two_sided, 2)])
def test_the_orders_of_the_quotients(quotient: Any, order: int) -> None:
    steps = [1e-1, 1e-2]
    errors = [abs(quotient(math.exp, 1.0, h) - math.e) for h in steps]
    assert math.log10(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


def test_quotients_of_tensors() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(two_sided(torch.exp, x, 1e-5), x.exp(), rtol=1e-9, atol=0)


def test_bends() -> None:
    assert bends(math.sqrt, 1e-20, 1e-25, 1e-3) is False
    assert bends(lambda x: x * abs(x), 0.0, 1e-7, 1e-20) is False  # has a derivative
    assert bends(lambda x: max(x, 0.0), 3e-8, 1e-7, 1e-3) is True
