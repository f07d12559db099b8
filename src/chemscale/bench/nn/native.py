"""Which kernels of our own serve: in C++ on a CPU, in Triton on a GPU, and how they are called.

Those in C++ are built on first use and called through ctypes. Each kernel has a plain version in
PyTorch beside it, which gives the same results to rounding and serves everywhere else: without a
compiler or Triton, and where operations are to be counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from chemscale.bench import building

SUFFIX = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bfloat16"}

Mode = Literal["run", "plain", "shapes", "shapes on a GPU"]

_mode: ContextVar[Mode] = ContextVar("native kernels", default="run")


def serves(tensor: Tensor, *, half: bool = False) -> bool:
    """Whether the kernels can work on this tensor, and are there and allowed.

    Args:
        tensor: what would be given to them.
        half: these kernels take bfloat16 too.
    """
    mode = _mode.get()
    if tensor.dtype not in SUFFIX or mode == "plain":
        return False
    if tensor.dtype == torch.bfloat16 and not half:
        return False
    return mode == "shapes" or (at_work(tensor) and library() is not None)


def serves_on_gpu(tensor: Tensor, *, half: bool = False) -> bool:
    """Whether this is a tensor on a GPU for which Triton can make kernels.

    Args:
        tensor: what would be given to them.
        half: these take bfloat16, and not double precision; others the other way round.
    """
    if tensor.dtype not in (torch.float32, torch.bfloat16 if half else torch.float64):
        return False
    if _mode.get() == "shapes on a GPU":
        return not half  # those are traced by what PyTorch has
    return at_work(tensor, "cuda") and on_gpu() is not None


def at_work(tensor: Tensor, device: str = "cpu") -> bool:
    """Whether this is a tensor on a CPU that is computed with, not traced, compiled or counted."""
    return (
        _mode.get() == "run"
        and tensor.device.type == device
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
    )


def path(tensor: Tensor) -> Literal["native", "eager"]:
    """The way that training takes with such parameters, in a word for the record."""
    return "native" if serves(tensor) or serves_on_gpu(tensor) else "eager"


def plain() -> contextlib.AbstractContextManager[None]:
    """Within: PyTorch alone, as on a machine without a compiler."""
    return _within("plain")


def shapes(device: Literal["cpu", "cuda"]) -> contextlib.AbstractContextManager[None]:
    """Within: all tensors take the way of the kernels of such a device, which do nothing."""
    return _within("shapes" if device == "cpu" else "shapes on a GPU")


@contextlib.contextmanager
def _within(mode: Mode) -> Iterator[None]:
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def call(name: str, *arguments: Tensor | int) -> None:
    """Run a kernel on tensors laid out as it reads them; the first one's type is the kernel's."""
    if _mode.get().startswith("shapes"):
        return
    first = arguments[0]
    assert isinstance(first, Tensor)
    if kernels := gpu_kernels(first):
        kernels.call(name, *arguments)
        return
    kernel = _kernel(f"{name}_{SUFFIX[first.dtype]}", len(arguments))
    kernel(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


@functools.cache
def _kernel(name: str, num_arguments: int) -> Callable[..., None]:
    shared = library()
    assert shared is not None
    address = ctypes.c_void_p.in_dll(shared, name).value
    assert address is not None
    # Whatever is passed is a pointer or a 64-bit integer; both travel in the same registers.
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * num_arguments)(address)


def gpu_kernels(tensor: Tensor) -> Any:
    """The module of kernels for a tensor on a GPU; None for any other."""
    return on_gpu() if tensor.is_cuda else None


@functools.cache
def on_gpu() -> Any:
    """The module of kernels in Triton; None where it is switched off or not there."""
    if os.environ.get("CHEMSCALE_NATIVE") == "0" or importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("chemscale.bench.nn.kernels_gpu")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built kernels; None where they are switched off or cannot be built."""
    source = Path(__file__).with_name("kernels.cpp")
    return building.library(source, "training without native kernels, two to five times slower")
