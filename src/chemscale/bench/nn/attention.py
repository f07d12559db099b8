"""Causal self-attention over molecules that lie one after another without padding."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chemscale.bench.nn import native
from chemscale.bench.nn.matrices import Linear


@dataclass(frozen=True)
class Packing:
    """Where each of the T tokens of M molecules lies in M rows of L slots."""

    slots: Tensor  # (T,) row · L + position
    lengths: Tensor  # (M,) tokens of each, on the CPU
    bounds: Tensor  # (M + 1,) where each begins and the last ends, 32 bits
    num_rows: int  # M
    length: int  # L, of the longest molecule

    @classmethod
    def of(
        cls, molecule: Tensor, positions: Tensor, lengths: Tensor, bounds: Tensor | None = None
    ) -> Packing:
        """From the row (T,) and position (T,) of each token, and the lengths (M,) on the CPU."""
        longest = int(lengths.max())
        if bounds is None:
            bounds = bounds_of(lengths).to(molecule.device)
        return cls(molecule * longest + positions, lengths, bounds, len(lengths), longest)

    def pad(self, values: Tensor) -> Tensor:
        """(T, F) to (M, L, F), zero where there is no token."""
        rows = values.new_zeros(self.num_rows * self.length, values.shape[1])
        return rows.index_copy(0, self.slots, values).view(self.num_rows, self.length, -1)

    def flatten(self, rows: Tensor) -> Tensor:
        """(M, L, F) to (T, F)."""
        return rows.flatten(0, 1).index_select(0, self.slots)


def bounds_of(lengths: Tensor) -> Tensor:
    """Where molecules of these lengths (M,) begin, and the last ends: (M + 1,), 32 bits."""
    return F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


class CausalAttention(nn.Module):
    """Attention of each token to itself and those before it, as in GPT-Neo.

    The scores are not divided by the root of the head size. Queries, keys and values have no bias.

    Args:
        width: F, features of a token.
        num_heads: H, of F / H features each.
        window: how many tokens each sees, itself included; None: all.
    """

    def __init__(self, width: int, num_heads: int, window: int | None):
        super().__init__()
        self.num_heads = num_heads
        self.window = window
        self.query_key_value = Linear(width, 3 * width, bias=False)
        self.mix = Linear(width, width)

    def forward(self, features: Tensor, packing: Packing) -> Tensor:
        """(T, F) to (T, F)."""
        packed = self.query_key_value(features)  # (T, 3F)
        return self.mix(attend(packed, packing, self.num_heads, self.window))


def attend(packed: Tensor, packing: Packing, num_heads: int, window: int | None) -> Tensor:
    """What each token gathers from itself and those before it, scores taken as they are.

    Args:
        packed: (T, 3F) queries, keys and values, each of `num_heads` heads side by side.
        packing: where the tokens lie.
        num_heads: H, of F / H features each.
        window: how many tokens each sees, itself included; None: all.

    Returns:
        (T, F)
    """
    if native.serves(packed, half=True):
        return _Attend.apply(packed, packing.lengths, num_heads, window)
    if native.serves_on_gpu(packed, half=True):
        from chemscale.bench.nn import attention_gpu

        return attention_gpu.attend(packed, packing.bounds, num_heads, window)
    # In single precision within, under autocast too: scores without scaling are large (GPT-Neo
    # does so), and on CPUs torch's attention in bfloat16 takes three times longer.
    packed = packed.to(torch.promote_types(packed.dtype, torch.float32))
    with _full_precision(packed.device.type):
        return _attend(packed, packing, num_heads, window)


def _attend(packed: Tensor, packing: Packing, num_heads: int, window: int | None) -> Tensor:
    """The same by PyTorch, rows padded."""
    rows = packing.pad(packed).unflatten(2, (3, num_heads, -1))  # (M, L, 3, H, F/H)
    query, key, value = rows.permute(2, 0, 3, 1, 4)  # (M, H, L, F/H) each
    # What pads a row lies behind its tokens, where a causal query does not look.
    if window is None or packing.length <= window:
        gathered = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=1.0)
    else:
        near = _band(packing.length, window, packed.device)
        gathered = F.scaled_dot_product_attention(query, key, value, attn_mask=near, scale=1.0)
    return packing.flatten(gathered.transpose(1, 2).flatten(2))  # (T, F)


def _full_precision(device: str) -> AbstractContextManager[object]:
    """No autocast within, on devices that have it."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """Which keys a query sees: itself and the `window - 1` before it: (L, L)."""
    everywhere = torch.ones(length, length, dtype=torch.bool, device=device)
    return everywhere.tril().triu(1 - window)


class _Attend(torch.autograd.Function):
    """The same in one native kernel, molecule by molecule without padding."""

    @staticmethod
    def forward(
        ctx: Any, packed: Tensor, lengths: Tensor, num_heads: int, window: int | None
    ) -> Tensor:
        packed, lengths = packed.contiguous(), lengths.contiguous()
        ctx.save_for_backward(packed, lengths)
        width = packed.shape[1] // 3
        ctx.shape = (len(lengths), width, num_heads, window or 0, torch.get_num_threads())
        out = packed.new_empty(len(packed), width)
        native.call("attention", packed, lengths, out, *ctx.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        packed, lengths = ctx.saved_tensors
        out = torch.empty_like(packed)
        gradient = gradient.contiguous()
        native.call("attention_backward", gradient, packed, lengths, out, *ctx.shape)
        return out, None, None, None
