"""How sequences are sampled from a language model, token by token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from chemscale.bench.models.base import LanguageModel


class Decoder(ABC):
    """Feeds sequences to a language model one token at a time; each lies in a slot."""

    @abstractmethod
    def step(self, tokens: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        """Logits of what follows: (R, V).

        Args:
            tokens: (R,) the next token of R sequences.
            positions: (R,) its place, one after that of the token before; 0 begins a sequence.
            slots: (R,) whose sequence, no two alike.
        """

    @abstractmethod
    def another(self) -> Decoder:
        """One for other sequences, for another thread; what was made of the weights is shared."""


class WholeDecoder(Decoder):
    """For any language model: reads each sequence anew from its beginning at every step."""

    def __init__(self, model: LanguageModel, num_slots: int):
        self.model = model
        self.before: list[list[int]] = [[] for _ in range(num_slots)]

    def another(self) -> WholeDecoder:
        return WholeDecoder(self.model, len(self.before))

    def step(self, tokens: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
        from chemscale.bench.data.token_batch import TokenBatch

        rows = []
        steps = zip(tokens.tolist(), positions.tolist(), slots.tolist(), strict=True)
        for token, place, slot in steps:
            self.before[slot][place:] = [token]
            rows.append(self.before[slot][1:])  # without <bos>
        sizes = np.array([len(row) for row in rows])
        symbols = np.array([token for row in rows for token in row], dtype=np.int64)
        batch = TokenBatch.of(symbols, sizes, np.zeros_like(sizes)).to(tokens.device)
        ends = torch.from_numpy(np.cumsum(sizes + 1) - 1)
        return self.model.logits(batch)[ends.to(tokens.device)]
