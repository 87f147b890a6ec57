"""Planted bugs of the optimizers."""

from __future__ import annotations

_BASE = [
    (subject, bug, "optim._base", old, new)
    for subject in ("SGD", "Momentum", "RMSprop", "Adam", "AdamW")
    for bug, old, new in (
        ("None counts as zero", "params = [param for param in group[\"params\"] if param.grad is not None]",
         "params = group[\"params\"]; [setattr(p, \"grad\", torch.zeros_like(p)) for p in params if p.grad is None]"),
        ("maximize ignored", 'if group["maximize"]:', "if False:"),
        ("lr 1.01 times", "w.copy_(new_w)", "w.copy_(w + 1.01 * (new_w - w))"),
        ("does nothing", "w.copy_(new_w)", "pass"),
        ("the first group's options for all", "_scalars(group, self.defaults)",
         "_scalars(self.param_groups[0], self.defaults)"),
        ("a tensor's learning rate in float32", "else value.item()", "else value.float().item()"),
        ("the closure without gradients", "with torch.enable_grad():", "with torch.no_grad():"),
        ("the closure's loss lost", "return loss\n", "return None\n"),
        ("the closure called twice", "loss = closure()", "closure(); loss = closure()"),
        ("state forgotten on loading", "super().__setstate__(state)",
         "super().__setstate__(state); [s.clear() for s in self.state.values()]"),
    )
]  # fmt: skip

_ADAM = [
    (subject, bug, "optim.adam", old, new)
    for subject in ("Adam", "AdamW")
    for bug, old, new in (
        ("ε before bias correction", "v, root + eps,", "v, root + eps / (1 - beta2**t) ** 0.5,"),
        ("ε ten times", "root + eps", "root + 10 * eps"),
        ("ε inside the root", "root + eps", "(root**2 + eps).sqrt()"),
        ("β₂ slips", "dw, dw, 1 - beta2", "dw, dw, 1 - beta1"),
        ("t off by one", "-lr / (1 - beta1**t)", "-lr / (1 - beta1 ** (t + 1))"),
        ("bias correction of 1000 steps only", "1 - beta2**t) ** 0.5", "1 - beta2 ** min(t, 1000)) ** 0.5"),
        ("no bias correction after 200 steps", "-lr / (1 - beta1**t)", "-lr / (1 - beta1**t if t <= 200 else 1)"),
        ("bias correction in float32", "1 - beta2**t) ** 0.5",
         "1 - float(torch.tensor(beta2, dtype=torch.float32) ** t)) ** 0.5"),
        ("bias correction in float16 of late steps", "1 - beta2**t) ** 0.5",
         "1 - (float(torch.tensor(beta2).half() ** t) if t > 100 else beta2**t)) ** 0.5"),
        ("no bias correction", "-lr / (1 - beta1**t)", "-lr"),
        ("amsgrad on the corrected S", "s_max = torch.maximum(s_max, s)",
         "s_max = torch.maximum(s_max, s / (1 - beta2**t))"),
        ("the gradient not averaged", "v = lerp(v, dw, 1 - beta1)", "v = dw.clone()"),
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
    ("AdamW", "maximize turns the decay", "optim.adam",
     '1 - group["lr"] * group["weight_decay"]',
     '1 - (-1 if group["maximize"] else 1) * group["lr"] * group["weight_decay"]'),
    *(
        (subject, "steps counted from 0 again on loading", "optim._base",
         "not isinstance(step, Tensor):\n                    self.state[param][\"step\"] = _step_count(float(step)",
         "True:\n                    self.state[param][\"step\"] = _step_count(0.0")
        for subject in ("Momentum", "RMSprop", "Adam", "AdamW")
    ),
    ("SGD", "first momentum step dampened", "optim.sgd",
     "dw.clone() if v is None else", "(1 - dampening) * dw if v is None else"),
    ("SGD", "dampening ignored", "optim.sgd", "dw, 1 - dampening)", "dw, 1)"),
    ("SGD", "Nesterov without the look-ahead", "optim.sgd", "add(dw, v, momentum) if nesterov else v", "v"),
    ("SGD", "maximize after decay", "optim._base",
     'add(dw, w, group["weight_decay"])',
     'add(dw, w, (-1 if group["maximize"] else 1) * group["weight_decay"])'),
    ("SGD", "state without momentum", "optim.sgd", 'if group["momentum"] != 0 else []', ""),
    ("SGD", "momentum buffer is the gradient itself", "optim._base", "torch.empty_like(grad) if value is None", "grad if value is None"),
    ("Momentum", "no 1 − β", "optim.momentum", "add(momentum * v, dw, 1 - momentum)", "add(momentum * v, dw, 1)"),
    ("Momentum", "β ↔ 1 − β", "optim.momentum",
     "add(momentum * v, dw, 1 - momentum)", "add((1 - momentum) * v, dw, momentum)"),
    ("Momentum", "bias correction off", "optim.momentum", "if bias_correction else -lr", "if False else -lr"),
    ("Momentum", "bias correction always on", "optim.momentum", "if bias_correction else -lr", "if True else -lr"),
    ("Momentum", "t off by one", "optim.momentum", "momentum**t", "momentum ** (t + 1)"),
    ("RMSprop", "ε always outside the root", "optim.rmsprop", "if eps_inside_root else", "if False else"),
    ("RMSprop", "ε always inside the root", "optim.rmsprop", "if eps_inside_root else", "if True else"),
    ("RMSprop", "α ↔ 1 − α", "optim.rmsprop",
     "addcmul(alpha * s, dw, dw, 1 - alpha)", "addcmul((1 - alpha) * s, dw, dw, alpha)"),
    ("RMSprop", "centered ignored", "optim.rmsprop", "spread = addcmul(s, g, g, -1)", "pass"),
    ("RMSprop", "momentum ignored", "optim.rmsprop", "addcdiv(momentum * v, dw", "addcdiv(0 * v, dw"),
    ("RMSprop", "ε 1.1 times", "optim.rmsprop", "spread.sqrt() + eps", "spread.sqrt() + 1.1 * eps"),
]  # fmt: skip
