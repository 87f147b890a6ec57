"""Planted bugs of the initial weights."""

from __future__ import annotations

_MODULE = "init"

ROWS = [
    ("init", bug, _MODULE, old, new)
    for bug, old, new in (
        ("n_in and n_out exchanged", "return inputs * places, outputs * places", "return outputs * places, inputs * places"),
        ("the kernel's places not counted", "return inputs * places, outputs * places", "return inputs, outputs"),
        ("the variance as standard deviation", "return _GAINS[nonlinearity] / math.sqrt(n)", "return _GAINS[nonlinearity] ** 2 / n"),
        ("no gain", "return _GAINS[nonlinearity] / math.sqrt(n)", "return 1 / math.sqrt(n)"),
        ("1/(n_in + n_out)", "gain * math.sqrt(2 / n) if n", "gain * math.sqrt(1 / n) if n"),
        ("bound of the uniform distribution its deviation", "b = math.sqrt(3) * std", "b = std"),
        ("uniform on one side", "tensor.uniform_(-b, b, generator=generator)", "tensor.uniform_(0, 2 * b, generator=generator)"),
        ("the generator left out", "tensor.normal_(0, std, generator=generator)", "tensor.normal_(0, std)"),
        ("a mean", "tensor.normal_(0, std, generator=generator)", "tensor.normal_(std / 10, std, generator=generator)"),
        ("another rule by activation", "return _BY_ACTIVATION[activation]", "return _BY_ACTIVATION[\"sigmoid\"]"),
    )
]  # fmt: skip
