"""Scalars and vectors of one atom that speak to each other, as in PaiNN's updates.

On a GPU each is one kernel, and so are its derivatives: of some atoms all steps cost the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chemscale.bench.nn import native
from chemscale.bench.nn.derivatives import Kernel

TINY = 1e-8  # keeps the gradient finite where a vector vanishes by symmetry


def lengths(mixed: Tensor) -> Tensor:
    """Of the second half of vectors (A, 3, 2F): (A, F)."""
    if native.serves_on_gpu(mixed):
        shape = len(mixed), mixed.shape[2] // 2
        return Kernel("lengths", shape).value(shape, mixed)
    right = mixed.split(mixed.shape[2] // 2, dim=2)[1]  # (A, 3, F)
    return (right.square().sum(dim=1) + TINY).sqrt()


def updated(
    scalars: Tensor, vectors: Tensor, mixed: Tensor, gates: Tensor
) -> tuple[Tensor, Tensor]:
    """Scalars (A, F) and vectors (A, 3, F) after an update.

    Args:
        scalars: before it.
        vectors: before it.
        mixed: left and right vectors (A, 3, 2F), that are multiplied.
        gates: (A, 3F) of the left vectors that are added, of the products, and scalars to add.
    """
    if native.serves_on_gpu(mixed):
        return _Update.apply(scalars, vectors, mixed, gates)
    width = scalars.shape[1]
    left, right = mixed.split(width, dim=2)  # (A, 3, F) each
    # Not by chunk, whose gradient in TorchScript fails where a part leads nowhere.
    to_vector, inner, to_scalar = gates.split(width, dim=1)  # (A, F) each
    scalars = scalars + to_scalar + inner * (left * right).sum(dim=1)
    return scalars, vectors + left * to_vector[:, None]


class _Update(torch.autograd.Function):
    """Unlike other kernels it has two values, which scalars and vectors are added to."""

    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        scalars, vectors, mixed, gates = (one.contiguous() for one in given)
        ctx.kernel = Kernel("update", tuple(scalars.shape), num_values=2)
        ctx.save_for_backward(mixed, gates)
        out = torch.empty_like(scalars), torch.empty_like(vectors)
        ctx.kernel.call("", scalars, vectors, mixed, gates, out=out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return *gradients, *ctx.kernel.slopes(gradients, *ctx.saved_tensors)
