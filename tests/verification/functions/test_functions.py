"""Any function and any module beside a reference: right ones pass, each kind of wrong one fails."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

import refnet
from refnet import use_backend
from verification.functions.verify import verify_function, verify_module
from verification.report import AS_GOOD, INCONCLUSIVE, WORSE, Report

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
W = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))


def failing(report: Report) -> set[str]:
    return {row.quantity for row in report.failures}


def formula(name: str, *, grad: Any, value: Any) -> Callable[..., Tensor]:
    """Make a function of a forward and a backward, which may be wrong."""

    def forward(ctx: Any, *tensors: Tensor) -> Any:
        ctx.save_for_backward(*tensors)
        return value(*tensors)

    def backward(ctx: Any, cotangent: Tensor) -> Any:
        return grad(cotangent, *ctx.saved_tensors)

    function = type(name, (torch.autograd.Function,), {
        "forward": staticmethod(forward), "backward": staticmethod(backward),
    })  # fmt: skip
    apply: Callable[..., Tensor] = function.apply  # type: ignore[attr-defined]
    return apply


def dropout_by_torchs_mask(x: Tensor, p: float) -> Tensor:
    """The reference draws it from the same seed."""
    with refnet.use_backend("reference"):
        return refnet.functional.dropout(x, p)


RIGHT: dict[str, tuple[Any, Any, Any]] = {
    "softmax": (lambda x: x.exp() / x.exp().sum(-1, True), lambda x: F.softmax(x, -1), [(X,)]),
    "refnet's": (refnet.functional.linear, F.linear, [(X, W), {"input": X, "weight": W}]),
    "itself": (torch.sin, torch.sin, [(X,)]),
    "several outputs": (lambda x: (x.sin(), {"b": [x.cos(), 3, None, "s"]}),
                        lambda x: ((x + 0).sin(), {"b": [x.cos(), 3, None, "s"]}), [(X,)]),
    "nested": (lambda p, k: p["w"] @ k[0] * k[1], lambda p, k: torch.matmul(p["w"], k[0]) * k[1],
               [({"w": W}, [X.T, 2.5])]),
    "no use of an argument": (lambda a, b: a * 2, lambda a, b: a + a, [(X, X)]),
    "constant": (lambda x: x * 0 + 1, lambda x: 1 + x * 0, [(X,)]),
    "no gradient": (lambda x: x.detach() * 2, lambda x: x.detach() + x.detach(), [(X,)]),
    "integers": (lambda x: x.argmax(-1), lambda x: (-x).argmin(-1), [(X,)]),
    "integer arguments": (lambda w, i: w[i], lambda w, i: F.embedding(i, w),
                          [(W, torch.tensor([0, 2, 2]))]),
    "numbers": (lambda x: x.sum().item(), lambda x: x.T.sum().item(), [(X,)]),
    "complex": (lambda x: torch.fft.rfft(x, norm="ortho"), lambda x: torch.fft.rfft(x) / 5**0.5,
                [(X,)]),
    "complex argument": (lambda z: z.real**2 + z.imag**2, lambda z: (z * z.conj()).real,
                         [(torch.complex(X, X.flip(0)),)]),
    "sparse": (lambda i, w: F.embedding(i, w, sparse=True), lambda i, w: w[i],
               [(torch.tensor([1, 1, 0]), W)]),
    "views": (lambda z: z.conj().imag * 1, lambda z: -z.imag, [(torch.complex(X, X).conj(),)]),
    "empty": (lambda x: x * 2, lambda x: x + x, [(X[:0],)]),
    "scalar": (lambda x: x * 2, lambda x: x + x, [(torch.tensor(0.3),)]),
    "dropout": (lambda x: dropout_by_torchs_mask(x, 0.4), lambda x: F.dropout(x, 0.4), [(X,)]),
    "a generator": (lambda x, g: x * torch.rand(5, generator=g), lambda x, g:
                    torch.rand(5, generator=g) * x, [(X, torch.Generator().manual_seed(3))]),
    "changed in place": (lambda x, m: m.mul_(0.9).add_(0.1 * x.detach().mean(0)) + x,
                         lambda x, m: x + m.lerp_(x.detach().mean(0), 0.1), [(X, W[0])]),
    "drawn": (torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1,
              lambda seed: (torch.randn(9, generator=torch.Generator().manual_seed(seed)),)),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_pass(name: str) -> None:
    candidate, reference, samples = RIGHT[name]
    report = verify_function(candidate, reference, samples)
    assert report.failures == []
    assert report.passed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_dtypes(dtype: torch.dtype) -> None:
    def swish(x: Tensor) -> Tensor:
        return (x.float() * torch.sigmoid(x.float())).to(x.dtype)

    assert verify_function(swish, F.silu, [(X,)], dtypes=[dtype]).failures == []
    wrong = verify_function(lambda x: 1.2 * swish(x), F.silu, [(X,)], dtypes=[dtype])
    assert failing(wrong) == {"output", "grad input"}


def third(c: Tensor, x: Tensor) -> Tensor:
    return 3 * c * x**2


cube: dict[str, Any] = {"value": lambda x: x**3}
WRONG: dict[str, tuple[Any, Any, Any, set[str]]] = {
    "value": (lambda x: x * 1.0000001, lambda x: x, [(X,)],
              {"output", "grad x", "second cotangent of output"}),
    "gradient times 2": (formula("A", **cube, grad=lambda c, x: 6 * c * x**2), lambda x: x**3,
                         [(X,)], {"grad x", "second x", "second cotangent of output"}),
    "gradient of zeros": (formula("B", **cube, grad=lambda c, x: 0 * x), lambda x: x**3,
                          [(X,)], {"grad x", "second x", "second cotangent of output"}),
    "no gradient": (lambda x: x.detach() ** 3, lambda x: x**3, [(X,)],
                    {"grad x", "second x", "second cotangent of output"}),
    "no gradient for one": (lambda a, b: a * b.detach(), torch.mul, [(X, X)],
                            {"grad b", "second a", "second b", "second cotangent of output"}),
    "zeros for no gradient": (lambda a, b: a + 0 * b, lambda a, b: a * 1, [(X, X)], {"grad b"}),
    "second derivative": (
        formula("C", **cube, grad=lambda c, x: 3 * c * x.detach() ** 2), lambda x: x**3, [(X,)],
        {"second x"}),
    "once differentiable": (
        formula("D", **cube, grad=once_differentiable(third)),
        lambda x: x**3, [(X,)], {"second x", "second cotangent of output"}),
    "shape": (lambda x: x.sum(0, keepdim=True), lambda x: x.sum(0), [(X,)],
              {"output", "second cotangent of output"}),
    "dtype": (lambda x: x.double(), lambda x: x * 1, [(X,)], {"output"}),
    "NaN": (lambda x: x / x * x, lambda x: x * 1, [(X - X,)], {"output", "grad x", "second x",
            "second cotangent of output"}),
    "crash": (lambda x: x @ x, lambda x: x * 1, [(X,)], {"-"}),
    "exit": (lambda x: exit(3), lambda x: x * 1, [(X,)], {"-"}),
    "crash in the backward": (formula("E", value=lambda x: x * 1, grad=lambda c, x: c @ c),
                              lambda x: x * 1, [(X,)], {"-"}),
    "too slow": (lambda x: time.sleep(9), lambda x: x * 1, [(X,)], {"-"}),
    "list for tuple": (lambda x: [x * 1], lambda x: (x * 1,), [(X,)], {"output"}),
    "other keys": (lambda x: {"a": x * 1}, lambda x: {"b": x * 1}, [(X,)], {"output"}),
    "another number": (lambda x: (x * 1, 3), lambda x: (x * 1, 4), [(X,)], {"output[1]"}),
    "nothing": (lambda x: None, lambda x: x * 1, [(X,)], {"output"}),
    "integers": (lambda x: x.argmax(-1) + 1, lambda x: x.argmax(-1), [(X,)], {"output"}),
    "argument changed": (lambda x: x.detach().mul_(2) / 2, lambda x: x.detach() * 1, [(X,)],
                         {"x afterwards"}),
    "argument left": (lambda x, m: x + (m + 1), lambda x, m: x + m.add_(1), [(X, W[0])],
                      {"m afterwards"}),
    "cotangent changed": (formula("G", value=lambda x: x * 1, grad=lambda c, x: c.mul_(1.5) / 1.5),
                          lambda x: x * 1, [(X,)], {"cotangent of output afterwards", "-"}),
    "a draw too many": (lambda x: (torch.rand(1), x * 1)[1], lambda x: x * 1, [(X,)],
                        {"random state"}),
    "a draw too few": (lambda x, g: x * 1, lambda x, g: (torch.rand(1, generator=g), x * 1)[1],
                       [(X, torch.Generator())], {"random state"}),
    "a draw in the backward": (
        formula("H", value=lambda x: x * 1, grad=lambda c, x: (torch.rand(1), c)[1]),
        lambda x: x * 1, [(X,)], {"random state"}),
    "memory, not values": (lambda x: x.as_strided((12, 5), (5, 1)) * 1, lambda x: x * 1, [(X,)],
                           {"output", "grad x"}),
    "contiguous only": (lambda x: x.view(60) * 1, lambda x: x.reshape(60) * 1, [(X,)], {"-"}),
    "a dict for a tensor": (lambda x: {"output": x}, lambda x: x * 1, [(X,)], {"output"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_functions_fail(name: str) -> None:
    candidate, reference, samples, quantities = WRONG[name]
    dtypes = [torch.float64] + [torch.float32] * (name in ("value", "dtype"))
    report = verify_function(candidate, reference, samples, dtypes=dtypes,
                             time_limit=0.3 if name == "too slow" else None)  # fmt: skip
    assert failing(report) == quantities
    assert {row.verdict for row in report.failures} == {"another function"}


def test_cancellation_is_worse() -> None:
    def variance(x: Tensor) -> Tensor:
        return (x * x).mean(0) - x.mean(0) ** 2

    x = torch.randn(400, 300, generator=torch.Generator().manual_seed(0)) + 30
    report = verify_function(variance, lambda x: x.var(0, correction=0), [(x,)], second=False)
    assert ("output", WORSE) in {(row.quantity, row.verdict) for row in report.failures}


class Relu1(torch.autograd.Function):
    """ReLU whose derivative is 1 at 0, torch's is 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return cotangents[0] * (x >= 0)


