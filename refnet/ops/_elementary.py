"""The exponential, and the largest of many, in a form that compilers turn into vector code.

`math.exp` is a call of a library, one number at a time; a maximum of floats is a chain that NaN
forbids to cut. For kernels. numba knows which of the two dtypes it compiles for and drops the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refnet._compile import ELEMENTS, inlined

__all__ = ["exp", "largest", "largest_of_each"]


@inlined(ELEMENTS)
def exp(x: Any) -> Any:
    """e^x for x ≤ 0, of x's dtype, to less than one unit in the last place. NaN stays NaN.

    Example:
        >>> exp(np.float32(-1))
        np.float32(0.36787945)
    """
    real = type(x)
    if real(2**24 + 1) == real(2**24):  # so it is in float32
        return real(_exp32(np.float32(x)))
    return real(_exp64(np.float64(x)))


@inlined(ELEMENTS)
def largest(z: Any, start: int, count: int) -> Any:
    """max z_i, i from start on. Where a z_i is NaN, any of the z_i, or NaN.

    Example:
        >>> largest(np.array([9.0, 1.0, -2.0, 3.0]), 1, 3)
        np.float64(3.0)
    """
    real = type(z[start])
    if real(2**24 + 1) == real(2**24):
        top = _key32(np.float32(z[start]))
        for i in range(start + 1, start + count):
            key = _key32(np.float32(z[i]))
            top = key if key > top else top
        return real(np.int32(_key32(np.int32(top).view(np.float32))).view(np.float32))
    high = _key64(np.float64(z[start]))
    for i in range(start + 1, start + count):
        other = _key64(np.float64(z[i]))
        high = other if other > high else high
    return real(np.int64(_key64(np.int64(high).view(np.float64))).view(np.float64))


@inlined(ELEMENTS)
def largest_of_each(
    z: Any, start: int, step: int, count: int, tops: Any, at: int, width: int
) -> None:
    """The largest of z_j, z_{j + step}, … for each of `width` j from start on: put in tops from at.

    Where one is NaN: the largest of those that are numbers, or NaN.
    """
    for j in range(width):
        tops[at + j] = z[start + j]
    for c in range(1, count):
        row = start + c * step
        for j in range(width):
            here, top = z[row + j], tops[at + j]
            tops[at + j] = here if here > top else top


@inlined(ELEMENTS)
def _key32(x: Any) -> Any:
    """An integer with x's order among floats. Of the float with its bits, the key is x's bits."""
    bits = np.float32(x).view(np.int32)
    return np.int32(bits ^ np.int32(np.int32(bits >> 31) & np.int32(0x7FFFFFFF)))


@inlined(ELEMENTS)
def _key64(x: Any) -> Any:
    bits = np.float64(x).view(np.int64)
    return np.int64(bits ^ np.int64(np.int64(bits >> 63) & np.int64(0x7FFFFFFFFFFFFFFF)))


@inlined(ELEMENTS)
def _exp32(x: Any) -> Any:
    """e^x = 2^k e^r, r = x − k ln 2, |r| ≤ ln 2 / 2, e^r by a polynomial. 0 where it underflows."""
    f = np.float32
    shifted = x * f(1.4426950408889634) + f(12582912)  # 1.5 · 2^23: the last bits are those of k
    k = shifted - f(12582912)
    r = (x - k * f(0.693145751953125)) - k * f(1.428606765330187e-06)  # ln 2 in two parts
    p = f(1.98527617612853646e-04)
    p = p * r + f(1.39304355252534151e-03)
    p = p * r + f(8.33336077630519867e-03)
    p = p * r + f(4.16664853692054749e-02)
    p = p * r + f(1.66666671633720398e-01)
    p = p * r + f(0.5)
    p = p * (r * r) + r + f(1)
    # 2^{k + 24} from its bits, which is a normal number where 2^k may be none
    power = np.uint32(np.float32(shifted).view(np.uint32) + np.uint32(24 + 127)) << np.uint32(23)
    value = p * np.uint32(power).view(np.float32) * f(2.0**-24)
    return f(0) if x < f(-104) else value  # itself: a caller's loop may multiply in another order


@inlined(ELEMENTS)
def _exp64(x: Any) -> Any:
    """The same with more terms."""
    f = np.float64
    shifted = x * f(1.4426950408889634) + f(6755399441055744)  # 1.5 · 2^52
    k = shifted - f(6755399441055744)
    r = (x - k * f(0.69314718055966295651)) - k * f(2.8235290563031577122e-13)
    p = f(2.08860621107283687536e-09)
    p = p * r + f(2.51112930892876518611e-08)
    p = p * r + f(2.75573911234900471893e-07)
    p = p * r + f(2.75572362911928827629e-06)
    p = p * r + f(2.4801587159235472998791e-05)
    p = p * r + f(1.98412698960509205565e-04)
    p = p * r + f(1.38888888889774492208e-03)
    p = p * r + f(8.33333333331652721665e-03)
    p = p * r + f(4.16666666666665047591e-02)
    p = p * r + f(1.66666666666666851704e-01)
    p = p * r + f(0.5)
    p = p * (r * r) + r + f(1)
    power = np.uint64(np.float64(shifted).view(np.uint64) + np.uint64(53 + 1023)) << np.uint64(52)
    value = p * np.uint64(power).view(np.float64) * f(2.0**-53)
    return f(0) if x < f(-746) else value
