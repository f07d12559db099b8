"""Energies and forces for structures, in parallel, and gone on with after any interruption.

The input is cut into chunks; a chunk's result depends on nothing but the chunk and the settings.
It is written aside and renamed, and the chunks are joined in order, so neither the number of
workers nor a kill at any moment moves a byte of the output.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ase.io import iread

from chemscale.bench.data.molecule_files import form_of, read_smiles
from chemscale.bench.data.notation import canonical
from chemscale.bench.using.conformers import Shape, structures
from chemscale.bench.using.single_point import XTB, labelled, unknown_to, version_of
from chemscale.table.errors import ChemscaleError, DataError, UsageError
from chemscale.table.files import write as replace

MOLECULES, STRUCTURES = 8, 64  # in a chunk


@dataclass(frozen=True)
class Work:
    """What a worker must know besides its chunk."""

    calculator: str  # gfn2-xtb, gfn1-xtb, or module:Name
    options: dict[str, Any]
    shape: Shape | None  # None: the structures are given


@dataclass(frozen=True)
class Labelled:
    """What came of it."""

    path: Path
    structures: int
    rejects: int  # rows and structures, duplicates among them
    duplicates: int  # rows with a molecule that an earlier row has
    config_types: dict[str, int]
    cpu_seconds: float  # of all workers, 0 where nothing was left to do


def run(
    source: Path,
    output: Path,
    work: Work,
    *,
    column: str,
    count: int | None,
    workers: int,
    tell: Callable[[int], None] = lambda made: None,
) -> Labelled:
    """Label a file; `chemscale.label` explains the arguments.

    Raises:
        DataError: the input cannot be read, or nothing in it could be labelled.
        UsageError: the output is there with other settings, or no such calculator.
    """
    version = version_of(work.calculator, work.shape.elements if work.shape else ())
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    settings = {
        "input": hashlib.sha256(source.read_bytes()).hexdigest(),
        "column": column,
        "calculator": work.calculator,
        "version": version,
        "options": work.options,
        "count": count,
        "structures": None if work.shape is None else asdict(work.shape),
    }
    settings = json.loads(json.dumps(settings))
    card, parts = Path(f"{output}.json"), Path(f"{output}.parts")
    if output.exists():
        made = json.loads(card.read_text()).get("settings") if card.is_file() else {}
        if made != settings:
            raise UsageError(
                f"{output} is there, made with {_differences(made, settings)}. Name another "
                "--output, or remove it"
            )
        shutil.rmtree(parts, ignore_errors=True)
        return _told(output, json.loads(card.read_text()), 0.0)
    marker = parts / "settings.json"
    if marker.is_file() and (made := json.loads(marker.read_text())) != settings:
        raise UsageError(
            f"{parts} was begun with {_differences(made, settings)}. Give the same again to go "
            "on with it, name another --output, or remove it"
        )
    items = _structures(source, work) if work.shape is None else read_smiles(source, column)
    parts.mkdir(parents=True, exist_ok=True)
    replace(marker, json.dumps(settings).encode(), sync=False)

    begun = _children_seconds()
    used = _label_all(_chunks(items, work), parts, work, count, workers, tell)
    spent = _children_seconds() - begun
    _join(output, parts, used, settings, count)
    shutil.rmtree(parts, ignore_errors=True)
    return _told(output, json.loads(card.read_text()), spent)


def _differences(made: dict[str, Any], asked: dict[str, Any]) -> str:
    """What was other when a file was made, in words."""
    if not made:
        return "settings that nobody kept"
    flat = [{**one, **(one["structures"] or {})} for one in (made, asked)]
    told = [
        "another input" if key == "input" else f"{key} {flat[0][key]} (now {flat[1].get(key)})"
        for key in flat[0]
        if key != "structures" and flat[0][key] != flat[1].get(key)
    ]
    return ", ".join(told) or "structures from another kind of input"


# --- the input -----------------------------------------------------------------------------------


def is_molecules(path: Path) -> bool:
    """Whether a file has molecules, by its ending, rather than structures."""
    return form_of(path) is not None


def _structures(path: Path, work: Work) -> list[Any]:
    try:
        found = list(iread(path, index=":"))
    except Exception as error:  # ASE's readers raise whatever befalls them
        raise DataError(f"{path}: ASE cannot read it: {type(error).__name__}: {error}") from error
    if not found:
        raise DataError(f"{path}: no structures")
    if odd := unknown_to(work.calculator, (s for atoms in found for s in atoms.symbols)):
        raise DataError(f"{path}: {work.calculator} knows H to Rn, not {' '.join(odd)}")
    return found


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of the input."""

    start: int  # the first row, from 0
    items: list[Any]  # SMILES or Atoms
    twins: dict[int, int]  # rows with a molecule that an earlier row has: that row


