"""Kernels in C++ for training on a CPU: built on first use, called through ctypes.

Each has a plain version in PyTorch beside it, which gives the same results to rounding and serves
everywhere else: on a GPU, without a compiler, and where operations are to be counted.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from chemscale.table.files import cache_folder

SUFFIX = {torch.float32: "float", torch.float64: "double"}

_SOURCE = Path(__file__).with_name("kernels.cpp")
_OPTIONS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp-simd", "-ffp-contract=fast",
            "-fno-math-errno", "-fno-trapping-math")  # fmt: skip
_mode: ContextVar[Literal["run", "plain", "shapes"]] = ContextVar("native kernels", default="run")


def serves(tensor: Tensor) -> bool:
    """Whether the kernels can work on this tensor, and are there and allowed."""
    mode = _mode.get()
    if tensor.dtype not in SUFFIX or mode == "plain":
        return False
    if mode == "shapes":
        return True
    return (
        tensor.device.type == "cpu"
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def path(tensor: Tensor) -> Literal["native", "eager"]:
    """The way that training takes with such parameters, in a word for the record."""
    return "native" if serves(tensor) else "eager"


def plain() -> contextlib.AbstractContextManager[None]:
    """Within: PyTorch alone, as on a machine without a compiler."""
    return _within("plain")


def shapes() -> contextlib.AbstractContextManager[None]:
    """Within: tensors of any device take the way of the kernels, which do nothing."""
    return _within("shapes")


@contextlib.contextmanager
def _within(mode: Literal["plain", "shapes"]) -> Iterator[None]:
    token = _mode.set(mode)
    try:
        yield
    finally:
        _mode.reset(token)


def call(name: str, *arguments: Tensor | int) -> None:
    """Run a kernel on contiguous tensors; the type of the first one chooses the version."""
    if _mode.get() == "shapes":
        return
    first = arguments[0]
    assert isinstance(first, Tensor)
    kernel = _kernel(f"{name}_{SUFFIX[first.dtype]}")
    kernel(*(a.data_ptr() if isinstance(a, Tensor) else a for a in arguments))


@functools.cache
def _kernel(name: str) -> Callable[..., None]:
    shared = library()
    assert shared is not None
    address = ctypes.c_void_p.in_dll(shared, name).value
    assert address is not None
    function = ctypes.CFUNCTYPE(None)(address)
    # Whatever is passed is a pointer or a 64-bit integer; both travel in the same registers.
    return lambda *arguments: function(*map(ctypes.c_void_p, arguments))


@functools.cache
def library() -> ctypes.CDLL | None:
    """The built kernels; None, with a notice, where they are switched off or cannot be built."""
    if os.environ.get("CHEMSCALE_NATIVE") == "0":
        return None
    try:
        return ctypes.CDLL(str(_built()))
    except (OSError, subprocess.CalledProcessError) as error:
        logging.getLogger("chemscale").warning(
            "training without native kernels, two to five times slower: %s. A C++ compiler (g++ or "
            "clang++) on the PATH brings them; CHEMSCALE_NATIVE=0 silences this.",
            getattr(error, "stderr", None) or error,
        )
        return None


def _built() -> Path:
    """The shared library for this source, compiler and processor; built where it is not there."""
    compiler = os.environ.get("CXX") or next(
        (found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None
    )
    if compiler is None:
        raise FileNotFoundError("no C++ compiler")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    told = [_SOURCE.read_bytes(), version, " ".join(_OPTIONS).encode(), _processor().encode()]
    target = cache_folder() / "native" / f"{hashlib.sha256(b'|'.join(told)).hexdigest()[:24]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            made = Path(part) / target.name
            command = [compiler, *_OPTIONS, str(_SOURCE), "-o", str(made)]
            try:
                subprocess.run([*command, "-march=native"], capture_output=True, check=True)
            except subprocess.CalledProcessError:
                subprocess.run(command, capture_output=True, check=True, text=True)
            made.replace(target)
    return target


def _processor() -> str:
    """What the code was tuned for: a cache may be shared by unlike machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return f"{platform.machine()} {platform.processor()}"
