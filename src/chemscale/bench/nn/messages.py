"""From atoms along edges to atoms: the sums over neighbours that graph networks are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from chemscale.bench.nn.derivatives import Kernel


@dataclass(frozen=True)
class Links:
    """What carries the messages of a graph of A atoms: its L edges, or its pairs.

    A filter depends on a distance, so the two directions of an edge share it. Where native kernels
    serve, each pair is there once and carries both; the plain path takes every edge by itself.
    """

    vectors: Tensor  # (L, 3) from receiver to sender, Å
    senders: Tensor  # (L,)
    receivers: Tensor  # (L,)
    num_atoms: int  # A
    both_ways: bool  # each link carries a message back, too

    def distances(self) -> Tensor:
        """Å: (L,)."""
        return self.vectors.norm(dim=1)

    def convolve(self, features: Tensor, filters: Tensor) -> Tensor:
        """Each atom sums what its neighbours send, times the filter of the link.

        Args:
            features: (A, F) of the senders.
            filters: (L, F).

        Returns:
            (A, F).
        """
        if self.both_ways:
            return self._kernel("convolve", features).value(features.shape, features, filters)
        message = features.index_select(0, self.senders) * filters  # (L, F)
        return scatter_sum(message, self.receivers, self.num_atoms)  # (A, F)

    def exchange(self, sent: Tensor, filters: Tensor, directions: Tensor) -> Tensor:
        """Each atom sums scalars and vectors that its neighbours send.

        Args:
            sent: (A, 5, F) of the senders: what becomes scalars, what becomes vectors along the
                link, and vectors (three).
            filters: (L, 3, F): of the scalars, of the vectors, along the link.
            directions: (L, 3) unit vectors from receiver to sender.

        Returns:
            (A, 4, F): scalars, and the three components of vectors.
        """
        if self.both_ways:
            shape = self.num_atoms, 4, sent.shape[2]
            return self._kernel("exchange", sent).value(shape, sent, filters, directions)
        sent = sent.index_select(0, self.senders)  # (L, 5, F)
        scalar, along, vector = sent.split((1, 1, 3), dim=1)  # (L, 1 or 3, F)
        of_scalar, of_vector, of_along = filters.split(1, dim=1)  # (L, 1, F)
        vector = vector * of_vector + directions[:, :, None] * (along * of_along)  # (L, 3, F)
        message = torch.cat((scalar * of_scalar, vector), dim=1)  # (L, 4, F)
        return scatter_sum(message, self.receivers, self.num_atoms)  # (A, 4, F)

    def _kernel(self, name: str, features: Tensor) -> Kernel:
        sizes = len(self.senders), features.shape[-1]
        return Kernel(name, sizes, (self.receivers, self.senders), scattered=True)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows that share an index: (n, …) to (size, …)."""
    return values.new_zeros((size, *values.shape[1:])).index_add(0, index, values)