def _chunks(items: list[Any], work: Work) -> Iterator[Chunk]:
    seen: dict[str, int] = {}  # canonical SMILES: its first row
    size = STRUCTURES if work.shape is None else MOLECULES
    for start in range(0, len(items), size):
        chunk = Chunk(start, items[start : start + size], {})
        for row, item in enumerate(chunk.items if work.shape else (), start=start):
            if (known := canonical(item)) and seen.setdefault(known, row) != row:
                chunk.twins[row] = seen[known]
        yield chunk


# --- the work ------------------------------------------------------------------------------------


def _label_all(
    ahead: Iterator[Chunk],
    parts: Path,
    work: Work,
    count: int | None,
    workers: int,
    tell: Callable[[int], None],
) -> list[Path]:
    """Label chunk by chunk until there are enough; the parts to be joined, in order."""
    used, made = [], 0
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )
    waiting: deque[tuple[Path, Future[None] | None]] = deque()
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # of workers; threads within a molecule only lose time
    try:
        while count is None or made < count:
            while len(waiting) < 4 * workers and (chunk := next(ahead, None)) is not None:
                part = parts / f"{chunk.start:09d}.json"
                there = part.is_file()
                waiting.append((part, None if there else pool.submit(_label, part, chunk, work)))
            if not waiting:
                break
            part, future = waiting.popleft()
            if future is not None:
                future.result()
            used.append(part)
            made += len(json.loads(part.read_text())["frames"])
            tell(made)
    except BrokenProcessPool as error:
        raise ChemscaleError(
            "a worker died, perhaps for want of memory. What is done is kept: run the same again"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.environ.pop("OMP_NUM_THREADS")
        os.environ |= {} if threads is None else {"OMP_NUM_THREADS": threads}
    return used


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _label(part: Path, chunk: Chunk, work: Work) -> None:
    frames: list[list[str]] = []  # config_type, text
    rejects: list[list[str | int]] = []  # row, what, why
    for row, item in enumerate(chunk.items, start=chunk.start):
        what = item if isinstance(item, str) else item.get_chemical_formula()
        if row in chunk.twins:
            rejects.append([row, what, f"the same molecule as row {chunk.twins[row]}"])
            continue
        try:
            made = [item] if work.shape is None else structures(item, work.shape)
        except (ValueError, RuntimeError) as error:
            rejects.append([row, what, _line(error)])
            continue
        for atoms in made:
            kind = str(atoms.info.get("config_type", ""))
            try:
                frames.append([kind, labelled(atoms, work.calculator, work.options)])
            except Exception as error:  # calculators raise whatever befalls them
                rejects.append([row, what, f"{kind}: {_line(error)}".removeprefix(": ")])
    told = {"frames": frames, "rejects": rejects, "duplicates": len(chunk.twins)}
    replace(part, json.dumps(told).encode(), sync=False)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# --- the output ----------------------------------------------------------------------------------


def _join(
    output: Path, parts: Path, used: list[Path], settings: dict[str, Any], count: int | None
) -> None:
    """Write rejects and card, then the structures: where these are, everything is."""
    texts: list[str] = []
    kinds: Counter[str] = Counter()
    elements: set[str] = set()
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["row", "what", "why"])
    num_rejects = duplicates = 0
    for part in used:
        told = json.loads(part.read_text())
        rows.writerows(told["rejects"])
        num_rejects += len(told["rejects"])
        duplicates += told["duplicates"]
        for kind, text in told["frames"][: None if count is None else count - len(texts)]:
            texts.append(text)
            kinds[kind or "given"] += 1
            elements |= {line.split(None, 1)[0] for line in text.splitlines()[2:]}
    replace(Path(f"{output}.rejects.csv"), table.getvalue().encode())
    if not texts:
        shutil.rmtree(parts, ignore_errors=True)
        raise DataError(f"nothing could be labelled; {output}.rejects.csv says why, row by row")
    card = {
        "level_of_theory": XTB.get(settings["calculator"], settings["calculator"]),
        "units": {"energy": "eV", "forces": "eV/Å", "positions": "Å"},
        "structures": len(texts),
        "rejects": num_rejects,
        "duplicates": duplicates,
        "config_types": dict(sorted(kinds.items())),
        "elements": sorted(elements),
        "settings": settings,
    }
    replace(Path(f"{output}.json"), (json.dumps(card, indent=2, ensure_ascii=False)).encode())
    data = "".join(texts).encode()
    replace(output, gzip.compress(data, mtime=0) if output.suffix == ".gz" else data)


def _told(output: Path, card: dict[str, Any], seconds: float) -> Labelled:
    counts = {name: card[name] for name in ("structures", "rejects", "duplicates", "config_types")}
    return Labelled(path=output, cpu_seconds=seconds, **counts)


def _children_seconds() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def every(seconds: float, tell: Callable[[int], None]) -> Callable[[int], None]:
    """Tell at most so often."""
    last = time.monotonic()

    def now_and_then(made: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            tell(made)

    return now_and_then