def relu_1(x: Tensor) -> Tensor:
    return Relu1.apply(x)  # type: ignore[no-any-return, no-untyped-call]


AT_0 = torch.tensor([[1.0, 0.0, -2.0], [0.0, 3.0, 0.5]])
KINKS: dict[str, tuple[Any, Any, Any]] = {
    "relu": (relu_1, torch.relu, AT_0),
    "ties": (lambda x: x.max(1).values.sum(), lambda x: x.amax(1).sum(), torch.ones(4, 3)),
    "root": (
        lambda x: torch.where(x > 0, torch.where(x > 0, x, 1).sqrt(), x),
        lambda x: x.abs().sqrt(),
        AT_0.abs(),
    ),
}


@pytest.mark.parametrize("name", KINKS)
def test_kinks_are_inconclusive(name: str) -> None:
    candidate, reference, x = KINKS[name]
    report = verify_function(candidate, reference, [(x,)])
    assert {row.verdict for row in report.failures} == {INCONCLUSIVE}
    assert {row.note for row in report.failures} == {"no derivative here"}


def test_a_kink_hides_no_bug() -> None:
    report = verify_function(lambda x: 2 * relu_1(x) - relu_1(x).detach(), torch.relu, [(AT_0,)])
    assert "grad x" in failing(report)
    assert "another function" in {row.verdict for row in report.failures}


