"""Planted bugs of the schedules of the learning rate."""

from __future__ import annotations

_MODULE = "optim.lr_scheduler"
_LINE = "return [base * self.factor(self.last_epoch) for base in self.base_lrs]"

ROWS = [
    (subject, bug, _MODULE, _LINE, new)
    for subject in ("InverseTimeDecay", "ExponentialDecay", "InverseSqrtDecay")
    for bug, new in (
        ("base rate lost", "return [self.factor(self.last_epoch) for base in self.base_lrs]"),
        ("the first group's rate for all",
         "return [self.base_lrs[0] * self.factor(self.last_epoch) for base in self.base_lrs]"),
        ("one epoch ahead", "return [base * self.factor(self.last_epoch + 1) for base in self.base_lrs]"),
        ("one epoch behind", "return [base * self.factor(max(self.last_epoch - 1, 0)) for base in self.base_lrs]"),
        ("applied twice", "return [base * self.factor(self.last_epoch) ** 2 for base in self.base_lrs]"),
        ("never applied", "return list(self.base_lrs)"),
        ("multiplied onto the last rate",
         "return [g[\"lr\"] * self.factor(self.last_epoch) for g in self.optimizer.param_groups]"),
        ("the epoch counted in calls of this object",
         "self.calls = vars(self).get(\"calls\", -1) + 1; return [base * self.factor(self.calls) for base in self.base_lrs]"),
        ("rates in single precision",
         "return [float(Tensor([base * self.factor(self.last_epoch)])) for base in self.base_lrs]"),
    )
]  # fmt: skip

ROWS += [
    (subject, bug, _MODULE, old, new)
    for subject, bug, old, new in (
        ("InverseTimeDecay", "rate ignored", "(1 / (1 + self.decay_rate * epoch))", "(1 / (1 + epoch))"),
        ("InverseTimeDecay", "linear", "(1 / (1 + self.decay_rate * epoch))", "(1 - self.decay_rate * epoch)"),
        ("InverseTimeDecay", "decay_rate 1.01 times", "(1 + self.decay_rate * epoch)", "(1 + 1.01 * self.decay_rate * epoch)"),
        ("InverseTimeDecay", "epochs counted from 1", "self.decay_rate * epoch)", "self.decay_rate * (epoch + 1))"),
        ("ExponentialDecay", "gamma · epoch", "self.gamma**epoch", "self.gamma * epoch"),
        ("ExponentialDecay", "e^(−gamma · epoch)", "self.gamma**epoch", "math.exp(-self.gamma * epoch)"),
        ("ExponentialDecay", "gamma of the default", "self.gamma**epoch", "0.95**epoch"),
        ("InverseSqrtDecay", "no root", "math.sqrt(epoch + 1)", "(epoch + 1)"),
        ("InverseSqrtDecay", "k inside the root", "self.k / math.sqrt(epoch + 1)", "math.sqrt(self.k / (epoch + 1))"),
        ("InverseSqrtDecay", "k ignored", "self.k / math.sqrt(epoch + 1)", "1 / math.sqrt(epoch + 1)"),
        ("InverseSqrtDecay", "epochs counted from 0", "math.sqrt(epoch + 1)", "math.sqrt(max(epoch, 1))"),
    )
]  # fmt: skip
