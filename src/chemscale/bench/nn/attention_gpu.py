"""Causal attention of short molecules on a GPU, in Triton: one program a molecule and head.

FlashAttention (Dao 2024) is made for long texts: at forty tokens its backward pass takes a fifth of
the training step, and sums the gradient of the queries in no fixed order. Here a program goes
through its molecule in blocks, twice on the way back, once for the queries and once for keys and
values, so nothing is summed between programs and the result is the same each time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCKS = {torch.bfloat16: 64, torch.float32: 32}  # tokens at a time


def attend(packed: Tensor, bounds: Tensor, num_heads: int, window: int | None) -> Tensor:
    """What `attention.attend` gives: packed (T, 3F), bounds (M + 1,), to (T, F)."""
    found: Tensor = _Attend.apply(packed, bounds, num_heads, window)
    return found


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, packed: Tensor, bounds: Tensor, num_heads: int, window: int | None
    ) -> Tensor:
        packed = packed.contiguous()
        width = packed.shape[1] // 3
        ctx.grid = (len(bounds) - 1, num_heads)
        padded = max(16, triton.next_power_of_2(width // num_heads))
        ctx.sizes = {
            "width": width,
            "SIZE": width // num_heads,
            "PADDED": padded,
            # What is at work has to fit into the memory that the threads of a program share.
            "BLOCK": max(16, BLOCKS[packed.dtype] * 64 // max(64, padded)),
            "WINDOW": window or 0,
        }
        out = packed.new_empty(len(packed), width)
        scores = packed.new_empty(num_heads, len(packed), dtype=torch.float32)
        _forward[ctx.grid](packed, bounds, out, scores, len(packed), **ctx.sizes)
        ctx.save_for_backward(packed, bounds, out, scores)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed, bounds, out, scores = ctx.saved_tensors
        found = torch.empty_like(packed)
        _backward[ctx.grid](
            gradient.contiguous(), packed, bounds, out, scores, found, len(packed), **ctx.sizes
        )
        return found, None, None, None


@triton.jit  # type: ignore[untyped-decorator]
def _rows(start, rows, count, features, base, stride, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Some tokens' features of a head: (BLOCK, PADDED), zero beyond the molecule."""
    places = base + (start + rows)[:, None] * stride + features[None, :]
    return tl.load(places, mask=(rows < count)[:, None] & (features < SIZE)[None, :], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _seen(queries, keys, WINDOW: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which keys a query sees: (queries, keys)."""
    near = keys[None, :] <= queries[:, None]
    if WINDOW > 0:
        near = near & (queries[:, None] - keys[None, :] < WINDOW)
    return near


@triton.jit  # type: ignore[untyped-decorator]
def _first_block(start, BLOCK: tl.constexpr, WINDOW: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where the keys begin that a block of queries sees."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(start - WINDOW + 1, 0) // BLOCK * BLOCK
    return first


@triton.jit  # type: ignore[untyped-decorator]
def _end_of_queries(start, count, BLOCK: tl.constexpr, WINDOW: tl.constexpr):  # type: ignore[no-untyped-def]
    """Where the queries end that see a block of keys."""
    end = count
    if WINDOW > 0:
        end = tl.minimum(count, start + BLOCK + WINDOW - 1)
    return end


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    packed, bounds, out, scores, num_tokens,
    width, SIZE: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    molecule, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(bounds + molecule).to(tl.int64)
    count = tl.load(bounds + molecule + 1) - first.to(tl.int32)
    features = tl.arange(0, PADDED)
    base = packed + head * SIZE
    for start in range(0, count, BLOCK):
        queries = start + tl.arange(0, BLOCK)
        query = _rows(first, queries, count, features, base, 3 * width, SIZE)
        largest = tl.full((BLOCK,), -1e30, tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        gathered = tl.zeros((BLOCK, PADDED), tl.float32)
        for other in range(_first_block(start, BLOCK, WINDOW), start + BLOCK, BLOCK):
            keys = other + tl.arange(0, BLOCK)
            key = _rows(first, keys, count, features, base + width, 3 * width, SIZE)
            value = _rows(first, keys, count, features, base + 2 * width, 3 * width, SIZE)
            score = tl.dot(query, tl.trans(key), input_precision="ieee")
            score = tl.where(_seen(queries, keys, WINDOW), score, -1e30)
            higher = tl.maximum(largest, tl.max(score, axis=1))
            share = tl.exp(score - higher[:, None])
            shrink = tl.exp(largest - higher)
            total = total * shrink + tl.sum(share, axis=1)
            gathered = gathered * shrink[:, None]
            gathered += tl.dot(share.to(value.dtype), value, input_precision="ieee")
            largest = higher
        inside = queries < count
        places = out + (first + queries)[:, None] * width + head * SIZE + features[None, :]
        tl.store(
            places, (gathered / total[:, None]).to(out.dtype.element_ty),
            mask=inside[:, None] & (features < SIZE)[None, :],
        )  # fmt: skip
        tl.store(scores + head * num_tokens + first + queries, largest + tl.log(total), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    gradient, packed, bounds, out, scores, found, num_tokens,
    width, SIZE: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    molecule, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(bounds + molecule).to(tl.int64)
    count = tl.load(bounds + molecule + 1) - first.to(tl.int32)
    features = tl.arange(0, PADDED)
    base, onto = packed + head * SIZE, found + head * SIZE
    scores += head * num_tokens + first
    for start in range(0, count, BLOCK):
        here = start + tl.arange(0, BLOCK)
        mine = (here < count)[:, None] & (features < SIZE)[None, :]
        places = onto + (first + here)[:, None] * (3 * width) + features[None, :]
        # These tokens as queries.
        query = _rows(first, here, count, features, base, 3 * width, SIZE)
        slope = _rows(first, here, count, features, gradient + head * SIZE, width, SIZE)
        result = _rows(first, here, count, features, out + head * SIZE, width, SIZE)
        level = tl.load(scores + here, mask=here < count, other=0.0)
        mean = tl.sum(slope.to(tl.float32) * result.to(tl.float32), axis=1)
        to_query = tl.zeros((BLOCK, PADDED), tl.float32)
        for other in range(_first_block(start, BLOCK, WINDOW), start + BLOCK, BLOCK):
            keys = other + tl.arange(0, BLOCK)
            key = _rows(first, keys, count, features, base + width, 3 * width, SIZE)
            value = _rows(first, keys, count, features, base + 2 * width, 3 * width, SIZE)
            score = tl.dot(query, tl.trans(key), input_precision="ieee")
            share = tl.where(_seen(here, keys, WINDOW), tl.exp(score - level[:, None]), 0.0)
            pull = tl.dot(slope, tl.trans(value), input_precision="ieee")
            to_score = share * (pull - mean[:, None])
            to_query += tl.dot(to_score.to(key.dtype), key, input_precision="ieee")
        tl.store(places, to_query.to(found.dtype.element_ty), mask=mine)
        # The same tokens as keys and values.
        key = _rows(first, here, count, features, base + width, 3 * width, SIZE)
        value = _rows(first, here, count, features, base + 2 * width, 3 * width, SIZE)
        to_key = tl.zeros((BLOCK, PADDED), tl.float32)
        to_value = tl.zeros((BLOCK, PADDED), tl.float32)
        for other in range(start, _end_of_queries(start, count, BLOCK, WINDOW), BLOCK):
            queries = other + tl.arange(0, BLOCK)
            query = _rows(first, queries, count, features, base, 3 * width, SIZE)
            slope = _rows(first, queries, count, features, gradient + head * SIZE, width, SIZE)
            result = _rows(first, queries, count, features, out + head * SIZE, width, SIZE)
            level = tl.load(scores + queries, mask=queries < count, other=0.0)
            mean = tl.sum(slope.to(tl.float32) * result.to(tl.float32), axis=1)
            score = tl.dot(query, tl.trans(key), input_precision="ieee")
            seen = _seen(queries, here, WINDOW) & (queries < count)[:, None]
            share = tl.where(seen, tl.exp(score - level[:, None]), 0.0)
            to_value += tl.dot(tl.trans(share.to(slope.dtype)), slope, input_precision="ieee")
            pull = tl.dot(slope, tl.trans(value), input_precision="ieee")
            to_score = share * (pull - mean[:, None])
            to_key += tl.dot(tl.trans(to_score.to(query.dtype)), query, input_precision="ieee")
        tl.store(places + width, to_key.to(found.dtype.element_ty), mask=mine)
        tl.store(places + 2 * width, to_value.to(found.dtype.element_ty), mask=mine)
