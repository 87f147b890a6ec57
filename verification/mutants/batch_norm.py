"""Planted bugs of batch norm."""

from __future__ import annotations

_OP, _MODULE, _LAYER = "ops.batch_norm", "ops.batch_norm.reference", "nn.batchnorm"

ROWS = [
    ("batch_norm", bug, module, old, new)
    for bug, module, old, new in (
        ("no x̂ term in dx", _MODULE, " - z_norm * _per_channel(mean_dy_z, z)", ""),
        ("no mean term in dx", _MODULE, " - _per_channel(mean_dy, z)", ""),
        ("no γ in dx", _MODULE, "inv_std if weight is None else inv_std * wide(weight)", "inv_std"),
        ("N−1 for N in dx", _MODULE,
         "total(torch.stack([dbias, dweight])) / m", "total(torch.stack([dbias, dweight])) / (m - 1)"),
        ("no inv_std in dx", _MODULE,
         "scale = inv_std if weight is None else inv_std * wide(weight)",
         "scale = inv_std / inv_std if weight is None else wide(weight)"),
        ("dγ without inv_std", _MODULE,
         "dweight = (dy * z_norm)", "dweight = (dy * z_norm / _per_channel(inv_std, z))"),
        ("dβ is the mean", _MODULE, "dbias = dy.sum(", "dbias = dy.mean("),
        ("ε dropped", _MODULE, "(wide(var) + eps)", "wide(var)"),
        ("ε 1.1 times", _MODULE, "(wide(var) + eps)", "(wide(var) + 1.1 * eps)"),
        ("ε 1.1 times of more than 1024 channels", _MODULE, "(wide(var) + eps)",
         "(wide(var) + (1.1 if var.numel() > 1024 else 1) * eps)"),
        ("no mean term in dx of more than 1024 channels", _MODULE, " - _per_channel(mean_dy, z)",
         " - (z.shape[1] <= 1024) * _per_channel(mean_dy, z)"),
        ("ε outside the root", _MODULE, "(wide(var) + eps).rsqrt()", "1 / (wide(var).sqrt() + eps)"),
        ("variance as E[x²] − E[x]²", _MODULE,
         "(z - _per_channel(mean, z)).square().mean(_but_channels(z))",
         "z.square().mean(_but_channels(z)) - mean.square()"),
        ("normalized by the unbiased variance", _MODULE,
         "square().mean(_but_channels(z))",
         "square().sum(_but_channels(z)) / (count(z) - 1)"),
        ("biased running variance", _MODULE, "var * (m / (m - 1))", "var"),
        ("momentum ↔ 1 − momentum", _MODULE,
         "(1 - momentum) * wide(average) + momentum * value", "momentum * wide(average) + (1 - momentum) * value"),
        ("running mean not moved", _MODULE, "    move(running_mean, mean, momentum)\n", ""),
        ("running mean of an infinity is NaN", _MODULE,
         "move(running_mean, mean, momentum)", "move(running_mean, mean + 0 * mean, momentum)"),
        ("batch statistics in evaluation", _OP,
         "    if training:\n        return reference.statistics", "    if True:\n        return reference.statistics"),
        ("training backward in evaluation", _OP, "reference.count(z) if ctx.training else None", "reference.count(z)"),
        ("evaluation backward in training", _OP, "reference.count(z) if ctx.training else None", "None"),
        ("weight's size for the gradient ignored", _OP,
         "dweight.to(weight.dtype) if needs_weight", "2 * dweight.to(weight.dtype) if needs_weight"),
        ("ε dropped in backward", _OP,
         "inv_std = reference.inverse_std(var, ctx.eps)", "inv_std = reference.inverse_std(var, 0)"),
        ("running statistics of the wrong batch size", _MODULE,
         "return z.shape[0] * math.prod(z.shape[2:])", "return z.shape[0]"),
        ("no bias added", _MODULE, "y = y + _per_channel(wide(bias), z)", "pass"),
    )
]  # fmt: skip

ROWS += [
    ("BatchNorm", bug, _LAYER, old, new)
    for bug, old, new in (
        ("batches not counted", "        module.num_batches_tracked.add_(1)\n", ""),
        ("batches counted twice", "num_batches_tracked.add_(1)", "num_batches_tracked.add_(2)"),
        ("batches counted in evaluation",
         "tracking = module.training and module.track_running_stats", "tracking = module.track_running_stats"),
        ("cumulative average used before it counts",
         "momentum = 1 / wide(module.num_batches_tracked)", "momentum = 1 / wide(module.num_batches_tracked - 1)"),
        ("momentum None is 0.1", "momentum = 1 / wide(module.num_batches_tracked)", "momentum = 0.1"),
        ("momentum None leaves the statistics", "momentum = 1 / wide(module.num_batches_tracked)", "pass"),
        ("momentum 0 is None", "if module.momentum is None:", "if not module.momentum:"),
        ("momentum ignored", "0.0 if module.momentum is None else module.momentum", "0.1"),
        ("statistics of the batch in evaluation",
         "by_batch = module.training or", "by_batch = True or"),
        ("running statistics where none are kept", "by_batch = module.training or (module.running_mean is None and module.running_var is None)",
         "by_batch = module.training"),
        ("no γ", "weight, bias, eps = module.weight, module.bias", "weight, bias, eps = None, module.bias"),
        ("no β", "weight, bias, eps = module.weight, module.bias", "weight, bias, eps = module.weight, None"),
        ("ε of the default", "module.bias, module.eps", "module.bias, 1e-5"),
        ("running statistics not moved", "keep = tracking or not module.training", "keep = not module.training"),
    )
]  # fmt: skip

# Seen by second derivatives alone.
ROWS += [
    ("BatchNorm", "statistics are constants in the second derivative", _OP,
     "mean, var = _statistics(z, running_mean, running_var, ctx.training)\n    inv_std",
     "mean, var = (s.detach() for s in _statistics(z, running_mean, running_var, ctx.training))\n    inv_std"),
]  # fmt: skip
