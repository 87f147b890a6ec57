"""Planted bugs of the exponentially weighted averages."""

from __future__ import annotations

_MODULE = "averages"

ROWS = [
    ("averages", bug, _MODULE, old, new)
    for bug, old, new in (
        ("no 1 - β", "new = beta * average + (1 - beta) * value", "new = beta * average + value"),
        ("β and 1 - β exchanged", "new = beta * average + (1 - beta) * value", "new = (1 - beta) * average + beta * value"),
        ("no memory", "new = beta * average + (1 - beta) * value", "new = value * 1.0"),
        ("the previous value", "self._average = exponential_average(self._average, value, self.beta)", "self._average, self._last = exponential_average(self._average, getattr(self, '_last', value), self.beta), value"),
        ("starts from the first value", "self._average = exponential_average(self._average, value, self.beta)", "self._average = exponential_average(self._average, value, self.beta if self.count else 0.0)"),
        ("not counted", "self.count += 1", "self.count = 1"),
        ("counted by twos", "self.count += 1", "self.count += 2"),
        ("not corrected", "return new if count is None else new / (1 - beta**count)", "return new"),
        ("correction one step late", "new / (1 - beta**count)", "new / (1 - beta ** (count + 1))"),
        ("correction by 1 - β", "new / (1 - beta**count)", "new / (1 - beta)"),
        ("β̂ one step late", "return beta * (1 - beta ** (count - 1)) / (1 - beta**count)", "return beta * (1 - beta**count) / (1 - beta ** (count + 1))"),
        ("β in place of β̂", "return beta * (1 - beta ** (count - 1)) / (1 - beta**count)", "return beta"),
    )
]  # fmt: skip