def test_relu_itself_passes_at_its_kink() -> None:
    assert verify_function(lambda x: x.clamp(min=0) * 1, F.relu, [(AT_0 + 1,)]).passed
    assert verify_function(refnet.functional.relu, torch.relu, [(AT_0,)]).failures == []


def test_ties_of_integers_are_inconclusive() -> None:
    x = torch.tensor([[0.3, 0.1 + 0.2]], dtype=torch.float64)  # one bit apart
    report = verify_function(lambda x: x.float().argmax(-1), lambda x: x.argmax(-1) * 1,
                             [(x,)], dtypes=[torch.float64])  # fmt: skip
    assert {row.verdict for row in report.failures} == {INCONCLUSIVE}
    wide = torch.tensor([[0.1, 0.3]])
    assert "another function" in {
        row.verdict
        for row in verify_function(
            lambda x: x.argmin(-1), lambda x: x.argmax(-1), [(wide,)]
        ).failures
    }


def test_own_difference_quotients_where_the_reference_has_no_second_derivative() -> None:
    once = once_differentiable(third)
    reference = formula("R", **cube, grad=once)
    report = verify_function(lambda x: x**3, reference, [(X,)])
    assert report.failures == []
    assert "own difference quotient" in {row.rule for row in report.rows}
    wrong = formula("S", **cube, grad=lambda c, x: 3 * c * x.detach() ** 2)
    assert failing(verify_function(wrong, reference, [(X,)])) == {"second argument 0"}
    assert verify_function(reference, reference, [(X,)]).passed


