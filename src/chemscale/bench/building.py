"""C++ files built into shared libraries on first use, and kept in the cache. Needs no torch."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from chemscale.table.files import cache_folder

_OPTIONS = ("-O3", "-std=c++17", "-fPIC", "-shared", "-pthread", "-fopenmp-simd",
            "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")  # fmt: skip


def library(source: Path, loss: str) -> ctypes.CDLL | None:
    """Load what a source is built to; None, with a notice, where that is off or cannot be done.

    Args:
        source: of functions with C linkage.
        loss: what goes without them, and how much slower.
    """
    if os.environ.get("CHEMSCALE_NATIVE") == "0":
        return None
    try:
        return ctypes.CDLL(str(built(source)))
    except (OSError, subprocess.CalledProcessError) as error:
        logging.getLogger("chemscale").warning(
            "%s: %s. A C++ compiler (g++ or clang++) on the PATH brings native code; "
            "CHEMSCALE_NATIVE=0 silences this.",
            loss,
            getattr(error, "stderr", None) or error,
        )
        return None


def built(source: Path) -> Path:
    """The shared library for this source, compiler and processor; built where it is not there.

    Raises:
        OSError, CalledProcessError: there is no compiler, or it failed.
    """
    compiler = os.environ.get("CXX") or next(
        (found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None
    )
    if compiler is None:
        raise FileNotFoundError("no C++ compiler")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    told = [source.read_bytes(), version, " ".join(_OPTIONS).encode(), _processor().encode()]
    target = cache_folder() / "native" / f"{hashlib.sha256(b'|'.join(told)).hexdigest()[:24]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            made = Path(part) / target.name
            command = [compiler, *_OPTIONS, str(source), "-o", str(made)]
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
