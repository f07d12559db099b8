"""Activations; on a CPU one pass through memory each, in both derivatives too."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from chemscale.bench.nn import native
from chemscale.bench.nn.derivatives import Kernel


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
        kernel = Kernel(name, (features.numel(), torch.get_num_threads()))
        return kernel.value(features.shape, features)
    return plain(features)
