"""Linear layers made ready for sampling, where few rows at a time pass through the same weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemscale.bench.nn import native
from chemscale.bench.nn.activations import gelu

PANEL = 32  # columns of a panel, as in the kernels


class Dense:
    """Rows (R, F) to rows (R, G), by weights as they are now: later training does not reach it.

    On a CPU a native kernel reads a second copy of the weights, in the order in which it uses
    them. A row's result does not depend on the rows beside it.

    Args:
        layer: a linear layer, or an embedding read backwards.
        norm: applied before it.
        activated: whether GELU comes after it.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Embedding,
        norm: nn.Module | None = None,
        *,
        activated: bool = False,
    ):
        self.weight, self.bias = layer.weight, getattr(layer, "bias", None)
        self.norm, self.activated = norm, activated
        self.panels = _packed(self.weight) if native.serves(self.weight) else None

    def __call__(self, features: Tensor, onto: Tensor | None = None) -> Tensor:
        """The result, added to `onto` (R, G) where that is given."""
        if self.norm is not None:
            features = self.norm(features)
        if self.panels is None:
            out = F.linear(features, self.weight, self.bias)  # (R, G)
            out = gelu(out) if self.activated else out
            return out if onto is None else onto + out
        features = features.contiguous()
        out = features.new_empty(len(features), len(self.weight))
        native.call(
            "dense", features, self.panels, 0 if self.bias is None else self.bias,
            0 if onto is None else onto, out, *features.shape, len(self.weight),
            int(self.activated),
        )  # fmt: skip
        return out


@torch.no_grad()
def _packed(weight: Tensor) -> Tensor:
    """(G, F) to panels (G / 32, F, 32), zeros beyond the last column."""
    columns, features = weight.shape
    panels = weight.new_empty(-(-columns // PANEL), features, PANEL)
    native.call("pack", weight.contiguous(), panels, columns, features)
    return panels
