"""The update rules as loops, for all parameters of a group in one call.

The same formulas as in `sgd`, `momentum`, `rmsprop` and `adam`, which are the reference.

Legend: W parameter, dW its gradient, V and G averages of dW, S of dW², t step, n
number of elements; a plural is a table with a row for each parameter. lr α, momentum and betas β,
decay λ/m. What depends on t is computed in double and rounded once, to the dtype (`real`) of W.
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
        for i in range(ns[k]):
            g = -dw[i] if maximize else dw[i]
            if decay != 0:
                g = g + real(decay) * w[i]
            if momentum != 0:
                if ts[k] == 1:
                    v[i] = g
                else:
                    v[i] = real(1 - dampening) * g + real(momentum) * v[i]
                g = g + real(momentum) * v[i] if nesterov else v[i]
            w[i] = w[i] - real(lr) * g


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
        for i in range(ns[k]):
            g = -dw[i] if maximize else dw[i]
            if decay != 0:
                g = g + real(decay) * w[i]
            v[i] = real(1 - momentum) * g + real(momentum) * v[i]
            w[i] = w[i] - rate * v[i]


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
        for i in range(ns[k]):
            d = -dw[i] if maximize else dw[i]
            if decay != 0:
                d = d + real(decay) * w[i]
            s[i] = real(1 - alpha) * d * d + real(alpha) * s[i]
            spread = s[i]
            if centered:
                g[i] = g[i] + real(1 - alpha) * (d - g[i])
                spread = s[i] - g[i] * g[i]
            root = sqrt(spread + real(eps)) if eps_inside_root else sqrt(spread) + real(eps)
            if momentum > 0:
                v[i] = real(momentum) * v[i] + d / root
                w[i] = w[i] - real(lr) * v[i]
            else:
                w[i] = w[i] - real(lr) * d / root


@compiled()
def adam(
    ws: Pointers, dws: Pointers, vs: Pointers, ss: Pointers, s_maxes: Pointers, ts: Doubles, ns: Ints,
    first: int, last: int,
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
        rate = real(lr / (1 - beta1**t))
        correction = real(sqrt(1 - beta2**t))  # √S / correction = √Ŝ
        for i in range(ns[k]):
            x = w[i]
            g = -dw[i] if maximize else dw[i]
            if decoupled:
                x = x * real(1 - lr * decay)
            elif decay != 0:
                g = g + real(decay) * x
            v[i] = v[i] + real(1 - beta1) * (g - v[i])
            s[i] = real(1 - beta2) * g * g + real(beta2) * s[i]
            largest = s[i]
            if amsgrad:
                if s_max[i] > s[i] or s_max[i] != s_max[i]:  # NaN stays
                    largest = s_max[i]
                s_max[i] = largest
            root = sqrt(largest) / correction
            w[i] = x - rate * v[i] / (root + real(eps))
