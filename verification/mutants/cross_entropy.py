"""Planted bugs of cross-entropy."""

from __future__ import annotations

_OP, _MODULE = "ops.cross_entropy", "ops.cross_entropy.reference"

ROWS = [
    ("cross_entropy", bug, module, old, new)
    for bug, module, old, new in (
        ("mean over all rows", _MODULE,
         "return torch.where(kept, weights, 0).sum()", "return torch.ones_like(weights).sum()"),
        ("mean over kept rows, unweighted", _MODULE,
         "return torch.where(kept, weights, 0).sum()", "return kept.sum()"),
        ("mean of probabilities over the weights", _MODULE,
         "return like.numel() / like.shape[dim] if like.numel() else 0.0",
         "return _soft_targets(like, target, weight, options).sum()"),
        ("ignored rows lose", _MODULE,
         "return torch.where(kept, losses, 0)\n", "return losses\n"),
        ("cut off at 3e4", _MODULE,
         "return torch.where(kept, losses, 0)\n", "return torch.where(kept, losses, 0).clamp(max=3e4)\n"),
        ("smoothing counts ignored rows", _MODULE,
         "return torch.where(kept, losses, 0)\n",
         "return torch.where(kept, losses, -(w * log_a).sum(dim) * (s / classes))\n"),
        ("ignored rows get a gradient", _MODULE,
         "return torch.where(_kept(target, options)[0].unsqueeze(dim), dz, 0)", "return dz"),
        ("smoothing over C − 1", _MODULE, "s / max(like.shape[class_dim(like)], 1)",
         "s / max(like.shape[class_dim(like)] - 1, 1)"),
        ("loss smoothed over C − 1", _MODULE, "(s / classes)", "(s / max(classes - 1, 1))"),
        ("smoothing unweighted in the loss", _MODULE,
         "(w * log_a).sum(dim) * (s / classes)", "log_a.sum(dim) * (s / classes)"),
        ("smoothing unweighted in the gradient", _MODULE,
         "return _smooth(target, like, options) * _per_class(weight, like)",
         "return target * (1 - options.label_smoothing) * _per_class(weight, like) + _smooth(target * 0, like, options)"),
        ("smoothing does not lower the true class", _MODULE, ".squeeze(dim) * (1 - s)", ".squeeze(dim)"),
        ("no max subtraction", _MODULE,
         "top = z.amax(dim, keepdim=True).detach()", "top = z.amax(dim, keepdim=True).detach() * 0"),
        ("sum over 4096 classes at most", _MODULE, "z.exp().sum(dim, keepdim=True)",
         "z.exp().narrow(dim, 0, min(z.shape[dim], 4096)).sum(dim, keepdim=True)"),
        ("no smoothing of more than 1024 classes", _MODULE, "(w * log_a).sum(dim) * (s / classes)",
         "(w * log_a).sum(dim) * (s / classes * (classes <= 1024))"),
        ("a scalar cotangent assumed", _MODULE,
         'grad if options.reduction != "none" else grad.unsqueeze(class_dim(like))', "grad.mean()"),
        ("gradient not divided", _MODULE,
         "        grad = grad / _divisor(like, target, weight, options)\n", "        pass\n"),
        ("the cotangent forgotten", _MODULE, "grad = wide(grad)", "grad = wide(grad) * 0 + 1"),
        ("A − Y for weighted rows", _MODULE, "a * q.sum(dim, keepdim=True) - q", "a - q"),
        ("Y − A", _MODULE, "(a * q.sum(dim, keepdim=True) - q)", "(q - a * q.sum(dim, keepdim=True))"),
        ("no weight in the loss", _MODULE, "losses = -(w * log_a).gather", "losses = -log_a.gather"),
        ("−inf spoils a row", _MODULE, "losses = -(w * log_a).gather(dim, own).squeeze(dim) * (1 - s)",
         "losses = -(torch.zeros_like(log_a).scatter(dim, own, 1) * w * log_a).sum(dim) * (1 - s)"),
        ("target's gradient without smoothing", _MODULE,
         "upstream * (1 - options.label_smoothing) * _per_class", "upstream * _per_class"),
        ("target's gradient without weight", _MODULE,
         " * _per_class(weight, log_a)\n    dweight", "\n    dweight"),
    )
]  # fmt: skip
