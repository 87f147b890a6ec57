"""Planted bugs of softmax and log-softmax."""

from __future__ import annotations

_MODULE = "ops.softmax.reference"

ROWS = [
    (subject, bug, _MODULE, old, new)
    for subject, bug, old, new in (
        ("softmax", "no max subtraction", "return z - z.amax(dim, keepdim=True).detach() if z.numel() else z", "return z"),
        ("softmax", "the largest of all rows subtracted", "z.amax(dim, keepdim=True).detach()", "z[z.isfinite()].amax().detach()"),
        ("softmax", "sum over all dimensions", "(e / e.sum(dim, keepdim=True))", "(e / e.sum())"),
        ("softmax", "sum over 4096 classes at most", "(e / e.sum(dim, keepdim=True))",
         "(e / e.narrow(dim, 0, min(e.shape[dim], 4096)).sum(dim, keepdim=True))"),
        ("softmax", "backward's sum over 1000 classes at most", "(da * a).sum(dim, keepdim=True)",
         "(da * a).narrow(dim, 0, min(a.shape[dim], 1000)).sum(dim, keepdim=True)"),
        ("softmax", "backward of a diagonal Jacobian", "a * (da - (da * a).sum(dim, keepdim=True))", "a * (1 - a) * da"),
        ("softmax", "backward without the sum", "a * (da - (da * a).sum(dim, keepdim=True))", "a * da"),
        ("softmax", "backward's sum unweighted", "a * (da - (da * a).sum(dim, keepdim=True))", "a * (da - da.mean(dim, keepdim=True))"),
        ("softmax", "zeros as gradient", "a * (da - (da * a).sum(dim, keepdim=True))", "0 * a"),
        ("softmax", "computed in the input's float32", "e = shift(wide(z.to(dtype)), dim).exp()", "e = shift(z.to(dtype) * 1.0000001, dim).exp()"),
        ("softmax", "small probabilities cut off", "(e / e.sum(dim, keepdim=True))", "torch.where(e < 1e-12, 0 * e, e / e.sum(dim, keepdim=True))"),
        ("log_softmax", "cut off at −3e4", "(z - z.exp().sum(dim, keepdim=True).log())", "(z - z.exp().sum(dim, keepdim=True).log()).clamp(min=-3e4)"),
        ("log_softmax", "no max subtraction", "z = shift(wide(z.to(dtype)), dim)", "z = wide(z.to(dtype))"),
        ("log_softmax", "sum over all dimensions", "z.exp().sum(dim, keepdim=True).log()", "z.exp().sum().log()"),
        ("log_softmax", "log of softmax", "(z - z.exp().sum(dim, keepdim=True).log())", "(z.exp() / z.exp().sum(dim, keepdim=True)).to(dtype).log()"),
        ("log_softmax", "backward forgets exp", "log_a.exp() * dlog_a.sum", "log_a * dlog_a.sum"),
        ("log_softmax", "sum over 4096 classes at most", "z.exp().sum(dim",
         "z.exp().narrow(dim, 0, min(z.shape[dim], 4096)).sum(dim"),
        ("log_softmax", "backward is softmax's", "dlog_a - log_a.exp() * dlog_a.sum(dim, keepdim=True)", "softmax_backward(dlog_a, log_a.exp(), dim)"),
        ("log_softmax", "backward passes the cotangent on", " - log_a.exp() * dlog_a.sum(dim, keepdim=True)", ""),
        ("log_softmax", "sign", "dlog_a - log_a.exp()", "dlog_a + log_a.exp()"),
        ("log_softmax", "mean for sum", "z.exp().sum(", "z.exp().mean("),
    )
]  # fmt: skip
