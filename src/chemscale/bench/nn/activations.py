"""Activations; on a CPU one pass through memory each, in both derivatives too."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from chemscale.bench.nn import native


def silu(features: Tensor) -> Tensor:
    """X · sigmoid(x) (Elfwing et al. 2018)."""
    return _activated("silu", features, F.silu, on_gpu=True)


def shifted_softplus(features: Tensor) -> Tensor:
    """ln(½ eˣ + ½): smooth, and zero at zero (Schütt et al. 2017)."""
    return _activated(
        "shifted_softplus", features, lambda x: F.softplus(x) - math.log(2.0), on_gpu=True
    )


def gelu(features: Tensor) -> Tensor:
    """X · Φ(x), with the tanh approximation of Φ (Hendrycks, Gimpel 2016)."""
    return _activated("gelu", features, partial(F.gelu, approximate="tanh"))


def _activated(
    name: str, features: Tensor, plain: Callable[[Tensor], Tensor], *, on_gpu: bool = False
) -> Tensor:
    if native.serves(features, half=True) or (on_gpu and native.serves_on_gpu(features)):
        return _Activate.apply(features, name)
    return plain(features)


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, name: str) -> Tensor:
        features = features.contiguous()
        ctx.save_for_backward(features)
        ctx.name = name
        out = torch.empty_like(features)
        native.call(name, features, out, features.numel(), torch.get_num_threads())
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        return _ActivateBackward.apply(gradient, features, ctx.name), None


class _ActivateBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, features: Tensor, name: str) -> Tensor:
        gradient = gradient.contiguous()
        ctx.save_for_backward(gradient, features)
        ctx.name = name
        out = torch.empty_like(features)
        native.call(
            f"{name}_backward", gradient, features, out, features.numel(), torch.get_num_threads(),
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor, None]:
        gradient, features = ctx.saved_tensors
        cotangent = cotangent.contiguous()
        to_gradient, to_features = torch.empty_like(gradient), torch.empty_like(features)
        native.call(
            f"{ctx.name}_twice", cotangent, gradient, features, to_gradient, to_features,
            features.numel(), torch.get_num_threads(),
        )  # fmt: skip
        return to_gradient, to_features, None
