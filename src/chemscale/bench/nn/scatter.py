"""From atoms to edges and back: gathering rows, and summing those that end at the same atom."""

from __future__ import annotations

import torch
from torch import Tensor


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of the last axis but one: (n, F) to (E, F), or (3, n, F) to (3, E, F)."""
    if values.dim() == 2:
        return values.index_select(0, index)
    blocks, rows, features = values.shape
    flat = values.reshape(blocks * rows, features).index_select(0, _tiled(index, blocks, rows))
    return flat.view(blocks, len(index), features)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum rows that share an index: (E,) to (size,), (E, F) to (size, F), or (3, E, F) likewise."""
    if values.dim() < 3:
        return values.new_zeros((size, *values.shape[1:])).index_add(0, index, values)
    blocks, rows, features = values.shape
    flat = values.reshape(blocks * rows, features)
    total = values.new_zeros(blocks * size, features)
    return total.index_add(0, _tiled(index, blocks, size), flat).view(blocks, size, features)


def _tiled(index: Tensor, blocks: int, size: int) -> Tensor:
    """The same index in each of several stacked blocks of `size` rows."""
    return (index + size * torch.arange(blocks, device=index.device)[:, None]).reshape(-1)
