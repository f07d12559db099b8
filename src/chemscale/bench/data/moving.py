"""Batches on their way to the device they are trained on, where few sizes of them are wanted."""

from __future__ import annotations

import torch
from torch import Tensor


def onto(device: torch.device, tensor: Tensor) -> Tensor:
    """Move a tensor; to a GPU, nobody waits for it."""
    return (locked(tensor) if device.type == "cuda" else tensor).to(device, non_blocking=True)


def grain(count: int, bits: int, least: int = 1) -> int:
    """Steps in which a count is rounded up: all but its leading bits are lost, or `least`."""
    return max(least, 1 << max(0, count.bit_length() - bits))


def locked(tensor: Tensor) -> Tensor:
    """A tensor of a CPU in locked pages.

    From others a copy to a GPU waits until that has done all that was asked of it before.
    """
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor
