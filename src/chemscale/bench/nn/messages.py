"""From atoms along edges to atoms: the sums over neighbours that graph networks are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chemscale.bench.nn import native


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
            return _Convolve.apply(features, filters, self.receivers, self.senders)
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
            return _Exchange.apply(sent, filters, directions, self.receivers, self.senders)
        sent = sent.index_select(0, self.senders)  # (L, 5, F)
        scalar, along, vector = sent.split((1, 1, 3), dim=1)  # (L, 1 or 3, F)
        of_scalar, of_vector, of_along = filters.split(1, dim=1)  # (L, 1, F)
        vector = vector * of_vector + directions[:, :, None] * (along * of_along)  # (L, 3, F)
        message = torch.cat((scalar * of_scalar, vector), dim=1)  # (L, 4, F)
        return scatter_sum(message, self.receivers, self.num_atoms)  # (A, 4, F)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows that share an index: (n, …) to (size, …)."""
    return values.new_zeros((size, *values.shape[1:])).index_add(0, index, values)


# --- native kernels with their first and second derivatives ---------------------------------------


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, filters: Tensor, a: Tensor, b: Tensor) -> Tensor:
        features, filters = features.contiguous(), filters.contiguous()
        ctx.save_for_backward(features, filters, a, b)
        out = torch.zeros_like(features)
        native.call("convolve", features, filters, a, b, out, *filters.shape)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*_ConvolveBackward.apply(gradient, *ctx.saved_tensors), None, None)


class _ConvolveBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, features: Tensor, filters: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Tensor, Tensor]:
        gradient = gradient.contiguous()
        ctx.save_for_backward(gradient, features, filters, a, b)
        out = torch.zeros_like(features), torch.empty_like(filters)
        native.call("convolve_backward", gradient, features, filters, a, b, *out, *filters.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradient, features, filters, a, b = ctx.saved_tensors
        out = torch.zeros_like(gradient), torch.zeros_like(features), torch.empty_like(filters)
        given = [cotangent.contiguous() for cotangent in cotangents]
        native.call(
            "convolve_twice", *given, gradient, features, filters, a, b, *out, *filters.shape
        )
        return (*out, None, None)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, sent: Tensor, filters: Tensor, directions: Tensor, a: Tensor, b: Tensor
    ) -> Tensor:
        sent, filters = sent.contiguous(), filters.contiguous()
        directions = directions.contiguous()
        ctx.save_for_backward(sent, filters, directions, a, b)
        atoms, _, width = sent.shape
        out = sent.new_zeros(atoms, 4, width)
        native.call("exchange", sent, filters, directions, a, b, out, len(a), width)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*_ExchangeBackward.apply(gradient, *ctx.saved_tensors), None, None)


class _ExchangeBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *saved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gradient = gradient.contiguous()
        ctx.save_for_backward(gradient, *saved)
        sent, filters, directions, a, _ = saved
        out = torch.zeros_like(sent), torch.empty_like(filters), torch.empty_like(directions)
        native.call("exchange_backward", gradient, *saved, *out, len(a), sent.shape[2])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        gradient, sent, filters, directions, a, b = ctx.saved_tensors
        out = (
            torch.zeros_like(gradient),
            torch.zeros_like(sent),
            torch.empty_like(filters),
            torch.empty_like(directions),
        )
        given = [cotangent.contiguous() for cotangent in cotangents]
        native.call("exchange_twice", *given, *ctx.saved_tensors, *out, len(a), sent.shape[2])
        return (*out, None, None)
