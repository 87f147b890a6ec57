"""Planted bugs of the optimizers' compiled loops, and of what hands parameters to them."""

from __future__ import annotations

_CPU, _PLAN, _TABLE = "optim.cpu", "optim._plan", "optim._table"
_ALL = ("SGD", "Momentum", "RMSprop", "Adam", "AdamW")

# What stands in every loop has the line before it for context.
_G = "        for i in range(ns[k]):\n            g = -dw[i] if maximize else dw[i]\n"
_G_UP = "        for i in range(ns[k]):\n            g = dw[i]\n"
_SGD_LOOP = "real(1 - dampening), real(decay)\n"
_MOMENTUM_LOOP = "real(1 - momentum), real(decay)\n"
_ADAM_LOOP = "beta, weight_decay = real(beta2), real(coupled)\n"

_SHARED = [
    (subject, bug, module, old, new)
    for subject in _ALL
    for bug, module, old, new in (
        ("the first parameter's gradient for all", _TABLE, "self._at[1] = grads\n", "self._at[1] = grads[0]\n"),
        ("gradients where they were", _PLAN, "            self._point(addresses)\n", "            pass\n"),
        ("the last element left out", _TABLE, "np.minimum(numbers[self._owners] - start, PIECE)",
         "np.maximum(np.minimum(numbers[self._owners] - start, PIECE) - 1, 0)"),
        ("the last parameter left out", _TABLE, "call(*self._first, *bounds, *numbers)",
         "call(*self._first, 0, bounds[-1] - 1, *numbers)"),
    )
]  # fmt: skip
_COUNTS = [
    (subject, bug, _TABLE, old, new)
    for subject in ("Momentum", "RMSprop", "Adam", "AdamW")
    for bug, old, new in (
        ("a kernel counts no steps", "step[0] += 1", "step[0] += 0"),
        ("a kernel counts twice", "step[0] += 1", "step[0] += 2"),
    )
]  # fmt: skip
_ADAM = [
    (subject, bug, _CPU, old, new)
    for subject in ("Adam", "AdamW")
    for bug, old, new in (
        ("loop: ε before bias correction", "real(eps * correction)", "real(eps)"),
        ("loop: ε ten times", "real(eps * correction)", "real(10 * eps * correction)"),
        ("loop: ε inside the root", "rate * new_v / (sqrt(new_s) + epsilon)",
         "rate * new_v / sqrt(new_s + real(eps * correction**2))"),
        ("loop: β₂ slips", "new_s = rest2 * g * g", "new_s = rest1 * g * g"),
        ("loop: t off by one", "lr / (1 - beta1**t)", "lr / (1 - beta1 ** (t + 1))"),
        ("loop: no correction of S", "correction = sqrt(1 - beta2**t)", "correction = 1.0"),
        ("loop: the gradient not averaged", "new_v = v[i] + rest1 * (g - v[i])", "new_v = g"),
        ("loop: a step along the gradient", "step = rate * new_v", "step = rate * g"),
        ("loop: V not kept", "            v[i] = new_v\n            s[i] = new_s\n            if amsgrad",
         "            s[i] = new_s\n            if amsgrad"),
        ("loop: amsgrad ignored", "            if amsgrad:", "            if False:"),
        ("loop: amsgrad not kept", "s_max[i] = new_s", "pass"),
        ("loop: the smallest S", "s_max[i] > new_s", "s_max[i] < new_s"),
        ("loop: lr 1.01 times", "real(lr / (1 - beta1**t) * correction)", "real(1.01 * lr / (1 - beta1**t) * correction)"),
        ("loop: maximize ignored", _ADAM_LOOP + _G, _ADAM_LOOP + _G_UP),
    )
]  # fmt: skip

