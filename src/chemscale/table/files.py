"""Files that are whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from chemscale.table.errors import StoreError, StudyError
from chemscale.table.record import Record
from chemscale.table.records import FORMAT

Content = bytes | Iterable[bytes | memoryview]  # of a file, whole or in pieces

R = TypeVar("R", bound=Record)

_ROOM = "Free space or raise the quota"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "Raise the limit on the size of a file (ulimit -f)",
    errno.EIO: "Look after the disk, whose system log may say more",
    errno.EROFS: "Make the disk writable",
    errno.EACCES: "Make the folder writable",
    errno.EPERM: "Make the folder writable",
    errno.EMFILE: "Raise the limit on open files (ulimit -n)",
}
_TROUBLES = {*_REMEDIES, errno.ENFILE, errno.ENOLCK, errno.ESTALE, errno.EPIPE} - {
    errno.EACCES,
    errno.EPERM,
}
_PART = re.compile(r"\..+\.(json|csv|npy|toml|html)-\d+")


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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the disk into a sentence: what, where, what to do.

    Raises:
        StoreError: the block raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> StoreError:
    """Say that a file cannot be written, why, and what to do."""
    why = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "Mend that")
    return StoreError(f"{path}: cannot be written: {why}. {remedy}, then give the command again")


def is_trouble(error: BaseException) -> bool:
    """Whether an error is of the machine, not of the work: it says nothing about a run."""
    return isinstance(error, OSError) and error.errno in _TROUBLES


def write(path: Path, data: Content, *, sync: bool = True) -> None:
    """Replace a file whole: written aside, synced, renamed.

    Without `sync` a loss of power may leave an old or an empty file; a killed process may not.
    """
    part = path.with_name(f".{path.name}-{os.getpid()}")
    with writing(path), _or_nothing(part):
        path.parent.mkdir(parents=True, exist_ok=True)
        if sync:
            write_synced(part, data)
        else:
            part.write_bytes(data if isinstance(data, bytes) else b"".join(data))
        part.replace(path)


def write_folder(
    path: Path,
    files: Mapping[str, Content],
    *,
    leader: int | None = None,
    meet: Callable[[], None] = lambda: None,
) -> None:
    """Write a folder that is not there yet, whole.

    Args:
        path: the folder.
        files: name → bytes, or the pieces of them.
        leader: where several processes write it together, the one that makes it and puts it in
            place; by default this one.
        meet: waits for the others.
    """
    leads = leader in (None, os.getpid())
    part = path.with_name(f".part-{path.name}-{leader or os.getpid()}")
    with writing(path), _or_nothing(part):
        if leads:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        meet()
        for name, data in files.items():
            write_synced(part / name, data)
        meet()
        if leads:
            sync_folder(part)
            part.rename(path)
    if leads:
        with suppress(OSError):  # it is there and whole
            sync_folder(path.parent)


def link_folder(path: Path, source: Path) -> None:
    """Make a folder of the files of another, without copying their bytes where links are known."""
    part = path.with_name(f".part-{path.name}-{os.getpid()}")
    with writing(path), _or_nothing(part):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for file in source.iterdir():
            try:
                os.link(file, part / file.name)
            except OSError as error:
                if is_trouble(error):
                    raise
                write_synced(part / file.name, file.read_bytes())
        part.rename(path)


def drop_folder(path: Path) -> None:
    """Remove a folder. Moved out of sight first: it is whole or it is not there."""
    hidden = path.with_name(f".drop-{path.name.lstrip('.')}-{os.getpid()}")
    with writing(path):
        path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def remove_parts(folder: Path, older: float = 0.0) -> None:
    """Remove what killed processes left half written, if it is this many seconds old."""
    for part in folder.glob(".*-*"):
        with suppress(OSError):
            ours = _PART.fullmatch(part.name) and part.is_file()
            if ours and time.time() - part.stat().st_mtime >= older:
                part.unlink()


@contextmanager
def _or_nothing(part: Path) -> Iterator[None]:
    """Leave no half-written part behind, whatever ends the block."""
    try:
        yield
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


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
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: not a file that chemscale wrote: {error}") from None
    refuse_newer(path, data)
    return data


def read_record(path: Path, kind: type[R]) -> R | None:
    """Read a stored record; None where there is none."""
    data = read_json(path)
    if data is None:
        return None
    data.pop("format")
    return kind.read(data, str(path))


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


def write_synced(path: Path, data: Content) -> None:
    """Write a new file and wait until the disk has it."""
    with path.open("wb") as stream:
        for piece in [data] if isinstance(data, bytes) else data:
            stream.write(piece)
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
