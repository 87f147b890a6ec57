"""The update rules as loops, for all parameters of a group in one call.

The same formulas as in `sgd`, `momentum`, `rmsprop` and `adam`, which are the reference.

Legend: W parameter, dW its gradient, V and G averages of dW, S of dW², t step, n number of
elements; a plural is a table with a column for each parameter. lr α, momentum and betas β, decay
λ/m, real the dtype of W.

The arithmetic of an element is in `real`, twice as many elements at a time in float32 as double
would be. In double is what is computed once for all of them, and what decides how far W drifts over
many steps: the shrinking of W by a decoupled decay.
"""

from __future__ import annotations

from math import sqrt

from refnet._compile import Doubles, Ints, Pointers, compiled

__all__ = ["adam", "momentum_rule", "rmsprop", "sgd"]


@compiled()
def sgd(
    ws: Pointers, dws: Pointers, vs: Pointers, ts: Doubles, ns: Ints, first: int, last: int,
    lr: float, momentum: float, dampening: float, nesterov: bool, decay: float, maximize: bool,
) -> None:  # fmt: skip
    """V ← βV + (1 − dampening) dW;  W ← W − αV, or with Nesterov W − α (dW + βV).

    The first V, where t is 1, is the raw gradient, undampened.
    """
    for k in range(first, last):
        w, dw, v = ws[k], dws[k], vs[k]
        real = type(w[0])
        alpha = real(lr)
        beta, rest, weight_decay = real(momentum), real(1 - dampening), real(decay)
        for i in range(ns[k]):
            g = -dw[i] if maximize else dw[i]
            if decay != 0:
                g += weight_decay * w[i]
            if momentum != 0:
                new_v = g if ts[k] == 1 else rest * g + beta * v[i]
                g = g + beta * new_v if nesterov else new_v
                v[i] = new_v
            w[i] -= alpha * g


@compiled()
def momentum_rule(
    ws: Pointers, dws: Pointers, vs: Pointers, ts: Doubles, ns: Ints, first: int, last: int,
    lr: float, momentum: float, bias_correction: bool, decay: float, maximize: bool,
) -> None:  # fmt: skip
    """V ← βV + (1 − β) dW;  W ← W − αV, or with bias correction W − α V / (1 − βᵗ)."""
    for k in range(first, last):
        w, dw, v, t = ws[k], dws[k], vs[k], ts[k]
        real = type(w[0])
        rate = real(lr / (1 - momentum**t) if bias_correction else lr)
        beta, rest, weight_decay = real(momentum), real(1 - momentum), real(decay)
        for i in range(ns[k]):
            g = -dw[i] if maximize else dw[i]
            if decay != 0:
                g += weight_decay * w[i]
            new_v = rest * g + beta * v[i]
            v[i] = new_v
            w[i] -= rate * new_v


@compiled()
def rmsprop(
    ws: Pointers, dws: Pointers, ss: Pointers, vs: Pointers, gs: Pointers, ts: Doubles, ns: Ints,
    first: int, last: int,
    lr: float, alpha: float, eps: float, momentum: float, centered: bool, eps_inside_root: bool,
    decay: float, maximize: bool,
) -> None:  # fmt: skip
    """S ← βS + (1 − β) dW²;  W ← W − α dW / (√S + ε), or with ε inside W − α dW / √(S + ε).

    Centered, S − G² takes the place of S; with momentum, V ← μV + dW / (√S + ε), W ← W − αV.
    """
    for k in range(first, last):
        w, dw, s, v, g = ws[k], dws[k], ss[k], vs[k], gs[k]
        real = type(w[0])
        beta, rest, mu = real(alpha), real(1 - alpha), real(momentum)
        rate, epsilon, weight_decay = real(lr), real(eps), real(decay)
        for i in range(ns[k]):
            d = -dw[i] if maximize else dw[i]
            if decay != 0:
                d += weight_decay * w[i]
            new_s = rest * d * d + beta * s[i]
            s[i] = new_s
            if centered:
                new_g = g[i] + rest * (d - g[i])
                g[i] = new_g
                new_s -= new_g * new_g
            root = sqrt(new_s + epsilon) if eps_inside_root else sqrt(new_s) + epsilon
            if momentum > 0:
                new_v = mu * v[i] + d / root
                v[i] = new_v
                w[i] -= rate * new_v
            else:
                w[i] -= rate * d / root


@compiled()
def adam(
    ws: Pointers, dws: Pointers, vs: Pointers, ss: Pointers, s_maxes: Pointers, ts: Doubles,
    ns: Ints, first: int, last: int,
    lr: float, beta1: float, beta2: float, eps: float, amsgrad: bool,
    decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    """V ← β₁V + (1 − β₁) dW;  S ← β₂S + (1 − β₂) dW²;  W ← W − α V̂ / (√Ŝ + ε).

    V̂ = V / (1 − β₁ᵗ) and Ŝ = S / (1 − β₂ᵗ). With amsgrad, the largest S so far takes the place of
    S. Decoupled, the decay is W ← W (1 − α λ/m) beforehand.
    """
    for k in range(first, last):
        w, dw, v, s, s_max, t = ws[k], dws[k], vs[k], ss[k], s_maxes[k], ts[k]
        real = type(w[0])
        correction = sqrt(1 - beta2**t)  # α V̂ / (√Ŝ + ε) = rate V / (√S + ε correction)
        rate, epsilon = real(lr / (1 - beta1**t) * correction), real(eps * correction)
        shrink, coupled = (1 - lr * decay, 0.0) if decoupled else (1.0, decay)
        rest1, rest2 = real(1 - beta1), real(1 - beta2)
        beta, weight_decay = real(beta2), real(coupled)
        for i in range(ns[k]):
            g = -dw[i] if maximize else dw[i]
            if coupled != 0:
                g += weight_decay * w[i]
            new_v = v[i] + rest1 * (g - v[i])
            new_s = rest2 * g * g + beta * s[i]
            v[i] = new_v
            s[i] = new_s
            if amsgrad:
                if s_max[i] > new_s or s_max[i] != s_max[i]:  # NaN stays
                    new_s = s_max[i]
                s_max[i] = new_s
            step = rate * new_v / (sqrt(new_s) + epsilon)
            w[i] = w[i] - step if shrink == 1 else shrink * w[i] - step
