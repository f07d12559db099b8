"""Files that are whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from chemscale.table.errors import StoreError, StudyError
from chemscale.table.records import FORMAT, Record


def cache_folder() -> Path:
    """Where prepared data and built kernels lie: $CHEMSCALE_CACHE, else the user's cache folder."""
    given = os.environ.get("CHEMSCALE_CACHE")
    return Path(given).expanduser() if given else user_cache_path("chemscale")


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows of the same keys as CSV; a missing value is empty, a float its `repr`."""
    stream = io.StringIO()
    if rows:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(rows[0])
        for row in rows:
            writer.writerow("" if value is None else _text(value) for value in row.values())
    return stream.getvalue().encode()


def array_bytes(array: NDArray[Any]) -> bytes:
    """An array in numpy's own format."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def write(path: Path, data: bytes) -> None:
    """Replace a file whole: written aside, synced, renamed."""
    part = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(part, data)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_json(path: Path, value: Record | Mapping[str, Any]) -> None:
    """Write a record, with the format it is in."""
    data = value.model_dump(mode="json") if isinstance(value, Record) else dict(value)
    write(path, (json.dumps({"format": FORMAT, **data}, indent=1) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a stored record; None where there is none.

    Raises:
        StoreError: not JSON, or written by a newer chemscale.
    """
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not a file that chemscale wrote: {error}") from None
    refuse_newer(path, data)
    return data


def refuse_newer(path: Path, data: Mapping[str, Any]) -> None:
    """Refuse what a newer chemscale wrote."""
    found = data.get("format", FORMAT)
    if isinstance(found, int) and found > FORMAT:
        raise StoreError(
            f"{path}: written in format {found} by a newer chemscale; this one reads up to "
            f"format {FORMAT}. Upgrade: pip install -U chemscale"
        )
    if not isinstance(found, int):
        raise StudyError(str(path), [f"format: expected a whole number (got {found!r})"])


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the disk has the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float) else str(value)
