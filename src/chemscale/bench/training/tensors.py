"""Tensors in safetensors files: written piece by piece, read from however many wrote them.

A sharded tensor (DTensor) is spread by rows: each rank has the next so many, the last ones fewer or
none. A file holds one rank's rows under the tensor's name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.bool: "BOOL",
}


def file(tensors: Mapping[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file, tensor by tensor: what lies on the CPU is not copied."""
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())  # aligned
    header, start = {}, 0
    for name, tensor in ordered:
        end = start + tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for _, tensor in ordered:
        flat = tensor.detach().cpu().contiguous().flatten()
        yield flat.view(torch.uint8).numpy().data


class Files:
    """The tensors of a checkpoint of one kind, put together from the files of all ranks."""

    def __init__(self, folder: Path, kind: str):
        found = sorted(folder.glob(f"{kind}*.safetensors"))
        if not found:
            raise FileNotFoundError(f"{folder}: no {kind}")
        self._files: list[Any] = [safe_open(path, "pt") for path in found]
        self.names = sorted({name for one in self._files for name in one.keys()})  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        parts = [one.get_tensor(name) for one in self._files if name in one.keys()]  # noqa: SIM118
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is spread over ranks (a DTensor, whose import takes a second)."""
    return hasattr(tensor, "to_local")


def local(tensor: Any) -> Tensor:
    """What of it is here."""
    here: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return here


def rows(whole: Tensor, of: Any) -> Tensor:
    """What of a whole tensor belongs here, if it is spread as another is."""
    if not is_sharded(of):
        return whole
    each = -(-len(whole) // of.device_mesh.size())
    rank = of.device_mesh.get_local_rank()
    return whole[rank * each : (rank + 1) * each]


def like(whole: Tensor, of: Any) -> Tensor:
    """A whole tensor, spread as another is, on its device."""
    if not is_sharded(of):
        return whole.to(of.device)
    from torch.distributed.tensor import DTensor

    part = rows(whole, of).to(of.to_local().device).contiguous()
    spread: Tensor = DTensor.from_local(
        part, of.device_mesh, of.placements, shape=whole.shape, stride=whole.stride()
    )
    return spread
