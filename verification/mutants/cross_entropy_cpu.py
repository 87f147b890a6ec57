"""Planted bugs of cross-entropy's loops, of their exponential, and of what calls them."""

from __future__ import annotations

_CPU, _MATH = "ops.cross_entropy.cpu", "ops._elementary"

# What stands in both loops has the lines around it for context.
_ROW_OWN = "here = loss_of(float(z[start + own]) - top, even, log(total), w_own, w_all,"
_TILE_OWN = "here = loss_of(float(z[start + own * inner + j]) - top, even, log(sums[i]), w_own,"

ROWS = [
    ("cross_entropy", bug, module, old, new)
    for bug, module, old, new in (
        # what all loops use
        ("loop: smoothing does not lower the true class", _CPU, "loss = (1 - s) * w_own * (log_sum - own)", "loss = w_own * (log_sum - own)"),
        ("loop: log Σ added to the largest", _CPU, "w_own * (log_sum - own)", "w_own * (((log_sum + 1e16) - 1e16) - own)"),
        ("loop: the loss's smoothing unweighted", _CPU, "s_each * (w_all * log_sum - even)", "s_each * (w_all / w_own * log_sum - even)"),
        ("loop: the sum of weights is C", _CPU, "    if not weighted:\n        return float(classes)\n", "    if True:\n        return float(classes)\n"),
        ("loop: mean is the sum", _CPU, "divisor = weight if mean else 1.0", "divisor = 1.0"),
        ("loop: sum is the mean", _CPU, "divisor = weight if mean else 1.0", "divisor = weight"),
        ("loop: the divisor not kept", _CPU, "real(loss / divisor), real(divisor)", "real(loss / divisor), real(1)"),
        # rows
        ("rows: part of a row summed", _CPU, "for at in range(start, start + classes, PART):", "for at in range(start, start + min(classes, PART), PART):"),
        ("rows: the largest of a row's beginning", _CPU, "                top = largest(z, start, classes)", "                top = largest(z, start, min(classes, 3))"),
        ("rows: weights of the smoothing ignored", _CPU, "even += (w[c] if weighted else real(1)) * (float", "even += real(1) * (float"),
        ("rows: ignored rows count", _CPU, "            elif own != ignore_index and wrong < 0:\n                wrong = i\n            sums[i]",
         "            else:\n                weight += 1\n            sums[i]"),
        ("rows: mean over rows, not weights", _CPU, _ROW_OWN + "\n                               s / classes, s)  # fmt: skip\n                loss += here\n                weight += w_own",
         _ROW_OWN + "\n                               s / classes, s)  # fmt: skip\n                loss += here\n                weight += 1"),
        ("rows: smoothing over C − 1", _CPU, "w_own, w_all,\n                               s / classes, s)", "w_own, w_all,\n                               s / (classes - 1), s)"),
        ("rows: ignored rows get a gradient", _CPU, "        if own == ignore_index:\n            for c in range(classes):\n                dz[start + c] = real(0)\n            continue\n",
         "        if own == ignore_index:\n            own = 0\n"),
        ("rows: a scalar cotangent assumed", _CPU, "        up = float(g[i]) if each else float(g[0]) / sums[n]\n        w_own = float(w[own]) if weighted else 1.0\n        a_up",
         "        up = float(g[0]) if each else float(g[0]) / sums[n]\n        w_own = float(w[own]) if weighted else 1.0\n        a_up"),
        ("rows: gradient not divided", _CPU, "        up = float(g[i]) if each else float(g[0]) / sums[n]\n        w_own = float(w[own]) if weighted else 1.0\n        a_up",
         "        up = float(g[i]) if each else float(g[0])\n        w_own = float(w[own]) if weighted else 1.0\n        a_up"),
        ("rows: A − Y for weighted rows", _CPU, "        a_up = up * ((1 - s) * w_own + s_each * w_all) / sums[i]\n        factor", "        a_up = up / sums[i]\n        factor"),
        ("rows: smoothing's gradient unweighted", _CPU, "q = even * w[c] if weighted else even", "q = even"),
        ("rows: the true class not smoothed", _CPU, "q_own = (1 - s) * w_own + s_each * w_own", "q_own = (1 - s) * w_own"),
        ("rows: smoothing's gradient left out", _CPU, "        if s == 0:\n            for k in", "        if True:\n            for k in"),
        # tiles
        ("tiles: the last class left out", _CPU, "for c in range(run, min(run + RUN, classes)):", "for c in range(run, min(run + RUN, classes - 1)):"),
        ("tiles: a later class the largest", _MATH, "tops[at + j] = here if here > top else top", "tops[at + j] = here"),
        ("tiles: weights of the smoothing ignored", _CPU, "even += (w[c] if weighted else real(1)) * shifted", "even += shifted"),
        ("tiles: the score of the class before", _CPU, _TILE_OWN, _TILE_OWN.replace("own * inner", "max(own - 1, 0) * inner")),
        ("tiles: ignored rows count", _CPU, "            elif own != ignore_index and wrong < 0:\n                wrong = i\n            if each",
         "            else:\n                weight += 1\n            if each"),
        ("tiles: a scalar cotangent assumed", _CPU, "            up = float(g[i]) if each else float(g[0]) / sums[n]\n            w_own = float(w[own]) if weighted and",
         "            up = float(g[0]) if each else float(g[0]) / sums[n]\n            w_own = float(w[own]) if weighted and"),
        ("tiles: A − Y for weighted rows", _CPU, "factors[i] = real(up * ((1 - s) * w_own + s_each * w_all) / sums[i])", "factors[i] = real(up / sums[i])"),
        ("tiles: smoothing's gradient left out", _CPU, "            evens[i] = real(up * s_each)", "            evens[i] = real(0)"),
        ("tiles: smoothing's gradient unweighted", _CPU, "- evens[at + j] * w_c", "- evens[at + j]"),
        ("tiles: ignored rows get a gradient", _CPU, "            if own == ignore_index:\n                for c in range(classes):\n                    dz[start + c * inner + j] = real(0)\n                continue\n",
         "            if own == ignore_index:\n                continue\n"),
        ("tiles: the true class not smoothed", _CPU, "up * ((1 - s) * w_own + s_each * w_own))\n\n\n@compiled()", "up * (1 - s) * w_own)\n\n\n@compiled()"),
        ("tiles: rows of the first example", _CPU, "start, at = example * classes * inner + column, example * inner + column\n        largest_of_each(z, start, inner, classes, tops, at, width)\n        for j in",
         "start, at = column, example * inner + column\n        largest_of_each(z, start, inner, classes, tops, at, width)\n        for j in"),
        # the exponential and the maximum
        ("exp: half of ln 2's digits", _MATH, "r = (x - k * f(0.693145751953125)) - k * f(1.428606765330187e-06)", "r = x - k * f(0.693145751953125)"),
        ("exp: three terms too few", _MATH, "    p = p * r + f(8.33336077630519867e-03)\n", "    p = f(0)\n"),
        ("exp: held to where it is almost 0", _MATH, "    f = np.float32\n    shifted", "    f = np.float32\n    x = f(-104) if x < f(-104) else x\n    shifted"),
        ("exp: not held to its range", _MATH, "    return f(0) if x < f(-104) else value", "    return value"),
        ("largest: the last left out", _MATH, "    for i in range(start + 1, start + count):\n        other", "    for i in range(start + 1, start + count - 1):\n        other"),
        ("largest: negative numbers in reverse", _MATH, "np.int32(bits ^ np.int32(np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))", "np.int32(bits)"),
        # what calls them
        ("loops: the scores' memory as it lies", _CPU, "    z = logits.contiguous()\n", "    z = logits\n"),
        ("loops: the labels' memory as it lies", _CPU, "target.long().contiguous()", "target.long()"),
        ("loops: the cotangent's memory as it lies", _CPU, "g, dz = grad.contiguous(), ", "g, dz = grad, "),
        ("loops: labels of a wrong row pass", _CPU, "    if max(wrong) >= 0:\n", "    if False:\n"),
    )
]  # fmt: skip
