"""Planted bugs of batch norm's compiled loops, and of what hands tensors to them."""

from __future__ import annotations

_CPU = "ops.batch_norm.cpu"

_FIRST = "            mean, var = _moments(z, n, channels, length, c)\n"
_FIRST_Z = "dz[j] = scale * (dy[j] - mean_dy - (z[j] - center) * slope)"
_LAST_Z = "centered = dy[at + c] - lines[2 * channels + c] - slope"

ROWS = [
    ("batch_norm", f"loops: {bug}", _CPU, old, new)
    for bug, old, new in (
        # channels first
        ("the last value of a row left out of the mean", "for j in range(start, stop):\n        for i in range(rows):\n            total += z[j + i * step]\n",
         "for j in range(start, stop - 1):\n        for i in range(rows):\n            total += z[j + i * step]\n"),
        ("the rows left over are not added, channels first", "            for i in range(several, row + rows):\n                part +=", "            for i in range(row, row):\n                part +="),
        ("one row four times in the gradients' sums", "_sum_products(dy, z, mean, i * step + c * length, length, step, ROWS)",
         "_sum_products(dy, z, mean, i * step + c * length, length, 0, ROWS)"),
        ("the rows left over are not in the gradients' sums", "            for i in range(several, n):\n", "            for i in range(several, several):\n"),
        ("the rows left over are not squared, channels first", "            for i in range(several, row + rows):\n                squares +=", "            for i in range(row, row):\n                squares +="),
        ("squares about zero", "total += (z[j + i * step] - mean) ** 2", "total += (z[j + i * step] - 0 * mean) ** 2"),
        ("the unbiased variance, channels first", "return total / m, squares / m", "return total / m, squares / (m - 1)"),
        ("biased running variance", "var * (m / (m - 1))", "var * (m / m)"),
        ("momentum ↔ 1 − momentum", "running_mean[c] = (1 - momentum) * running_mean[c] + momentum * mean",
         "running_mean[c] = momentum * running_mean[c] + (1 - momentum) * mean"),
        ("the means of all channels in one place", "            means[c] = mean\n            if moves:", "            means[0] = mean\n            if moves:"),
        ("ε outside the root, channels first", "(float(weight[c]) if has_weight else 1.0) / sqrt(var + eps)\n        center",
         "(float(weight[c]) if has_weight else 1.0) / (sqrt(var) + eps)\n        center"),
        ("no γ, channels first", "wide = (float(weight[c]) if has_weight else 1.0) / sqrt(var + eps)\n        center",
         "wide = 1.0 / sqrt(var + eps)\n        center"),
        ("no β, channels first", "shift = real((center - mean) * wide + (float(bias[c]) if has_bias else 0.0))",
         "shift = real((center - mean) * wide)"),
        ("the mean rounded and not made up for, channels first", "shift = real((center - mean) * wide + (",
         "shift = real(0.001 * mean * wide + ("),
        ("batch statistics in evaluation, channels first", "        if training:\n" + _FIRST, "        if True:\n" + _FIRST),
        ("no x̂ term in dx, channels first", _FIRST_Z, "dz[j] = scale * (dy[j] - mean_dy)"),
        ("no mean term in dx, channels first", _FIRST_Z, "dz[j] = scale * (dy[j] - (z[j] - center) * slope)"),
        ("dγ without inv_std, channels first", "dweight[c] = sum_dy_z * inv_std\n            dbias[c] = sum_dy\n        scale",
         "dweight[c] = sum_dy_z\n            dbias[c] = sum_dy\n        scale"),
        ("ε dropped in backward, channels first", "(squares / m if training else float(running_var[c])) + eps",
         "(squares / m if training else float(running_var[c]))"),
        ("no γ in dx, channels first", "scale = real(inv_std * (float(weight[c]) if has_weight else 1.0))", "scale = real(inv_std)"),
        ("training backward in evaluation, channels first", "                if training:\n                    for j", "                if True:\n                    for j"),
        # channels last
        ("the rows left over are not added", "            for row in range(several, stop):\n                _add(z", "            for row in range(stop, stop):\n                _add(z"),
        ("the rows left over are not squared", "            for row in range(several, stop):\n                _add_squares(", "            for row in range(stop, stop):\n                _add_squares("),
        ("the unbiased variance, channels last", "= table[c] / rows, table[channels + c] / rows\n", "= table[c] / rows, table[channels + c] / (rows - 1)\n"),
        ("ε 1.1 times, channels last", "wide = (float(weight[c]) if has_weight else 1.0) / sqrt(var + eps)\n            lines",
         "wide = (float(weight[c]) if has_weight else 1.0) / sqrt(var + 1.1 * eps)\n            lines"),
        ("no γ, channels last", "wide = (float(weight[c]) if has_weight else 1.0) / sqrt(var + eps)\n            lines",
         "wide = 1.0 / sqrt(var + eps)\n            lines"),
        ("no β, channels last", "                float(bias[c]) if has_bias else 0.0\n            )", "                0.0\n            )"),
        ("statistics not moved, channels last", "                if moves:\n", "                if False:\n"),
        ("no x̂ term in dx, channels last", _LAST_Z, "centered = dy[at + c] - lines[2 * channels + c]"),
        ("no mean term in dx, channels last", _LAST_Z, "centered = dy[at + c] - slope"),
        ("the rows left over have no gradient", "            for row in range(several, stop):\n                _add_products(", "            for row in range(stop, stop):\n                _add_products("),
        ("N−1 for N in dx, channels last", "lines[2 * channels + c] = sum_dy / rows +", "lines[2 * channels + c] = sum_dy / (rows - 1) +"),
        ("dγ without inv_std, channels last", "dweight[c] = sum_dy_z * inv_std\n                dbias[c] = sum_dy\n            wide",
         "dweight[c] = sum_dy_z\n                dbias[c] = sum_dy\n            wide"),
        ("training backward in evaluation, channels last", "            if training:\n                for c in range(channels):\n                    slope",
         "            if True:\n                for c in range(channels):\n                    slope"),
        ("chunks are put together as if of one mean", "table[var + c] + gap * gap * both", "table[var + c]"),
        ("the last chunk's products are left out", "            for k in range(1, -(-rows // chunk)):\n                for c in range(3", "            for k in range(1, -(-rows // chunk) - 1):\n                for c in range(3"),
        # what calls them
        ("the last row is left out", "(lines, lines + 32 * channels, rows, channels, chunk)", "(lines, lines + 32 * channels, rows - 1, channels, chunk)"),
        ("a channel is left out", "call(*pointers, *sizes, 0, channels, *numbers)", "call(*pointers, *sizes, 0, channels - 1, *numbers)"),
        ("the last chunk is left out", "        call(*pointers, *sizes, 0, chunks, ALL, *numbers)", "        call(*pointers, *sizes, 0, chunks - 1, ALL, *numbers)"),
        ("dγ and dβ in each other's place", "    return dz, dweight, dbias\n", "    return dz, dbias, dweight\n"),
    )
]  # fmt: skip

# Seen where images lie in memory in more ways than two.
ROWS += [
    ("BatchNorm", f"loops: {bug}", _CPU, old, new)
    for bug, old, new in (
        ("an input with gaps is taken as it lies", "z if layout.dense else z.contiguous()\n    y = ", "z\n    y = "),
        ("a cotangent of other strides is taken as it lies", "if dy.is_neg() or dy.stride() != z.stride():", "if dy.is_neg():"),
    )
]  # fmt: skip
