"""SMILES to canonical SMILES to SELFIES to symbols, over all cores.

RDKit reads, `selfies` (Krenn et al. 2020) encodes: some thousand molecules a second and core, so
it is done once and the result kept. The workers are plain processes that speak through pipes:
unlike those of `multiprocessing` they never import the caller's script, which need not be guarded,
and may be a notebook.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem.rdMolDescriptors import CalcMolFormula
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from selfies import EncoderError, encoder

from chemscale.bench.data.base import group_numbers, hash_items
from chemscale.bench.data.molecule_files import Row
from chemscale.table.errors import ChemscaleError

CHUNK = 1_000  # rows handed to a worker at once
IN_PROCESS = 5_000  # rows below which starting workers costs more than it saves

GROUPS = ("content", "scaffold", "formula")  # any other group is the name of a column

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Molecule:
    """One molecule, encoded."""

    canonical: str
    symbols: list[str]
    heavy_atoms: int
    group_key: str


def encode(text: str, group: str = "content") -> Molecule:
    """Encode one SMILES.

    Args:
        text: the SMILES.
        group: what the group key is made of, one of `GROUPS`.

    Raises:
        ValueError: it cannot be encoded; the message is the reason.
    """
    if not text:
        raise ValueError("empty row")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text)
        if molecule is None or molecule.GetNumAtoms() == 0:
            raise ValueError(_problem(text))
        canonical = Chem.MolToSmiles(molecule)
        if "." in canonical:
            count = canonical.count(".") + 1
            raise ValueError(f"{count} fragments (salts and mixtures are not supported)")
        return Molecule(
            canonical,
            _symbols(canonical),
            molecule.GetNumHeavyAtoms(),
            _group_key(molecule, canonical, group),
        )


def _problem(text: str) -> str:
    """Why RDKit does not read a SMILES."""
    raw = Chem.MolFromSmiles(text, sanitize=False)
    if raw is None or raw.GetNumAtoms() == 0:
        return "not a SMILES"
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(raw)]
    return problems[0].strip() if problems else "RDKit cannot read it"


def _symbols(canonical: str) -> list[str]:
    try:
        text = encoder(canonical)
    except EncoderError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        reason = reason.removeprefix("Reason: ").removeprefix("[").removesuffix("]")
        raise ValueError(f"no SELFIES: {reason}") from None
    except Exception as error:  # a fault of the library in one molecule must not cost all others
        raise ValueError(f"no SELFIES: {type(error).__name__} in selfies") from error
    return [f"[{inner}]" for inner in text[1:-1].split("][")]


def _group_key(molecule: Any, canonical: str, group: str) -> str:
    if group == "formula":
        return str(CalcMolFormula(molecule))
    if group == "scaffold":
        # Molecules without a ring have no scaffold: each is a group of its own, else all of them
        # would go to one split.
        return MurckoScaffoldSmiles(mol=molecule, includeChirality=False) or canonical
    return canonical


def encode_rows(rows: list[Row], group: str) -> Arrays:
    """Encode rows into arrays, symbols numbered by first occurrence.

    A `group` that is not in `GROUPS` means the second value of the rows; a row without one is a
    group of its own.
    """
    by_column = group not in GROUPS
    number: dict[str, int] = {}
    flat: list[int] = []
    molecules: list[Molecule] = []
    keys: list[str] = []
    kept: list[int] = []
    rejects: list[tuple[int, str, str]] = []
    for index, row in enumerate(rows):
        try:
            molecule = encode(row.text, "content" if by_column else group)
        except ValueError as error:
            rejects.append((index, row.text[:200], str(error)))
            continue
        kept.append(index)
        molecules.append(molecule)
        flat += [number.setdefault(symbol, len(number)) for symbol in molecule.symbols]
        keys.append(f"{group}={row.group}" if by_column and row.group else molecule.group_key)
    return {
        "symbols": np.array(flat, dtype=np.uint16),
        "alphabet": np.array(list(number), dtype=np.str_),
        "lengths": np.array([len(m.symbols) for m in molecules], dtype=np.int32),
        "heavy_atoms": np.array([m.heavy_atoms for m in molecules], dtype=np.int32),
        "content": hash_items(m.canonical.encode() for m in molecules),
        "group": group_numbers(key.encode() for key in keys),
        "rows": np.array(kept, dtype=np.int64),
        "rejected_rows": np.array([index for index, _, _ in rejects], dtype=np.int64),
        "rejected": lines((text, reason) for _, text, reason in rejects),
    }


def lines(texts: Iterable[tuple[str, str]]) -> NDArray[np.uint8]:
    """Pairs of texts as one array of bytes: a fixed width would cost a hundred times more."""
    return np.frombuffer(b"".join(json.dumps(pair).encode() + b"\n" for pair in texts), np.uint8)


def pairs(stored: NDArray[np.uint8]) -> list[tuple[str, str]]:
    """The pairs that `lines` was given."""
    return [(text, reason) for text, reason in map(json.loads, stored.tobytes().splitlines())]


def encode_all(rows: Iterable[Row], group: str, total: int) -> Iterator[Arrays]:
    """Encode chunks of rows in order, over all cores where there are many rows."""
    chunks = _chunks(rows)
    if total < IN_PROCESS:
        yield from (encode_rows(chunk, group) for chunk in chunks)
        return
    with ExitStack() as stack:
        idle = [_Worker(stack) for _ in range(_num_cores())]
        busy: deque[_Worker] = deque()
        for chunk in chunks:
            if not idle:
                yield busy[0].receive()
                idle.append(busy.popleft())
            worker = idle.pop()
            worker.send(chunk, group)
            busy.append(worker)
        while busy:
            yield busy.popleft().receive()


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _num_cores() -> int:
    """Cores that this process may use, which under a scheduler are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Worker:
    """A process that encodes what it is sent."""

    def __init__(self, stack: ExitStack):
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        )
        stack.callback(self.process.kill)  # runs first: one still at work when we are interrupted

    def send(self, rows: list[Row], group: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # told when its answer is asked for
            _write(self.process.stdin, (rows, group))

    def receive(self) -> Arrays:
        assert self.process.stdout is not None
        try:
            answer: Arrays = pickle.load(self.process.stdout)
        except (EOFError, pickle.UnpicklingError):
            code = self.process.wait()
            raise ChemscaleError(
                f"a process that encoded molecules ended with status {code} before it was done "
                "(-9: killed, most often for want of memory); run again"
            ) from None
        return answer


def _write(stream: IO[bytes] | None, value: Any) -> None:
    assert stream is not None
    pickle.dump(value, stream)
    stream.flush()


def _serve() -> None:
    """Answer until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends us
    # Whatever a library prints must not reach the pipe.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            rows, group = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _write(answers, encode_rows(rows, group))


if __name__ == "__main__":
    _serve()
