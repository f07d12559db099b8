"""Kernels of `gates` for a GPU, in Triton: a program takes an atom.

Of left and right vectors (3, 2F) and gates g0, g1, g2 (3F); 1e-8 is what `gates` has.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from chemscale.bench.nn.messages_gpu import three


@triton.jit
def _store(at, one, two, three, STRIDE: tl.constexpr, m):
    tl.store(at, one, mask=m)
    tl.store(at + STRIDE, two, mask=m)
    tl.store(at + 2 * STRIDE, three, mask=m)


@triton.jit
def _lengths(mixed, out, F: tl.constexpr, BLOCK: tl.constexpr):
    a = tl.program_id(0).to(tl.int64)
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        r0, r1, r2 = three(mixed + a * 6 * F + F + f, 2 * F, m)
        tl.store(out + a * F + f, tl.sqrt(r0 * r0 + r1 * r1 + r2 * r2 + 1e-8), mask=m)


@triton.jit
def _lengths_backward(g_, mixed, out, F: tl.constexpr, BLOCK: tl.constexpr):
    a = tl.program_id(0).to(tl.int64)
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        r0, r1, r2 = three(mixed + a * 6 * F + F + f, 2 * F, m)
        g = tl.load(g_ + a * F + f, mask=m) / tl.sqrt(r0 * r0 + r1 * r1 + r2 * r2 + 1e-8)
        to = out + a * 6 * F + f
        _store(to, g * 0, g * 0, g * 0, 2 * F, m)
        _store(to + F, g * r0, g * r1, g * r2, 2 * F, m)


@triton.jit
def _lengths_twice(h, g_, mixed, to_g, to_mixed, F: tl.constexpr, BLOCK: tl.constexpr):
    a = tl.program_id(0).to(tl.int64)
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        r0, r1, r2 = three(mixed + a * 6 * F + F + f, 2 * F, m)
        h0, h1, h2 = three(h + a * 6 * F + F + f, 2 * F, m)
        inverse = 1 / tl.sqrt(r0 * r0 + r1 * r1 + r2 * r2 + 1e-8)
        along = (h0 * r0 + h1 * r1 + h2 * r2) * inverse
        tl.store(to_g + a * F + f, along, mask=m)
        g = tl.load(g_ + a * F + f, mask=m) * inverse
        back = along * inverse
        to = to_mixed + a * 6 * F + f
        _store(to, g * 0, g * 0, g * 0, 2 * F, m)
        _store(to + F, g * (h0 - r0 * back), g * (h1 - r1 * back), g * (h2 - r2 * back), 2 * F, m)


@triton.jit
def _update(
    scalars, vectors, mixed, gates, to_scalars, to_vectors, F: tl.constexpr, BLOCK: tl.constexpr
):
    a = tl.program_id(0).to(tl.int64)
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        l0, l1, l2 = three(mixed + a * 6 * F + f, 2 * F, m)
        r0, r1, r2 = three(mixed + a * 6 * F + F + f, 2 * F, m)
        g0, g1, g2 = three(gates + a * 3 * F + f, F, m)
        v0, v1, v2 = three(vectors + a * 3 * F + f, F, m)
        s = tl.load(scalars + a * F + f, mask=m) + g2 + g1 * (l0 * r0 + l1 * r1 + l2 * r2)
        tl.store(to_scalars + a * F + f, s, mask=m)
        to = to_vectors + a * 3 * F + f
        _store(to, v0 + l0 * g0, v1 + l1 * g0, v2 + l2 * g0, F, m)


@triton.jit
def _update_backward(
    scalars, vectors, mixed, gates, to_mixed, to_gates, F: tl.constexpr, BLOCK: tl.constexpr
):
    a = tl.program_id(0).to(tl.int64)
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        l0, l1, l2 = three(mixed + a * 6 * F + f, 2 * F, m)
        r0, r1, r2 = three(mixed + a * 6 * F + F + f, 2 * F, m)
        g0, g1, _ = three(gates + a * 3 * F + f, F, m)
        v0, v1, v2 = three(vectors + a * 3 * F + f, F, m)
        s = tl.load(scalars + a * F + f, mask=m, other=0.0)
        to, sg = to_mixed + a * 6 * F + f, s * g1
        _store(to, sg * r0 + v0 * g0, sg * r1 + v1 * g0, sg * r2 + v2 * g0, 2 * F, m)
        _store(to + F, sg * l0, sg * l1, sg * l2, 2 * F, m)
        along, product = v0 * l0 + v1 * l1 + v2 * l2, l0 * r0 + l1 * r1 + l2 * r2
        _store(to_gates + a * 3 * F + f, along, s * product, s, F, m)


@triton.jit
def _update_twice(
    cm, cg, scalars, vectors, mixed, gates, to_scalars, to_vectors, to_mixed, to_gates,
    F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    a = tl.program_id(0).to(tl.int64)
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        l0, l1, l2 = three(mixed + a * 6 * F + f, 2 * F, m)
        r0, r1, r2 = three(mixed + a * 6 * F + F + f, 2 * F, m)
        p0, p1, p2 = three(cm + a * 6 * F + f, 2 * F, m)
        q0, q1, q2 = three(cm + a * 6 * F + F + f, 2 * F, m)
        g0, g1, _ = three(gates + a * 3 * F + f, F, m)
        c0, c1, c2 = three(cg + a * 3 * F + f, F, m)
        v0, v1, v2 = three(vectors + a * 3 * F + f, F, m)
        s = tl.load(scalars + a * F + f, mask=m, other=0.0)
        crossed = p0 * r0 + p1 * r1 + p2 * r2 + q0 * l0 + q1 * l1 + q2 * l2
        product = l0 * r0 + l1 * r1 + l2 * r2
        tl.store(to_scalars + a * F + f, c1 * product + c2 + g1 * crossed, mask=m)
        to = to_vectors + a * 3 * F + f
        _store(to, c0 * l0 + p0 * g0, c0 * l1 + p1 * g0, c0 * l2 + p2 * g0, F, m)
        sc, sg, to = s * c1, s * g1, to_mixed + a * 6 * F + f
        _store(to, c0 * v0 + sc * r0 + sg * q0, c0 * v1 + sc * r1 + sg * q1,
               c0 * v2 + sc * r2 + sg * q2, 2 * F, m)  # fmt: skip
        _store(to + F, sc * l0 + sg * p0, sc * l1 + sg * p1, sc * l2 + sg * p2, 2 * F, m)
        along = p0 * v0 + p1 * v1 + p2 * v2
        _store(to_gates + a * 3 * F + f, along, s * crossed, s * 0, F, m)


KERNELS = {
    "lengths": _lengths,
    "lengths_backward": _lengths_backward,
    "lengths_twice": _lengths_twice,
    "update": _update,
    "update_backward": _update_backward,
    "update_twice": _update_twice,
}