def test_an_oracle_judges_the_reference_too() -> None:
    def sloppy(x: Tensor) -> Tensor:
        return (x * x).mean(0) - x.mean(0) ** 2

    def right(x: Tensor) -> Tensor:
        return (x - x.mean(0)).square().mean(0)

    options: dict[str, Any] = {"dtypes": [torch.float32], "second": False}
    x = X.repeat(30, 1) + 30
    report = verify_function(
        right, sloppy, [(x,)], oracle=lambda x: x.var(0, correction=0), **options
    )
    assert report.passed
    assert "better" in {row.verdict for row in report.rows}
    assert not verify_function(right, right, [(x,)], oracle=lambda x: x.var(0)).passed
    numpy = verify_function(torch.exp, torch.exp, [(X,)], oracle=lambda x: x.detach().exp().numpy())
    assert numpy.failures == []


def test_a_module_with_parameters_is_no_function() -> None:
    with pytest.raises(TypeError, match="use verify_module"):
        verify_function(torch.nn.Linear(5, 2), torch.nn.Linear(5, 2), [(X,)])
    assert verify_function(torch.nn.Tanh(), torch.tanh, [(X,)]).passed


def test_an_oracle_that_does_not_fit_is_inconclusive() -> None:
    report = verify_function(torch.exp, torch.exp, [(X,)], oracle=lambda x: x.exp().sum())
    assert {row.verdict for row in report.failures} == {INCONCLUSIVE}
    assert "output of the oracle has the shape (), the reference's (12, 5)" in report.rows[0].note


def test_an_oracle_that_writes_nothing_over() -> None:
    def reference(x: Tensor, m: Tensor) -> Tensor:
        return x + m.add_(1)

    report = verify_function(reference, reference, [(X, W[0])], oracle=lambda x, m: x + (m + 1))
    assert report.failures == []


def test_bits() -> None:
    def candidate(x: Tensor) -> Tensor:
        return x.flip(-1).sum(-1)

    assert verify_function(candidate, lambda x: x.sum(-1), [(X,)]).passed
    report = verify_function(candidate, lambda x: x.sum(-1), [(X,)], bitwise=True)
    assert {row.rule for row in report.failures} == {"bitwise, reference in float64"}


def test_what_is_chosen_is_differentiated() -> None:
    chosen = X.clone().requires_grad_()
    report = verify_function(lambda a, b: a * b.detach(), torch.mul, [(chosen, X)])
    assert report.failures == []
    assert {r.quantity for r in report.rows if r.quantity.startswith("grad")} == {"grad a"}


def test_the_reference_in_trouble_is_inconclusive() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("no such file")

    report = verify_function(lambda x: x, broken, [(X,)])
    assert {row.verdict for row in report.rows} == {INCONCLUSIVE}
    assert "no such file" in report.rows[0].note
    nothing = verify_function(lambda x: None, lambda x: None, [(X,)])
    assert nothing.passed  # both return None
    assert not verify_function(lambda: (), lambda: (), [()]).passed


def test_random_functions_of_other_masks_per_dtype_are_not_judged_wrongly() -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn_like(x)

    assert verify_function(noisy, noisy, [(X,)]).failures == []


