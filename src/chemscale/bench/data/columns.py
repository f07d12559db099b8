"""Arrays on disk that grow as data are read, so that memory does not."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Column:
    """An array on disk that grows; numpy reads it once it is finished.

    Args:
        path: of the `.npy`.
        kind: of an entry, which may be an array.
        size: entries that are there already.
    """

    HEADER = 128

    def __init__(self, path: Path, kind: np.dtype[Any], size: int = 0):
        self.kind, self.size = kind, size
        self.stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        self.stream.truncate(self.HEADER + size * kind.itemsize)
        self.stream.seek(0, os.SEEK_END)

    def __enter__(self) -> Column:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def append(self, values: ArrayLike) -> None:
        """Add entries at the end."""
        values = np.asarray(values, dtype=self.kind.base)
        self.stream.write(values.tobytes())
        self.size += len(values)

    def sync(self) -> None:
        """Have what was added survive a crash."""
        self.stream.flush()
        os.fsync(self.stream.fileno())

    def finish(self) -> None:
        """Write the header that makes it an array."""
        shape = (self.size, *self.kind.shape)
        told = {"descr": self.kind.base.str, "fortran_order": False, "shape": shape}
        text = repr(told).encode().ljust(self.HEADER - 11) + b"\n"
        self.stream.seek(0)
        self.stream.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
        self.stream.flush()


@contextmanager
def columns(folder: Path, kinds: Mapping[str, Any]) -> Iterator[dict[str, Column]]:
    """A column for each kind of entry, finished when the block ends."""
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(Column(folder / f"{name}.npy", np.dtype(kind)))
            for name, kind in kinds.items()
        }
        yield found
        for column in found.values():
            column.finish()


def blocks(column: Path) -> Iterator[NDArray[Any]]:
    """A column some million values at a time: read, as mapped pages would stay in memory."""
    with column.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, kind = np.lib.format.read_array_header_1_0(stream)
        width = math.prod(shape[1:])
        for begin in range(0, shape[0], 1 << 20):
            count = min(1 << 20, shape[0] - begin)
            yield np.fromfile(stream, dtype=kind, count=count * width).reshape(count, *shape[1:])
