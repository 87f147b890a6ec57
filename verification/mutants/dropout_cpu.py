"""Planted bugs of dropout's compiled loop, and of what draws its key."""

from __future__ import annotations

_CPU = "ops.dropout.cpu"

ROWS = [
    ("dropout", f"loop: {bug}", _CPU, old, new)
    for bug, old, new in (
        ("p ↔ 1 − p", "n, keep = a.numel(), 1 - p", "n, keep = a.numel(), p"),
        ("not divided by keep_prob", "real(1) / real(keep), real(0)", "real(1), real(0)"),
        ("divided by a millionth less", "real(1) / real(keep), real(0)", "real(1.000001) / real(keep), real(0)"),
        ("shut off to almost nothing", "real(1) / real(keep), real(0)", "real(1) / real(keep), real(1e-30)"),
        ("mask of every second element inverted", "y[2 * k] = a[2 * k] * (kept if bits & LOW < limit else lost)",
         "y[2 * k] = a[2 * k] * (lost if bits & LOW < limit else kept)"),
        ("where for multiply", "y[2 * k] = a[2 * k] * (kept if bits & LOW < limit else lost)",
         "y[2 * k] = a[2 * k] * kept if bits & LOW < limit else lost"),
        ("the same bits for two neighbours", "(kept if (bits >> 32) & LOW < limit else lost)", "(kept if bits & LOW < limit else lost)"),
        ("the same bits for all pairs", "bits = _random(k, seed, offset)", "bits = _random(0, seed, offset)"),
        ("every second element kept", "(kept if (bits >> 32) & LOW < limit else lost)", "kept"),
        ("the key ignored", "seed, offset = key[0], key[1]", "seed, offset = 1, 2"),
        ("kept a hundredth too seldom", "round(keep * 2**32)", "round(0.99 * keep * 2**32)"),
        ("a key that nobody has drawn", ".random_(generator=generator)", ".fill_(7)"),
        ("a key from another generator", ".random_(generator=generator)", ".random_(generator=torch.Generator())"),
        ("bits that are not mixed", "    return x ^ ((x >> 31) & (2**33 - 1))\n", "    return seed + counter\n"),
    )
]  # fmt: skip
