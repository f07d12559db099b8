"""Scalars and vectors of one atom that speak to each other, as in PaiNN's updates.

On a GPU each is one kernel, and so are its derivatives: of some atoms all steps cost the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from chemscale.bench.nn import native

TINY = 1e-8  # keeps the gradient finite where a vector vanishes by symmetry


def lengths(mixed: Tensor) -> Tensor:
    """Of the second half of vectors (A, 3, 2F): (A, F)."""
    if native.serves_on_gpu(mixed):
        return _Lengths.apply(mixed)
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


class _Lengths(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mixed: Tensor) -> Tensor:
        mixed = mixed.contiguous()
        ctx.save_for_backward(mixed)
        out = mixed.new_empty(len(mixed), mixed.shape[2] // 2)
        native.call("lengths", mixed, out, *out.shape)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _LengthsBackward.apply(gradient, *ctx.saved_tensors)


class _LengthsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, mixed: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        ctx.save_for_backward(gradient, mixed)
        out = torch.empty_like(mixed)
        native.call("lengths_backward", gradient, mixed, out, *gradient.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        gradient, mixed = ctx.saved_tensors
        out = torch.empty_like(gradient), torch.empty_like(mixed)
        native.call("lengths_twice", cotangent.contiguous(), gradient, mixed, *out, *gradient.shape)
        return out


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        scalars, vectors, mixed, gates = (one.contiguous() for one in given)
        ctx.save_for_backward(mixed, gates)
        out = torch.empty_like(scalars), torch.empty_like(vectors)
        native.call("update", scalars, vectors, mixed, gates, *out, *scalars.shape)
        return out

    @staticmethod
    def backward(ctx: Any, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
        return scalars, vectors, *_UpdateBackward.apply(scalars, vectors, *ctx.saved_tensors)


class _UpdateBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        scalars, vectors, mixed, gates = (one.contiguous() for one in given)
        ctx.save_for_backward(scalars, vectors, mixed, gates)
        out = torch.empty_like(mixed), torch.empty_like(gates)
        native.call("update_backward", scalars, vectors, mixed, gates, *out, *scalars.shape)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, ...]:
        out = tuple(torch.empty_like(one) for one in ctx.saved_tensors)
        given = [cotangent.contiguous() for cotangent in cotangents]
        native.call("update_twice", *given, *ctx.saved_tensors, *out, *ctx.saved_tensors[0].shape)
        return out
