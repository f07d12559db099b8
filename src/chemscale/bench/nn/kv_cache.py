"""What sequences keep of their tokens while they are sampled: attention one token at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from chemscale.bench.nn import native

PLACES = 16  # of a page, as in the kernels


class Past(ABC):
    """Keys and values of the sequences in S slots, for one layer; grows as they get longer.

    Two sequences may follow one another in a slot: nothing beyond a position is ever looked at.

    Args:
        num_slots: S.
        width: F, features of a token.
        num_heads: H, of F / H features each.
        like: a tensor of the type and on the device that the keys will have.
    """

    @staticmethod
    def of(num_slots: int, width: int, num_heads: int, like: Tensor) -> Past:
        """By the native kernels where they serve."""
        kind = _Paged if native.serves(like) else _Plain
        return kind(num_slots, width, num_heads, like)

    def __init__(self, num_slots: int, width: int, num_heads: int, like: Tensor):
        self.num_slots, self.num_heads, self.head_size = num_slots, num_heads, width // num_heads
        self.like = like

    def another(self) -> Past:
        """One of the same shape, empty."""
        return type(self)(
            self.num_slots, self.num_heads * self.head_size, self.num_heads, self.like
        )

    @abstractmethod
    def make_room(self, length: int) -> None:
        """For sequences of this length."""

    @abstractmethod
    def attend(
        self, packed: Tensor, positions: Tensor, slots: Tensor, window: int | None = None
    ) -> Tensor:
        """What the next token of R sequences gathers; its key and value join those kept.

        Args:
            packed: (R, 3F) queries, keys and values, as in `attention.attend`.
            positions: (R,) where in its sequence each token stands, from 0; there must be room.
            slots: (R,) where the sequence is kept, no two alike.
            window: how many tokens each sees, itself included; None: all.

        Returns:
            (R, F)
        """


class _Plain(Past):
    """By PyTorch: keys and values (S, H, C, F/H)."""

    capacity = 0  # C
    keys: Tensor
    values: Tensor

    def make_room(self, length: int) -> None:
        if length <= self.capacity:
            return
        old, self.capacity = self.capacity, max(64, 1 << (length - 1).bit_length())
        keys = self.like.new_empty(self.num_slots, self.num_heads, self.capacity, self.head_size)
        values = torch.empty_like(keys)
        if old:
            keys[:, :, :old], values[:, :, :old] = self.keys, self.values
        self.keys, self.values = keys, values

    def attend(
        self, packed: Tensor, positions: Tensor, slots: Tensor, window: int | None = None
    ) -> Tensor:
        query, key, value = packed.unflatten(1, (3, self.num_heads, -1)).unbind(1)  # (R, H, F/H)
        self.keys[slots, :, positions] = key
        self.values[slots, :, positions] = value
        longest = int(positions.max()) + 1  # L
        keys = self.keys[:, :, :longest][slots]  # (R, H, L, F/H)
        scores = query[:, :, None] @ keys.transpose(2, 3)  # (R, H, 1, L)
        ages = positions[:, None] - torch.arange(longest, device=packed.device)  # (R, L)
        hidden = ages < 0
        if window is not None:
            hidden |= ages >= window
        weights = scores.masked_fill(hidden[:, None, None], -torch.inf).softmax(dim=3)
        values = self.values[:, :, :longest][slots]  # (R, H, L, F/H)
        values.masked_fill_(hidden[:, None, :, None], 0)  # never written, so anything at all
        return (weights @ values).flatten(1)  # (R, F)


class _Paged(Past):
    """By one kernel; pages of 16 places, so that nothing is copied when sequences get longer.

    Keys lie feature by feature within a page, so that scores run along places, and a step still
    reads memory in long pieces.
    """

    def __init__(self, num_slots: int, width: int, num_heads: int, like: Tensor):
        super().__init__(num_slots, width, num_heads, like)
        self.pages: list[tuple[Tensor, Tensor]] = []
        self.addresses = torch.empty(2, 0, dtype=torch.int64)

    def make_room(self, length: int) -> None:
        if length <= PLACES * len(self.pages):
            return
        wide = -(-self.head_size // PLACES) * PLACES  # whole vectors
        while length > PLACES * len(self.pages):
            keys = self.like.new_empty(self.num_slots, self.num_heads, self.head_size, PLACES)
            values = self.like.new_empty(self.num_slots, PLACES, self.num_heads, wide)
            self.pages.append((keys, values))
        self.addresses = torch.tensor(
            [[page.data_ptr() for page in kind] for kind in zip(*self.pages, strict=True)]
        )

    def attend(
        self, packed: Tensor, positions: Tensor, slots: Tensor, window: int | None = None
    ) -> Tensor:
        packed, (keys, values) = packed.contiguous(), self.addresses
        rows, width = len(packed), packed.shape[1] // 3
        gathered = packed.new_empty(rows, width)
        native.call(
            "attention_step", packed, slots, positions, keys, values, gathered,
            rows, width, self.num_heads, len(self.pages), window or 0,
        )  # fmt: skip
        return gathered
