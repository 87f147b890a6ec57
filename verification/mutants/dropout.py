"""Planted bugs of dropout."""

from __future__ import annotations

_OP, _MODULE = "ops.dropout", "ops.dropout.reference"

ROWS = [
    (subject, bug, module, old, new)
    for subject in ("dropout", "dropout1d", "dropout2d", "dropout3d")
    for bug, module, old, new in (
        ("p ↔ 1 − p", _MODULE, "keep_prob = 1 - p", "keep_prob = p"),
        ("not divided by keep_prob", _MODULE, "(scale / keep_prob if keep_prob else scale)", "scale"),
        ("mask inverted", _MODULE, "scale = mask.to(a.dtype)", "scale = (~mask).to(a.dtype)"),
        ("mask forgotten", _MODULE, "scale = mask.to(a.dtype)", "scale = (mask | True).to(a.dtype)"),
        ("where for multiply", _MODULE,
         "return a * (scale / keep_prob if keep_prob else scale)",
         "return (a / (keep_prob or 1)).where(mask, 0)"),
        ("no mask in backward", _MODULE, "return forward(da, mask, p)", "return da / (1 - p or 1)"),
        ("no scale in backward", _MODULE, "return forward(da, mask, p)", "return da * mask"),
        ("divided in another order", _MODULE,
         "a * (scale / keep_prob if keep_prob else scale)", "a * scale / (keep_prob or 1)"),
        ("scaled in evaluation", _OP, "        return input\n",
         "        return input if training or p == 1 else input / (1 - p)\n"),
        ("a fresh mask in backward", _OP, "reference.backward(da, mask, ctx.p)",
         "reference.backward(da, torch.rand(mask.shape) < 1 - ctx.p, ctx.p)"),
        # Seen where the candidate draws its masks itself.
        ("random numbers used up at p = 0", _OP, "        return input\n",
         "        _ = torch.rand(1) if training else None\n        return input\n"),
        ("random numbers used up in evaluation", _OP, "        return input\n",
         "        _ = torch.rand(1)\n        return input\n"),
        ("random numbers used up at p = 1", _OP, "    if p == 1:\n",
         "    if p == 1 and torch.rand(1) >= 0:\n"),
        ("the same mask at every call", _OP, "    return noise.bernoulli_(1 - p, generator=generator).bool()",
         "    return noise.bernoulli_(1 - p, generator=torch.Generator().manual_seed(0)).bool()"),
        ("the second half of the mask is the first", _OP,
         "    return noise.bernoulli_(1 - p, generator=generator).bool()",
         "    n = noise.bernoulli_(1 - p, generator=generator).numel() // 2\n"
         "    noise.view(-1)[n : 2 * n] = noise.view(-1)[:n].clone()\n"
         "    return noise.bool()"),
        ("a mask with a period of 2^16", _OP,
         "    return noise.bernoulli_(1 - p, generator=generator).bool()",
         "    mask = noise.bernoulli_(1 - p, generator=generator).bool()\n"
         "    return mask.reshape(-1)[torch.arange(mask.numel()) % 2**16].view(mask.shape)"),
        ("p of what is drawn ↔ 1 − p", _OP, "noise.bernoulli_(1 - p,", "noise.bernoulli_(p,"),
        ("identity", _OP, "if not training or (p == 0 and mask is None):", "if True:"),
    )
]  # fmt: skip

ROWS += [
    (subject, bug, _OP, old, new)
    for subject in ("dropout1d", "dropout2d", "dropout3d")
    for bug, old, new in (
        ("a random number per element", "channels = input.shape[: 1 + batched]", "channels = input.shape"),
        ("a random number per example", "channels = input.shape[: 1 + batched]", "channels = input.shape[:1]"),
    )
]  # fmt: skip
