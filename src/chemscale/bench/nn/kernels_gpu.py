"""The kernels of potentials for a GPU, in Triton: how they are called, and those of all families.

Under the names of `kernels.cpp`, where those of a CPU are.
"""

# mypy: ignore-errors
# Below `multilinear` this is Triton, which is not Python but for its looks.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from chemscale.bench.nn import gates_gpu, messages_gpu

BLOCK = 1024  # numbers of an activation that a program takes
MOST_OPERANDS = 4


def call(name: str, *arguments: Any) -> None:
    """Run a kernel; arguments are those of the kernel of that name on a CPU."""
    if name in _ACTIVATIONS:
        kernel, silu = _ACTIVATIONS[name]
        *tensors, count, _ = arguments
        if count:
            kernel[(triton.cdiv(count, BLOCK),)](*tensors, count, SILU=silu, BLOCK=BLOCK)
        return
    *tensors, programs, width = arguments
    if programs:
        block = min(triton.next_power_of_2(width), 128)
        kernel = _BY_ROWS[name]
        kernel[(programs,)](*tensors, F=width, BLOCK=block, num_warps=max(1, block // 64))


def multilinear(
    out: Tensor,
    given: Sequence[Tensor],
    rows: Sequence[Tensor | None],
    components: Tensor,
    values: Tensor,
    bounds: Tensor,
) -> None:
    """A sum of products of components, as `nn.multilinear` has them.

    Args:
        out: (rows, components, F), zero where several links add to a row; one channel: summed.
        given: one to four operands, with one channel or F.
        rows: of the result and of each operand, (L,); None: its own.
        components: (operands + 1, T), of the result first and ascending in it.
        values: (T,).
        bounds: where the terms of each component of the result begin, and the last end.
    """
    links = next((len(row) for row in rows if row is not None), len(out))
    width = max(tensor.shape[2] for tensor in (out, *given))
    if not (links and out.shape[1]):
        return
    spare = MOST_OPERANDS - len(given)
    operands = [*given, *[out] * spare]
    block = min(triton.next_power_of_2(width), 128)
    _multilinear[(links, out.shape[1])](
        out, *operands, *(out if row is None else row for row in rows), *[out] * spare,
        components, values, bounds, components.shape[1],
        *(tensor.shape[1] for tensor in (out, *operands)),
        W0=out.shape[2], W1=operands[0].shape[2], W2=operands[1].shape[2],
        W3=operands[2].shape[2], W4=operands[3].shape[2],
        R0=rows[0] is not None,
        R1=rows[1] is not None,
        R2=len(given) > 1 and rows[2] is not None,
        R3=len(given) > 2 and rows[3] is not None,
        R4=len(given) > 3 and rows[4] is not None,
        N=len(given), F=width, BLOCK=block, num_warps=max(1, block // 64),
    )  # fmt: skip


# --- activations ----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count"])
def _activate(x_, out, count, SILU: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    x = tl.load(x_ + at, mask=here)
    soft = tl.maximum(x, 0) + tl.log(0.5 + 0.5 * tl.exp(-tl.abs(x)))
    tl.store(out + at, x / (1 + tl.exp(-x)) if SILU else soft, mask=here)


@triton.jit(do_not_specialize=["count"])
def _activate_backward(g_, x_, out, count, SILU: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    x, g = tl.load(x_ + at, mask=here), tl.load(g_ + at, mask=here)
    s = 1 / (1 + tl.exp(-x))
    slope = s * (1 + x * (1 - s)) if SILU else s
    tl.store(out + at, g * slope, mask=here)


@triton.jit(do_not_specialize=["count"])
def _activate_twice(h_, g_, x_, to_g, to_x, count, SILU: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = at < count
    x, g = tl.load(x_ + at, mask=here), tl.load(g_ + at, mask=here)
    h = tl.load(h_ + at, mask=here)
    s = 1 / (1 + tl.exp(-x))
    slope = s * (1 + x * (1 - s)) if SILU else s
    bend = s * (1 - s) * (2 + x * (1 - 2 * s)) if SILU else s * (1 - s)
    tl.store(to_g + at, h * slope, mask=here)
    tl.store(to_x + at, h * g * bend, mask=here)


_ACTIVATIONS = {
    f"{kind}{order}": (kernel, kind == "silu")
    for kind in ("silu", "shifted_softplus")
    for order, kernel in (
        ("", _activate), ("_backward", _activate_backward), ("_twice", _activate_twice)
    )
}  # fmt: skip


# --- sparse sums of products: a program takes a link and a component of the result ----------------


@triton.jit
def _of(x, rows, link, count, W: tl.constexpr, R: tl.constexpr):
    row = tl.load(rows + link) if R else link
    return x + row * count * W


@triton.jit
def _factor(x, component, f, m, W: tl.constexpr):
    at = x + component * W
    return tl.load(at) if W == 1 else tl.load(at + f, mask=m, other=0.0)


@triton.jit
def _multilinear(
    out, x1, x2, x3, x4, r0, r1, r2, r3, r4, components, values, bounds, T,
    c0, c1, c2, c3, c4,
    W0: tl.constexpr, W1: tl.constexpr, W2: tl.constexpr, W3: tl.constexpr, W4: tl.constexpr,
    R0: tl.constexpr, R1: tl.constexpr, R2: tl.constexpr, R3: tl.constexpr, R4: tl.constexpr,
    N: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    link, component = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tl.load(bounds + component), tl.load(bounds + component + 1)
    to = _of(out, r0, link, c0, W0, R0) + component * W0
    x1 = _of(x1, r1, link, c1, W1, R1)
    if N > 1:
        x2 = _of(x2, r2, link, c2, W2, R2)
    if N > 2:
        x3 = _of(x3, r3, link, c3, W3, R3)
    if N > 3:
        x4 = _of(x4, r4, link, c4, W4, R4)
    total = tl.sum(tl.zeros([BLOCK], dtype=out.dtype.element_ty))
    for start in range(0, F, BLOCK):
        f = start + tl.arange(0, BLOCK)
        m = f < F
        added = tl.zeros([BLOCK], dtype=out.dtype.element_ty)
        for t in range(begin, end):
            product = tl.load(values + t) * _factor(x1, tl.load(components + T + t), f, m, W1)
            if N > 1:
                product = product * _factor(x2, tl.load(components + 2 * T + t), f, m, W2)
            if N > 2:
                product = product * _factor(x3, tl.load(components + 3 * T + t), f, m, W3)
            if N > 3:
                product = product * _factor(x4, tl.load(components + 4 * T + t), f, m, W4)
            added += product
        if W0 < F:
            total += tl.sum(tl.where(m, added, 0))
        elif R0:
            tl.atomic_add(to + f, added, mask=m, sem="relaxed")
        else:
            tl.store(to + f, added, mask=m)
    if W0 < F:
        if R0:
            tl.atomic_add(to, total, sem="relaxed")
        else:
            tl.store(to, total)


_BY_ROWS = messages_gpu.KERNELS | gates_gpu.KERNELS
