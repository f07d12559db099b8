"""Matrix products by a native kernel, and linear layers made ready for sampling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chemscale.bench.nn import native
from chemscale.bench.nn.activations import gelu

PANEL = 32  # columns of a panel, as in the kernels


class Dense:
    """Rows (R, F) to rows (R, G), by weights as they are now: later training does not reach it.

    For sampling, where few rows at a time pass through the same weights. On a CPU it holds a
    second copy of them. A row's result does not depend on the rows beside it.

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
        serves = native.serves(self.weight)
        self.panels = packed(self.weight.detach().T) if serves else None

    def __call__(self, features: Tensor, onto: Tensor | None = None) -> Tensor:
        """The result, added to `onto` (R, G) where that is given."""
        if self.norm is not None:
            features = self.norm(features)
        if self.panels is None:
            out = F.linear(features, self.weight, self.bias)  # (R, G)
            out = gelu(out) if self.activated else out
            return out if onto is None else onto + out
        return product(
            features, self.panels, len(self.weight), self.bias, onto=onto, activated=self.activated
        )


def packed(matrix: Tensor) -> Tensor:
    """The second factor of a product, (F, G) of any strides, as the kernel reads it, in panels."""
    features, columns = matrix.shape
    panels = matrix.new_empty(-(-columns // PANEL), features, PANEL)
    native.call("pack", matrix, panels, columns, features, *matrix.stride())
    return panels


def product(
    rows: Tensor,
    panels: Tensor,
    columns: int,
    bias: Tensor | None = None,
    *,
    onto: Tensor | None = None,
    activated: bool = False,
) -> Tensor:
    """Rows (R, F), of any strides, by panels to (R, G)."""
    out = rows.new_empty(len(rows), columns)
    native.call(
        "dense", rows, panels, 0 if bias is None else bias, 0 if onto is None else onto, out,
        *rows.shape, columns, *rows.stride(), int(activated), torch.get_num_threads(),
    )  # fmt: skip
    return out
