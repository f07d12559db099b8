"""The device that is trained and evaluated on, what it is called, and the numbers it takes."""

from __future__ import annotations

import torch

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}


def device_name(device: torch.device) -> str:
    """What a device is called in the ladder: "cpu", or a GPU's own name in short."""
    if device.type == "cpu":
        return "cpu"
    words = torch.cuda.get_device_name(device).lower().split()
    return next((word for word in words if any(c.isdigit() for c in word)), words[-1])


def default_device() -> torch.device:
    """The GPU where there is one; with several ranks, this rank's."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else CPU
