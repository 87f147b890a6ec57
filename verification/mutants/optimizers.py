"""Planted bugs of the optimizers."""

from __future__ import annotations

_BASE = [
    (subject, bug, "optim._base", old, new)
    for subject in ("SGD", "Momentum", "RMSprop", "Adam", "AdamW")
    for bug, old, new in (
        ("None counts as zero", "if param.grad is not None:\n                    self._step_one(param, param.grad, group)",
         "if True:\n                    grad = torch.zeros_like(param) if param.grad is None else param.grad\n                    self._step_one(param, grad, group)"),
        ("maximize ignored", 'if group["maximize"]:', "if False:"),
        ("lr 1.01 times", "_real(param).copy_(new_param)",
         "_real(param).copy_(_real(param) + 1.01 * (new_param - _real(param)))"),
        ("does nothing", "_real(param).copy_(new_param)", "pass"),
    )
]  # fmt: skip

_ADAM = [
    (subject, bug, "optim.adam", old, new)
    for subject in ("Adam", "AdamW")
    for bug, old, new in (
        ("ε before bias correction", "(s_hat.sqrt() + eps)",
         "((s if s_max is None else s_max).sqrt() + eps) * (1 - beta2**t) ** 0.5 / (1 - beta2**t)"),
        ("ε ten times", "(s_hat.sqrt() + eps)", "(s_hat.sqrt() + 10 * eps)"),
        ("ε inside the root", "(s_hat.sqrt() + eps)", "(s_hat + eps).sqrt()"),
        ("β₂ slips", "beta2 * s + (1 - beta2) * dw * dw", "beta2 * s + (1 - beta1) * dw * dw"),
        ("t off by one", "v / (1 - beta1**t)", "v / (1 - beta1 ** (t + 1))"),
        ("no bias correction", "v_hat = v / (1 - beta1**t)", "v_hat = v"),
        ("amsgrad on the corrected S", "s_max = torch.maximum(s_max, s)",
         "s_max = torch.maximum(s_max, s / (1 - beta2**t))"),
        ("the gradient not averaged", "v = beta1 * v + (1 - beta1) * dw", "v = dw"),
    )
]  # fmt: skip

ROWS = [
    *_BASE,
    *_ADAM,
    ("Adam", "decay decoupled", "optim._base",
     'and not group.get("decoupled_weight_decay", False)', "and False"),
    ("AdamW", "decay coupled", "optim._base", 'and not group.get("decoupled_weight_decay", False)', ""),
    ("AdamW", "decay without the learning rate", "optim.adam",
     'w * (1 - group["lr"] * group["weight_decay"])', 'w * (1 - group["weight_decay"])'),
    ("SGD", "first momentum step dampened", "optim.sgd",
     "dw.clone() if v is None else", "(1 - dampening) * dw if v is None else"),
    ("SGD", "dampening ignored", "optim.sgd", "(1 - dampening) * dw", "dw"),
    ("SGD", "Nesterov without the look-ahead", "optim.sgd", "(dw + momentum * v if nesterov else v)", "v"),
    ("SGD", "maximize after decay", "optim._base",
     'grad = grad + group["weight_decay"] * param',
     'grad = grad + (-1 if group["maximize"] else 1) * group["weight_decay"] * param'),
    ("SGD", "state without momentum", "optim.sgd", 'return bool(group["momentum"] != 0)', "return True"),
    ("SGD", "momentum buffer is the gradient itself", "optim.sgd", "dw.clone() if v is None", "dw if v is None"),
    ("Momentum", "no 1 − β", "optim.momentum", "momentum * v + (1 - momentum) * dw", "momentum * v + dw"),
    ("Momentum", "β ↔ 1 − β", "optim.momentum",
     "momentum * v + (1 - momentum) * dw", "(1 - momentum) * v + momentum * dw"),
    ("Momentum", "bias correction off", "optim.momentum", "if bias_correction else v", "if False else v"),
    ("Momentum", "bias correction always on", "optim.momentum", "if bias_correction else v", "if True else v"),
    ("Momentum", "t off by one", "optim.momentum", "momentum**t", "momentum ** (t + 1)"),
    ("RMSprop", "ε always outside the root", "optim.rmsprop", "if eps_inside_root else", "if False else"),
    ("RMSprop", "ε always inside the root", "optim.rmsprop", "if eps_inside_root else", "if True else"),
    ("RMSprop", "α ↔ 1 − α", "optim.rmsprop",
     "alpha * s + (1 - alpha) * dw * dw", "(1 - alpha) * s + alpha * dw * dw"),
    ("RMSprop", "centered ignored", "optim.rmsprop", "spread = s - g * g", "pass"),
    ("RMSprop", "momentum ignored", "optim.rmsprop", "v = ratio = momentum * v + ratio", "v = ratio"),
    ("RMSprop", "ε 1.1 times", "optim.rmsprop", "spread.sqrt() + eps", "spread.sqrt() + 1.1 * eps"),
]  # fmt: skip
