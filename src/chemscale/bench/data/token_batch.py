"""Several molecules as one flat sequence of tokens: what language models read."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from chemscale.bench.data.moving import grain, onto
from chemscale.bench.nn.attention import bounds_of

PAD, BOS, EOS, UNK = range(4)
NO_TARGET = -100  # what PyTorch's cross-entropy leaves out
PIECE = 64  # tokens of padding that lie together


@dataclass(frozen=True)
class TokenBatch:
    """Molecules one after another. T tokens, M molecules."""

    tokens: Tensor  # (T,) without the last of each molecule
    targets: Tensor  # (T,) without the first
    positions: Tensor  # (T,) from 0 in each molecule
    molecule: Tensor  # (T,) ascending
    lengths: Tensor  # (M,) tokens of each; stays on the CPU, as shapes follow from it
    bounds: Tensor  # (M + 1,) where each begins and the last ends, 32 bits
    known: Tensor  # (M,) no symbol is <unk>
    heavy_atoms: Tensor  # (M,)

    @classmethod
    def of(
        cls, symbols: NDArray[np.int64], num_symbols: NDArray[np.int64], heavy: NDArray[np.int64]
    ) -> TokenBatch:
        """Pack molecules.

        Args:
            symbols: (S,) ids of all of them in order, without <bos> and <eos>.
            num_symbols: (M,) how many each has.
            heavy: (M,) heavy atoms of each.
        """
        lengths = num_symbols + 1
        ends = np.cumsum(lengths)  # (M,)
        starts = ends - lengths
        tokens = np.full(ends[-1], -1)
        tokens[starts] = BOS
        tokens[tokens < 0] = symbols
        targets = np.full(ends[-1], -1)
        targets[ends - 1] = EOS
        targets[targets < 0] = symbols
        molecule = np.repeat(np.arange(len(lengths)), lengths)
        known = np.bincount(molecule, tokens == UNK) == 0
        return cls(
            tokens=torch.from_numpy(tokens),
            targets=torch.from_numpy(targets),
            positions=torch.from_numpy(np.arange(ends[-1]) - starts[molecule]),
            molecule=torch.from_numpy(molecule),
            lengths=torch.from_numpy(lengths),
            bounds=bounds_of(torch.from_numpy(lengths)),
            known=torch.from_numpy(known),
            heavy_atoms=torch.from_numpy(heavy),
        )

    @property
    def num_molecules(self) -> int:
        """M."""
        return len(self.lengths)

    def pairs(self, window: int | None = None) -> int:
        """Query-key pairs of one attention layer: each token sees itself and those before it.

        Args:
            window: how many it sees at most, itself included; None: all.
        """
        pairs = int((self.lengths * (self.lengths + 1)).sum()) // 2
        if window is not None:
            beyond = (self.lengths - window).clamp(min=0)
            pairs -= int((beyond * (beyond + 1)).sum()) // 2
        return pairs

    def padded(self) -> TokenBatch:
        """The same with padding behind it, so that batches of few sizes occur, 2 % more on average.

        The padding is molecules of its own, whose targets count in no loss.
        """
        count = len(self.tokens)
        step = grain(count, 5, least=16)
        room = -count % step
        lengths = (room - torch.arange(0, step, PIECE)).clamp(0, PIECE)
        more = self.num_molecules + torch.arange(len(lengths)).repeat_interleave(lengths)
        whole = torch.cat((self.lengths, lengths))
        return TokenBatch(
            tokens=F.pad(self.tokens, (0, room), value=PAD),
            targets=F.pad(self.targets, (0, room), value=NO_TARGET),
            positions=F.pad(self.positions, (0, room)),
            molecule=torch.cat((self.molecule, more)),
            lengths=whole,
            bounds=bounds_of(whole),
            known=F.pad(self.known, (0, len(lengths))),
            heavy_atoms=F.pad(self.heavy_atoms, (0, len(lengths))),
        )

    def ready(self, device: torch.device, dtype: torch.dtype | None = None) -> TokenBatch:
        """As it is: there is nothing to cast."""
        return self

    def to(self, device: torch.device, dtype: torch.dtype | None = None) -> TokenBatch:
        """Move all but the lengths; there is nothing to cast."""
        moved = {
            field.name: onto(device, getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name != "lengths"
        }
        return dataclasses.replace(self, **moved)
