"""Matrix products of language models, by whichever of PyTorch's two libraries is faster here.

PyTorch leaves those in single precision to MKL, which on processors of AMD keeps to half of their
vectors. oneDNN, which it brings for bfloat16, uses all of them: over twice the speed with AVX-512.
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
        and native.at_work(weight)
        and not torch.is_autocast_enabled("cpu")
        and _onednn() is not None
    )


@functools.cache
def _onednn() -> Any:
    """The operation, where it is the faster one: on AMD with AVX-512; None elsewhere."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
        return torch.ops.mkldnn._linear_pointwise if amd else None
    except (OSError, AttributeError):  # no Linux; a build of PyTorch without oneDNN
        return None


def _product(rows: Tensor, columns: Tensor, bias: Tensor | None = None) -> Tensor:
    """(A, K) by (B, K): what each row makes of each column, (A, B)."""
    found: Tensor = _onednn()(rows, columns, bias, "none", [], "")
    return found


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