ROWS = [
    *_SHARED,
    *_COUNTS,
    *_ADAM,
    ("Adam", "loop: decay decoupled", _CPU, "if decoupled else (1.0, decay)", "if True else (1.0, decay)"),
    ("Adam", "loop: decay always coupled", _CPU, "if decoupled else (1.0, decay)", "if False else (1.0, decay)"),
    ("AdamW", "loop: decay coupled", _CPU, "if decoupled else (1.0, decay)", "if False else (1.0, decay)"),
    ("AdamW", "loop: decay coupled and decoupled", _CPU, "(1 - lr * decay, 0.0)", "(1 - lr * decay, decay)"),
    ("AdamW", "loop: decay without the learning rate", _CPU, "(1 - lr * decay, 0.0)", "(1 - decay, 0.0)"),
    ("AdamW", "loop: maximize turns the decay", _CPU, "(1 - lr * decay, 0.0)",
     "(1 - (-lr if maximize else lr) * decay, 0.0)"),
    ("SGD", "loop: first momentum step dampened", _CPU, "new_v = g if ts[k] == 1 else rest",
     "new_v = rest * g if ts[k] == 1 else rest"),
    ("SGD", "loop: every step a first one", _CPU, "g if ts[k] == 1 else", "g if ts[k] <= 2 else"),
    ("SGD", "loop: no step a first one", _CPU, "g if ts[k] == 1 else", "g if ts[k] == 0 else"),
    ("SGD", "loop: dampening ignored", _CPU, "rest, weight_decay = real(momentum), real(1 - dampening)", "rest, weight_decay = real(momentum), real(1)"),
    ("SGD", "loop: Nesterov without the look-ahead", _CPU, "g + beta * new_v if nesterov else new_v", "new_v"),
    ("SGD", "loop: V not kept", _CPU, "                v[i] = new_v\n            w[i] -= alpha * g",
     "                pass\n            w[i] -= alpha * g"),
    ("SGD", "loop: maximize ignored", _CPU, _SGD_LOOP + _G, _SGD_LOOP + _G_UP),
    ("SGD", "loop: maximize after decay", _CPU,
     _SGD_LOOP, "real(1 - dampening), real(-decay if maximize else decay)\n"),
    ("SGD", "loop: the other sign", _CPU, "w[i] -= alpha * g", "w[i] += alpha * g"),
    ("Momentum", "loop: no 1 − β", _CPU, "real(1 - momentum), real(decay)", "real(1), real(decay)"),
    ("Momentum", "loop: β ↔ 1 − β", _CPU, "real(momentum), real(1 - momentum), real(decay)",
     "real(1 - momentum), real(momentum), real(decay)"),
    ("Momentum", "loop: bias correction off", _CPU, "if bias_correction else lr", "if False else lr"),
    ("Momentum", "loop: bias correction always on", _CPU, "if bias_correction else lr", "if True else lr"),
    ("Momentum", "loop: t off by one", _CPU, "1 - momentum**t", "1 - momentum ** (t + 1)"),
    ("Momentum", "loop: V of the step before", _CPU,
     "            v[i] = new_v\n            w[i] -= rate * new_v", "            w[i] -= rate * v[i]\n            v[i] = new_v"),
    ("Momentum", "loop: V not kept", _CPU, "            v[i] = new_v\n            w[i] -= rate", "            w[i] -= rate"),
    ("Momentum", "loop: maximize ignored", _CPU, _MOMENTUM_LOOP + _G, _MOMENTUM_LOOP + _G_UP),
    ("Momentum", "loop: lr 1.01 times", _CPU, "rate = real(lr", "rate = real(1.01 * lr"),
    ("RMSprop", "loop: ε always outside the root", _CPU, "if eps_inside_root else", "if False else"),
    ("RMSprop", "loop: ε always inside the root", _CPU, "if eps_inside_root else", "if True else"),
    ("RMSprop", "loop: α ↔ 1 − α", _CPU, "real(alpha), real(1 - alpha), real(momentum)",
     "real(1 - alpha), real(alpha), real(momentum)"),
    ("RMSprop", "loop: centered ignored", _CPU, "new_s -= new_g * new_g", "pass"),
    ("RMSprop", "loop: G not kept", _CPU, "                g[i] = new_g\n", ""),
    ("RMSprop", "loop: the centered S is kept", _CPU, "            root = sqrt", "            s[i] = new_s\n            root = sqrt"),
    ("RMSprop", "loop: momentum ignored", _CPU, "new_v = mu * v[i] + d", "new_v = 0 * v[i] + d"),
    ("RMSprop", "loop: dampened", _CPU, "new_v = mu * v[i] + d", "new_v = mu * v[i] + (1 - mu) * d"),
    ("RMSprop", "loop: ε 1.1 times", _CPU, "real(eps), real(decay)", "real(1.1 * eps), real(decay)"),
    ("RMSprop", "loop: maximize ignored", _CPU, "d = -dw[i] if maximize else dw[i]", "d = dw[i]"),
]  # fmt: skip
