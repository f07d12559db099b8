"""Prepared data on disk: arrays under $CHEMSCALE_CACHE, keyed by what they were made from."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chemscale.table.files import cache_folder


def key(files: Sequence[Path], options: Mapping[str, Any]) -> str:
    """Identity of a preparation: contents of the source files, options, versions of tools."""
    text = json.dumps([[file_hash(file) for file in files], options], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def file_hash(path: Path) -> str:
    """SHA-256 of a file, remembered by (path, size, mtime)."""
    stat = path.stat()
    stamp = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    memo = cache_folder() / "files" / hashlib.sha256(stamp.encode()).hexdigest()[:24]
    if memo.exists():
        return memo.read_text()
    with path.open("rb") as stream:
        value = hashlib.file_digest(stream, "sha256").hexdigest()
    put(memo, lambda part: part.write_text(value))
    return value


def place(name: str, identity: str) -> Path:
    """Where a preparation lies, or will."""
    return cache_folder() / name / identity


def made(name: str, identity: str, write: Callable[[Path], None]) -> Path:
    """The folder of a preparation, written where it is not there yet."""

    def whole(part: Path) -> None:
        part.mkdir()
        write(part)

    folder = place(name, identity)
    if not folder.exists():
        put(folder, whole)
    return folder


def arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a folder by name, memory-mapped."""
    return {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}


def put(target: Path, write: Any) -> None:
    """Write a file or folder aside and rename; of two that do so at once, either may win."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part-") as aside:
        part = Path(aside) / "part"
        write(part)
        try:
            part.rename(target)
        except OSError:  # a folder is there already: the other process made the same
            if not target.exists():
                raise
            if part.is_dir():
                shutil.rmtree(part)