def test_nothing_is_changed() -> None:
    x, buffer, random = X.clone(), W[0].clone(), torch.get_rng_state()
    verify_function(lambda x, m: x + m.add_(1), lambda x, m: x + m.add_(1), [(x, buffer)])
    assert torch.equal(x, X)
    assert torch.equal(buffer, W[0])
    assert torch.equal(random, torch.get_rng_state())
    assert x.grad is None
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("samples", "options", "error", "message"),
    [
        ([], {}, ValueError, "samples is empty"),
        (iter(()), {}, ValueError, "samples is empty"),
        ([X], {}, TypeError, "sample 0 is a Tensor"),
        ([(X,), {1: X}], {}, TypeError, "sample 1 is a dict"),
        ({"x": X}, {}, TypeError, "samples is a dict"),
        (lambda seed: X, {}, TypeError, r"samples\(0\) is a Tensor"),
        ([(X,)], {"dtypes": []}, ValueError, "dtypes is"),
        ([(X,)], {"dtypes": [torch.int64]}, ValueError, "dtypes is"),
        ([(X,)], {"dtypes": [torch.complex64]}, ValueError, "dtypes is"),
        ([(X,)], {"seeds": 0}, ValueError, "seeds is 0"),
        ([(X,)], {"seeds": []}, ValueError, "seeds is"),
        ([(X,)], {"seeds": [-1]}, ValueError, "seeds is"),
    ],
)
def test_what_is_refused(samples: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        verify_function(torch.sin, torch.sin, samples, **options)


def test_each_seed_draws_other_numbers() -> None:
    drawn: list[float] = []

    def noisy(x: Tensor) -> Tensor:
        drawn.append(torch.rand(()).item())
        return x * 1

    verify_function(noisy, noisy, [(X,)], seeds=[3, 4], second=False)
    expected = {torch.rand((), generator=torch.Generator().manual_seed(s)).item() for s in (3, 4)}
    assert set(drawn) == expected


def test_the_note_says_what_differs() -> None:
    report = verify_function(lambda x: x.sum(0, True), lambda x: x.sum(0), [(X,)])
    assert "is (1, 5), the reference's (5,)" in report.failures[0].note


def test_second_derivatives_that_cancel_are_no_false_alarm() -> None:
    """Where softmax is all but 0 and 1, the second derivative is 1e-7 of its terms."""
    x = 100 * torch.randn(20, 9, generator=torch.Generator().manual_seed(11))
    report = verify_function(
        lambda x: x - x.logsumexp(-1, True), lambda x: F.log_softmax(x, -1), [(x,)],
        dtypes=[torch.float64],
    )  # fmt: skip
    assert report.failures == []


def test_seeds_and_floors_are_in_the_rows() -> None:
    report = verify_function(torch.sin, torch.sin, [(X,)], seeds=[7])
    rows = [row for row in report.rows if row.quantity == "output"]
    assert {row.seed for row in rows} == {7}
    assert all(row.floor > 0 for row in rows)
    assert report.title == "sin beside sin"


# Modules


def net(layers: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        layers.Linear(5, 6, bias=False), layers.BatchNorm1d(6), layers.ReLU(),
        layers.Dropout(0.3), layers.Linear(6, 3), layers.LogSoftmax(1),
    )  # fmt: skip


MODULES: dict[str, tuple[Callable[[], Any], Callable[[], Any], Any]] = {
    "net": (lambda: net(refnet.nn), lambda: net(torch.nn), X),
    "batch norm": (lambda: refnet.nn.BatchNorm1d(5), lambda: torch.nn.BatchNorm1d(5), X),
    "average": (lambda: refnet.nn.BatchNorm1d(5, momentum=None),
                lambda: torch.nn.BatchNorm1d(5, momentum=None), X),
    "several outputs": (lambda: torch.nn.GRU(5, 2), lambda: torch.nn.GRU(5, 2), X[:3]),
    "no state": (refnet.nn.ReLU, torch.nn.ReLU, X),
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_right_modules_pass(name: str) -> None:
    candidate, reference, x = MODULES[name]
    with use_backend("reference"):  # whose dropout draws torch's masks
        report = verify_module(candidate(), reference(), [(x,)])
    assert report.failures == []
    quantities = {row.quantity for row in report.rows}
    assert quantities >= {"output", "grad input"} or name == "several outputs"
    assert "state dict round trip" in quantities


class Norm(torch.nn.Module):
    """Batch norm with other names, and bugs by choice."""

    def __init__(self, bug: str = "") -> None:
        super().__init__()
        self.bug, self.steps = bug, 0
        self.gamma = torch.nn.Parameter(torch.rand(5))
        self.beta = torch.nn.Parameter(torch.rand(5))
        self.mean: Tensor
        self.var: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(5), persistent=bug != "not in the state dict")
        self.register_buffer("var", torch.ones(5))
        self.register_buffer("count", torch.tensor(0))
        if bug == "one more":
            self.more = torch.nn.Parameter(torch.rand(2))
        if bug == "other shape":
            self.beta = torch.nn.Parameter(torch.rand(1))
        if bug == "frozen":
            self.beta.requires_grad_(False)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        if self.bug == "does not load":
            state_dict = {**state_dict, "beta": self.beta.detach().clone()}
        return super().load_state_dict(state_dict, strict, assign)

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean.clone(), self.var.clone()
        if self.training or self.bug == "trains in evaluation":
            mean, var = x.mean(0), x.var(0, correction=0)
            with torch.no_grad():
                momentum = 0.9 if self.bug == "momentum" else 0.1
                self.mean.lerp_(mean, momentum)
                self.var.lerp_(x.var(0, correction=self.bug != "biased"), momentum)
                if self.bug != "not counted":
                    self.count += 1
        gamma = self.gamma.detach() if self.bug == "detached" else self.gamma
        if self.bug == "wanders":
            self.steps += 1
            gamma = gamma * (1 + 0.01 * (self.steps - 1))
        return (x - mean) / (var + 1e-5).sqrt() * gamma + self.beta


AFTERWARDS = {f"self.running_{name} afterwards" for name in ("mean", "var")}
BUGS: dict[str, set[str]] = {
    "": set(),
    "one more": {"parameters and buffers", "state-dict keys"},
    "momentum": {*AFTERWARDS, "output[2]"},
    "biased": {"self.running_var afterwards", "output[2]"},
    "not counted": {"self.num_batches_tracked afterwards"},
    "detached": {"grad self.weight"},
    "frozen": {"grad self.bias"},
    "wanders": {"output[1]", "output[2]", "output[3]", "state dict round trip"},
    "does not load": {"state dict round trip"},
    "not in the state dict": {"state-dict keys", "state dict round trip"},
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_bug_of_a_module_is_found(bug: str) -> None:
    report = verify_module(Norm(bug), torch.nn.BatchNorm1d(5), [(X,)], second=False)
    assert failing(report) == BUGS[bug]


def test_evaluation_by_the_training_formula_is_found() -> None:
    report = verify_module(Norm("trains in evaluation"), torch.nn.BatchNorm1d(5), [(X,)])
    assert {row.case for row in report.failures} >= {"sample 0, evaluation"}
    assert "sample 0, training" not in {row.case for row in report.failures}


def test_names_without_counterpart_are_listed() -> None:
    report = verify_module(Norm("other shape"), torch.nn.BatchNorm1d(5), [(X,)], second=False)
    (row,) = [r for r in report.rows if r.quantity == "parameters and buffers"]
    assert "bias of the reference, beta of the candidate" in row.note
    (row,) = [
        r
        for r in verify_module(Norm(), torch.nn.BatchNorm1d(5), [(X,)], second=False).rows
        if r.quantity == "parameters and buffers"
    ]
    assert row.verdict == AS_GOOD
    assert "gamma for weight" in row.note


def test_given_modules_stay_as_they_are() -> None:
    candidate, reference = Norm().train(), torch.nn.BatchNorm1d(5).eval()
    before = copy.deepcopy((candidate.state_dict(), reference.state_dict()))
    verify_module(candidate, reference, [(X,)])
    for old, new in zip(before, (candidate.state_dict(), reference.state_dict()), strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)
    assert candidate.training
    assert not reference.training
    assert candidate.gamma.dtype == torch.float32
    assert candidate.gamma.grad is None


def test_a_module_that_crashes_is_a_row() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not today")

    report = verify_module(Broken(), torch.nn.ReLU(), [(X,)])
    assert {row.rule for row in report.failures} == {"runs"}
    assert all("not today" in row.note for row in report.failures)


def test_an_oracle_module() -> None:
    options: dict[str, Any] = {"dtypes": [torch.float32], "second": False}
    oracle = torch.nn.BatchNorm1d(5)
    report = verify_module(Norm(), torch.nn.BatchNorm1d(5), [(X,)], oracle=oracle, **options)
    assert report.failures == []
    wrong = torch.nn.BatchNorm1d(5, eps=1e-2)
    assert not verify_module(Norm(), torch.nn.BatchNorm1d(5), [(X,)], oracle=wrong).passed
    with pytest.raises(ValueError, match="oracle has other tensors"):
        verify_module(Norm(), torch.nn.BatchNorm1d(5), [(X,)], oracle=torch.nn.ReLU())


@pytest.mark.parametrize(
    ("candidate", "error", "message"),
    [
        (torch.nn.LazyLinear(2), ValueError, "candidate has lazy parameters"),
        (torch.relu, TypeError, "candidate is a builtin_function_or_method"),
    ],
)
def test_modules_that_are_refused(candidate: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        verify_module(candidate, torch.nn.ReLU(), [(X,)])
    with pytest.raises(ValueError, match="samples is empty"):
        verify_module(torch.nn.ReLU(), torch.nn.ReLU(), [])
