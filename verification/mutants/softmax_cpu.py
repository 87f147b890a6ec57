"""Planted bugs of softmax's loops."""

from __future__ import annotations

_CPU = "ops.softmax.cpu"

ROWS = [
    (subject, f"loop: {bug}", _CPU, old, new)
    for subject, bug, old, new in (
        ("softmax", "no max subtraction", "top = largest(z, start, classes)", "top = real(0)"),
        ("softmax", "a part of a row summed", "            total += part\n        if logarithm:\n            log_sum", "            total = float(part)\n        if logarithm:\n            log_sum"),
        ("softmax", "not divided", "a[i] *= factor\n", "a[i] *= real(1)\n"),
        ("softmax", "the last of a row left out", "            factor = real(1 / total)\n            for i in range(start, stop):", "            factor = real(1 / total)\n            for i in range(start, stop - 1):"),
        ("softmax", "backward's sum unweighted", "total += float(da[i]) * a[i]", "total += float(da[i])"),
        ("softmax", "backward without the sum", "real(a[i] * (float(da[i]) - total))", "real(a[i] * float(da[i]))"),
        ("softmax", "backward's sign", "dz[i] = a[i] * (da[i] - summed)", "dz[i] = a[i] * (da[i] + summed)"),
        ("softmax", "backward of the last element", "total += float(da[i]) * a[i]", "total = float(da[i]) * a[i]"),
        ("softmax", "tiles, not divided", "a[row + j] *= factors[at + j]", "a[row + j] *= real(1)"),
        ("softmax", "tiles, the last class not summed", "        for c in range(classes):\n            row = start + c * inner\n            for j in range(width):\n                a[row + j] = exp",
         "        for c in range(classes - 1):\n            row = start + c * inner\n            for j in range(width):\n                a[row + j] = exp"),
        ("softmax", "tiles, the first example again", "start, at = example * classes * inner + column, example * inner + column\n        largest_of_each", "start, at = column, example * inner + column\n        largest_of_each"),
        ("softmax", "tiles, backward's sum unweighted", "totals[at + j] += da[row + j] * a[row + j]", "totals[at + j] += da[row + j]"),
        ("softmax", "tiles, backward without the sum", "(da[row + j] - sums[at + j])", "da[row + j]"),
        ("softmax", "the cotangent's memory as it lies", "da, dz = da.contiguous(), ", "da, dz = da, "),
        ("softmax", "the input's memory as it lies", "z, a = z.contiguous(), ", "z, a = z, "),
        ("log_softmax", "no max subtraction", "top = largest(z, start, classes)", "top = real(0)"),
        ("log_softmax", "the maximum not taken off", "a[i] = log_of(z[i], top, log_sum)", "a[i] = z[i] - log_sum"),
        ("log_softmax", "without the sum", "a[i] = log_of(z[i], top, log_sum)", "a[i] = z[i] - top"),
        ("log_softmax", "the sum's logarithm added to the maximum", "return (z - top) - log_sum", "return z - (top + log_sum)"),
        ("log_softmax", "mean for sum", "log_sum = real(log(total))", "log_sum = real(log(total / classes))"),
        ("log_softmax", "backward forgets exp", "dz[i] = da[i] - exp(a[i]) * summed", "dz[i] = da[i] - a[i] * summed"),
        ("log_softmax", "backward passes the cotangent on", "dz[i] = da[i] - exp(a[i]) * summed", "dz[i] = da[i]"),
        ("log_softmax", "backward's sum weighted", "total += da[i]\n", "total += da[i] * exp(a[i])\n"),
        ("log_softmax", "tiles, a sum of all but one", "            for j in range(width):\n                totals[at + j] += a[row + j]", "            for j in range(width):\n                totals[at + j] += a[row + j] if c else real(0)"),
        ("log_softmax", "tiles, no logarithm", "log(totals[j]) if logarithm else 1 / totals[j]", "1 / totals[j]"),
        ("log_softmax", "tiles, the maximum not taken off", "log_of(z[row + j], tops[at + j], ", "log_of(z[row + j], real(0), "),
        ("log_softmax", "tiles, backward's sign", "da[row + j] - exp(a[row + j])", "da[row + j] + exp(a[row + j])"),
        ("log_softmax", "tiles, backward forgets exp", "exp(a[row + j]) * sums", "a[row + j] * sums"),
    )
]  # fmt: skip
