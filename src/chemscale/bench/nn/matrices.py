"""Matrix products of language models in training, by our kernel where that is the faster way.

PyTorch leaves those in single precision to MKL, which on processors of AMD keeps to half of their
vectors. The kernel uses all of them: over twice the speed with AVX-512.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from chemscale.bench.nn import native
from chemscale.bench.nn.dense import packed, product

WORTH = 2**21  # multiplications below which a call from Python takes more than is gained


class Linear(nn.Linear):
    """As PyTorch's."""

    def forward(self, features: Tensor) -> Tensor:
        """(T, F) to (T, G)."""
        return linear(features, self.weight, self.bias)


def linear(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Features (T, F) by a weight (G, F), and a bias (G,) added: (T, G)."""
    if _serves(features, weight):
        return _Linear.apply(features, weight, bias)
    return F.linear(features, weight, bias)


def _serves(features: Tensor, weight: Tensor) -> bool:
    return (
        features.dtype == weight.dtype == torch.float32
        and features.numel() * len(weight) >= WORTH
        and native.at_work(features)
        and native.serves(weight)
        and not torch.is_autocast_enabled("cpu")
        and _amd()
    )


@functools.cache
def _amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:  # no Linux
        return False


def _product(rows: Tensor, columns: Tensor, bias: Tensor | None = None) -> Tensor:
    """(A, K) by (B, K): what each row makes of each column, (A, B)."""
    return product(rows, packed(columns.T), len(columns), bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(features, weight)
        return _product(features, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        to_features, to_weight, to_bias = ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (
            _product(gradient, weight.t()) if to_features else None,
            _product(gradient.t(), features.t()) if to_weight else None,
            gradient.sum(dim=0) if to_bias else None,
        )
