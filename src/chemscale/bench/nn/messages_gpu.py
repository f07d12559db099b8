"""Kernels of `messages` for a GPU, in Triton: a program takes a pair of atoms.

What each computes is said in `kernels.cpp`. Several pairs add to an atom, in no fixed order.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

# --- convolutions: one number a channel -----------------------------------------------------------


@triton.jit
def _convolve(x, w, first, second, out, F: tl.constexpr, BLOCK: tl.constexpr):
    p = tl.program_id(0).to(tl.int64)
    a, b = tl.load(first + p) * F, tl.load(second + p) * F
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        v = tl.load(w + p * F + f, mask=m)
        xa, xb = tl.load(x + a + f, mask=m), tl.load(x + b + f, mask=m)
        tl.atomic_add(out + a + f, xb * v, mask=m, sem="relaxed")
        tl.atomic_add(out + b + f, xa * v, mask=m, sem="relaxed")


@triton.jit
def _convolve_backward(g, x, w, first, second, to_x, to_w, F: tl.constexpr, BLOCK: tl.constexpr):
    p = tl.program_id(0).to(tl.int64)
    a, b = tl.load(first + p) * F, tl.load(second + p) * F
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        v = tl.load(w + p * F + f, mask=m)
        xa, xb = tl.load(x + a + f, mask=m), tl.load(x + b + f, mask=m)
        ga, gb = tl.load(g + a + f, mask=m), tl.load(g + b + f, mask=m)
        tl.store(to_w + p * F + f, ga * xb + gb * xa, mask=m)
        tl.atomic_add(to_x + a + f, gb * v, mask=m, sem="relaxed")
        tl.atomic_add(to_x + b + f, ga * v, mask=m, sem="relaxed")


@triton.jit
def _convolve_twice(
    hx, hw, g, x, w, first, second, to_g, to_x, to_w, F: tl.constexpr, BLOCK: tl.constexpr
):
    p = tl.program_id(0).to(tl.int64)
    a, b = tl.load(first + p) * F, tl.load(second + p) * F
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        v, q = tl.load(w + p * F + f, mask=m), tl.load(hw + p * F + f, mask=m)
        xa, xb = tl.load(x + a + f, mask=m), tl.load(x + b + f, mask=m)
        ga, gb = tl.load(g + a + f, mask=m), tl.load(g + b + f, mask=m)
        ha, hb = tl.load(hx + a + f, mask=m), tl.load(hx + b + f, mask=m)
        tl.store(to_w + p * F + f, ga * hb + gb * ha, mask=m)
        tl.atomic_add(to_g + a + f, hb * v + xb * q, mask=m, sem="relaxed")
        tl.atomic_add(to_g + b + f, ha * v + xa * q, mask=m, sem="relaxed")
        tl.atomic_add(to_x + a + f, gb * q, mask=m, sem="relaxed")
        tl.atomic_add(to_x + b + f, ga * q, mask=m, sem="relaxed")


# --- exchanges: scalars and vectors ---------------------------------------------------------------


@triton.jit
def three(at, F: tl.constexpr, m):
    """Three rows of F numbers, zero beyond."""
    return (
        tl.load(at, mask=m, other=0.0),
        tl.load(at + F, mask=m, other=0.0),
        tl.load(at + 2 * F, mask=m, other=0.0),
    )


@triton.jit
def _add_four(at, one, two, three, four, F: tl.constexpr, m):
    tl.atomic_add(at, one, mask=m, sem="relaxed")
    tl.atomic_add(at + F, two, mask=m, sem="relaxed")
    tl.atomic_add(at + 2 * F, three, mask=m, sem="relaxed")
    tl.atomic_add(at + 3 * F, four, mask=m, sem="relaxed")


@triton.jit
def _exchange(x, w, d, first, second, y, F: tl.constexpr, BLOCK: tl.constexpr):
    p = tl.program_id(0).to(tl.int64)
    a, b = tl.load(first + p), tl.load(second + p)
    d0, d1, d2 = tl.load(d + 3 * p), tl.load(d + 3 * p + 1), tl.load(d + 3 * p + 2)
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        v1, v2, v3 = three(w + p * 3 * F + f, F, m)
        xa, xb = x + a * 5 * F + f, x + b * 5 * F + f
        ta, tb = tl.load(xa + F, mask=m) * v3, tl.load(xb + F, mask=m) * v3
        a0, a1, a2 = three(xa + 2 * F, F, m)
        b0, b1, b2 = three(xb + 2 * F, F, m)
        to_a, to_b = tl.load(xb, mask=m) * v1, tl.load(xa, mask=m) * v1
        _add_four(y + a * 4 * F + f, to_a, b0 * v2 + d0 * tb, b1 * v2 + d1 * tb, b2 * v2 + d2 * tb,
                  F, m)  # fmt: skip
        _add_four(y + b * 4 * F + f, to_b, a0 * v2 - d0 * ta, a1 * v2 - d1 * ta, a2 * v2 - d2 * ta,
                  F, m)  # fmt: skip


@triton.jit
def _exchange_backward(
    g, x, w, d, first, second, to_x, to_w, to_d, F: tl.constexpr, BLOCK: tl.constexpr
):
    p = tl.program_id(0).to(tl.int64)
    a, b = tl.load(first + p), tl.load(second + p)
    d0, d1, d2 = tl.load(d + 3 * p), tl.load(d + 3 * p + 1), tl.load(d + 3 * p + 2)
    e0 = d0 * 0
    e1, e2 = e0, e0
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        v1, v2, v3 = three(w + p * 3 * F + f, F, m)
        xa, xb = x + a * 5 * F + f, x + b * 5 * F + f
        ga, gb = g + a * 4 * F + f, g + b * 4 * F + f
        ga0, gb0 = tl.load(ga, mask=m, other=0.0), tl.load(gb, mask=m, other=0.0)
        ga1, ga2, ga3 = three(ga + F, F, m)
        gb1, gb2, gb3 = three(gb + F, F, m)
        sa, ta, ua0 = three(xa, F, m)
        sb, tb, ub0 = three(xb, F, m)
        ua1, ua2 = tl.load(xa + 3 * F, mask=m), tl.load(xa + 4 * F, mask=m)
        ub1, ub2 = tl.load(xb + 3 * F, mask=m), tl.load(xb + 4 * F, mask=m)
        along_a, along_b = d0 * ga1 + d1 * ga2 + d2 * ga3, d0 * gb1 + d1 * gb2 + d2 * gb3
        to = to_w + p * 3 * F + f
        tl.store(to, ga0 * sb + gb0 * sa, mask=m)
        turned = ga1 * ub0 + ga2 * ub1 + ga3 * ub2 + gb1 * ua0 + gb2 * ua1 + gb3 * ua2
        tl.store(to + F, turned, mask=m)
        tl.store(to + 2 * F, along_a * tb - along_b * ta, mask=m)
        na, nb = v3 * ta, v3 * tb
        e0 += tl.sum(ga1 * nb - gb1 * na)
        e1 += tl.sum(ga2 * nb - gb2 * na)
        e2 += tl.sum(ga3 * nb - gb3 * na)
        to_a, to_b = to_x + a * 5 * F + f, to_x + b * 5 * F + f
        tl.atomic_add(to_a, gb0 * v1, mask=m, sem="relaxed")
        _add_four(to_a + F, -along_b * v3, gb1 * v2, gb2 * v2, gb3 * v2, F, m)
        tl.atomic_add(to_b, ga0 * v1, mask=m, sem="relaxed")
        _add_four(to_b + F, along_a * v3, ga1 * v2, ga2 * v2, ga3 * v2, F, m)
    tl.store(to_d + 3 * p, e0)
    tl.store(to_d + 3 * p + 1, e1)
    tl.store(to_d + 3 * p + 2, e2)


@triton.jit
def _exchange_twice(
    hx, hw, hd, g, x, w, d, first, second, to_g, to_x, to_w, to_d,
    F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    p = tl.program_id(0).to(tl.int64)
    a, b = tl.load(first + p), tl.load(second + p)
    d0, d1, d2 = tl.load(d + 3 * p), tl.load(d + 3 * p + 1), tl.load(d + 3 * p + 2)
    c0, c1, c2 = tl.load(hd + 3 * p), tl.load(hd + 3 * p + 1), tl.load(hd + 3 * p + 2)
    e0 = d0 * 0
    e1, e2 = e0, e0
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        v1, v2, v3 = three(w + p * 3 * F + f, F, m)
        q1, q2, q3 = three(hw + p * 3 * F + f, F, m)
        xa, xb = x + a * 5 * F + f, x + b * 5 * F + f
        ha, hb = hx + a * 5 * F + f, hx + b * 5 * F + f
        ga, gb = g + a * 4 * F + f, g + b * 4 * F + f
        ga0, gb0 = tl.load(ga, mask=m, other=0.0), tl.load(gb, mask=m, other=0.0)
        ga1, ga2, ga3 = three(ga + F, F, m)
        gb1, gb2, gb3 = three(gb + F, F, m)
        xsa, ta, xa0 = three(xa, F, m)
        xsb, tb, xb0 = three(xb, F, m)
        xa1, xa2 = tl.load(xa + 3 * F, mask=m), tl.load(xa + 4 * F, mask=m)
        xb1, xb2 = tl.load(xb + 3 * F, mask=m), tl.load(xb + 4 * F, mask=m)
        hsa, ka, ha0 = three(ha, F, m)
        hsb, kb, hb0 = three(hb, F, m)
        ha1, ha2 = tl.load(ha + 3 * F, mask=m), tl.load(ha + 4 * F, mask=m)
        hb1, hb2 = tl.load(hb + 3 * F, mask=m), tl.load(hb + 4 * F, mask=m)
        along_a, along_b = d0 * ga1 + d1 * ga2 + d2 * ga3, d0 * gb1 + d1 * gb2 + d2 * gb3
        turned_a, turned_b = c0 * ga1 + c1 * ga2 + c2 * ga3, c0 * gb1 + c1 * gb2 + c2 * gb3
        to = to_w + p * 3 * F + f
        tl.store(to, ga0 * hsb + gb0 * hsa, mask=m)
        second_ = ga1 * hb0 + ga2 * hb1 + ga3 * hb2 + gb1 * ha0 + gb2 * ha1 + gb3 * ha2
        tl.store(to + F, second_, mask=m)
        tl.store(to + 2 * F, along_a * kb - along_b * ka + turned_a * tb - turned_b * ta, mask=m)
        sa, sb = v3 * ka + q3 * ta, v3 * kb + q3 * tb
        e0 += tl.sum(ga1 * sb - gb1 * sa)
        e1 += tl.sum(ga2 * sb - gb2 * sa)
        e2 += tl.sum(ga3 * sb - gb3 * sa)
        na, nb = v3 * ta, v3 * tb
        _add_four(
            to_g + a * 4 * F + f,
            hsb * v1 + xsb * q1,
            hb0 * v2 + xb0 * q2 + d0 * sb + c0 * nb,
            hb1 * v2 + xb1 * q2 + d1 * sb + c1 * nb,
            hb2 * v2 + xb2 * q2 + d2 * sb + c2 * nb,
            F, m,
        )  # fmt: skip
        _add_four(
            to_g + b * 4 * F + f,
            hsa * v1 + xsa * q1,
            ha0 * v2 + xa0 * q2 - d0 * sa - c0 * na,
            ha1 * v2 + xa1 * q2 - d1 * sa - c1 * na,
            ha2 * v2 + xa2 * q2 - d2 * sa - c2 * na,
            F, m,
        )  # fmt: skip
        to_a, to_b = to_x + a * 5 * F + f, to_x + b * 5 * F + f
        tl.atomic_add(to_a, gb0 * q1, mask=m, sem="relaxed")
        _add_four(to_a + F, -(along_b * q3 + turned_b * v3), gb1 * q2, gb2 * q2, gb3 * q2, F, m)
        tl.atomic_add(to_b, ga0 * q1, mask=m, sem="relaxed")
        _add_four(to_b + F, along_a * q3 + turned_a * v3, ga1 * q2, ga2 * q2, ga3 * q2, F, m)
    tl.store(to_d + 3 * p, e0)
    tl.store(to_d + 3 * p + 1, e1)
    tl.store(to_d + 3 * p + 2, e2)


KERNELS = {
    "convolve": _convolve,
    "convolve_backward": _convolve_backward,
    "convolve_twice": _convolve_twice,
    "exchange": _exchange,
    "exchange_backward": _exchange_backward,
    "exchange_twice": _exchange_twice,
}
