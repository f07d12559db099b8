"""SMILES to canonical SMILES to the symbols of a notation, over all cores.

RDKit reads, `selfies` (Krenn et al. 2020) encodes: some thousand molecules a second and core, so
it is done once and the result kept. The workers are plain processes that speak through pipes:
unlike those of `multiprocessing` they never import the caller's script, which need not be guarded,
and may be a notebook.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO, Any, get_args

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.rdMolDescriptors import CalcMolFormula
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from chemscale.bench.data.base import group_numbers, hash_items
from chemscale.bench.data.molecule_files import Chunk, Row
from chemscale.bench.data.notation import spell, split
from chemscale.table.errors import ChemscaleError, UsageError
from chemscale.table.records import Charges, Fragments, Notation, Stereo

IN_PROCESS = 5  # chunks below which starting workers costs more than it saves
MAX_CHARACTERS = 10_000  # a longer text is no molecule that a model here could take

GROUPS = ("content", "scaffold", "formula")  # any other group is the name of a column

ALLOWED = {
    "notation": get_args(Notation),
    "fragments": get_args(Fragments),
    "charges": get_args(Charges),
    "stereo": get_args(Stereo),
}


@dataclass(frozen=True)
class Choices:
    """What a molecule becomes before it is spelt, and what keeps it together with others."""

    notation: Notation = "selfies"
    fragments: Fragments = "reject"
    charges: Charges = "keep"
    stereo: Stereo = "keep"
    group: str = "content"  # one of GROUPS, or the name of a column

    def __post_init__(self) -> None:
        for name, values in ALLOWED.items():
            if getattr(self, name) not in values:
                given = getattr(self, name)
                raise UsageError(f"{name}: {given!r} is none of {', '.join(values)}")


@dataclass(frozen=True)
class Molecule:
    """One molecule, read."""

    canonical: str
    heavy_atoms: int
    group_key: str


@dataclass(frozen=True)
class Encoded:
    """The molecules of a chunk and the rows that could not be used."""

    alphabet: list[str]  # by first occurrence
    symbols: NDArray[np.uint16]  # of all molecules, one after another
    lengths: NDArray[np.int32]
    heavy_atoms: NDArray[np.int32]
    content: NDArray[np.uint64]  # (molecules, 2)
    group: NDArray[np.float64]
    rows: NDArray[np.int64]  # within the chunk
    rejects: list[tuple[int, str, str]] = field(default_factory=list)  # row, text, reason


def encode(text: str, choices: Choices = Choices()) -> list[str]:  # noqa: B008 (frozen)
    """The symbols of one SMILES.

    Raises:
        ValueError: it cannot be encoded; the message is the reason.
    """
    (spelt,) = spell([read(text, choices).canonical], choices.notation)
    if isinstance(spelt, ValueError):
        raise spelt
    return split(spelt, choices.notation)


def read(text: str, choices: Choices) -> Molecule:
    """Read one SMILES and make of it what was chosen.

    Raises:
        ValueError: it cannot be read; the message is the reason.
    """
    if not text:
        raise ValueError("empty row")
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{len(text):,} characters, more than {MAX_CHARACTERS:,}")
    if "\ufffd" in text:
        raise ValueError("not UTF-8")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(text)
        if molecule is None or molecule.GetNumAtoms() == 0:
            raise ValueError(_problem(text))
        canonical = Chem.MolToSmiles(molecule)
        if "." in canonical and choices.fragments == "reject":
            count = canonical.count(".") + 1
            raise ValueError(f"{count} fragments (fragments = 'largest' or 'keep' takes them)")
        changed = _changed(molecule, canonical, choices)
        if changed is not molecule:
            canonical = Chem.MolToSmiles(changed)
            molecule = Chem.MolFromSmiles(canonical)
            if molecule is None:
                raise ValueError(f"RDKit cannot read what it became: {canonical[:60]}")
            canonical = Chem.MolToSmiles(molecule)
        return Molecule(
            canonical, molecule.GetNumHeavyAtoms(), _group_key(molecule, canonical, choices.group)
        )


def _changed(molecule: Any, canonical: str, choices: Choices) -> Any:
    """What the choices make of a molecule: itself, or another."""
    if "." in canonical and choices.fragments == "largest":
        # Most atoms, then most weight, then the first by alphabet.
        molecule = rdMolStandardize.LargestFragmentChooser().choose(molecule)
    if choices.charges == "neutralize" and ("+" in canonical or "-" in canonical):
        molecule = rdMolStandardize.Uncharger().uncharge(molecule)
    if choices.stereo == "drop" and any(mark in canonical for mark in "@/\\"):
        molecule = Chem.Mol(molecule)
        Chem.RemoveStereochemistry(molecule)
    return molecule


def _problem(text: str) -> str:
    """Why RDKit does not read a SMILES."""
    raw = Chem.MolFromSmiles(text, sanitize=False)
    if raw is None or raw.GetNumAtoms() == 0:
        return "not a SMILES"
    problems = [problem.Message() for problem in Chem.DetectChemistryProblems(raw)]
    return problems[0].strip() if problems else "RDKit cannot read it"


def _group_key(molecule: Any, canonical: str, group: str) -> str:
    if group == "formula":
        return str(CalcMolFormula(molecule))
    if group == "scaffold":
        # Molecules without a ring have no scaffold: each is a group of its own, else all of them
        # would go to one split.
        return MurckoScaffoldSmiles(mol=molecule, includeChirality=False) or canonical
    return canonical


def encode_rows(rows: list[Row], choices: Choices) -> Encoded:
    """Encode rows; one without a value for the column that groups is a group of its own."""
    by_column = choices.group not in GROUPS
    molecules: list[Molecule] = []
    places: list[int] = []
    rejects: list[tuple[int, str, str]] = []
    for index, row in enumerate(rows):
        try:
            if row.trouble:
                raise ValueError(row.trouble)
            molecules.append(read(row.text, choices))
            places.append(index)
        except ValueError as error:
            rejects.append((index, row.text[:200], str(error)))
    number: dict[str, int] = {}
    flat: list[int] = []
    lengths, keys = [], []
    kept: list[tuple[int, Molecule]] = []
    spelt = spell([molecule.canonical for molecule in molecules], choices.notation)
    for index, molecule, text in zip(places, molecules, spelt, strict=True):
        if isinstance(text, ValueError):
            rejects.append((index, rows[index].text[:200], str(text)))
            continue
        symbols = split(text, choices.notation)
        flat += [number.setdefault(symbol, len(number)) for symbol in symbols]
        lengths.append(len(symbols))
        named = by_column and rows[index].group
        keys.append(f"{choices.group}={rows[index].group}" if named else molecule.group_key)
        kept.append((index, molecule))
    return Encoded(
        alphabet=list(number),
        symbols=np.array(flat, dtype=np.uint16),
        lengths=np.array(lengths, dtype=np.int32),
        heavy_atoms=np.array([molecule.heavy_atoms for _, molecule in kept], dtype=np.int32),
        content=hash_items(molecule.canonical.encode() for _, molecule in kept),
        group=group_numbers(key.encode() for key in keys),
        rows=np.array([index for index, _ in kept], dtype=np.int64),
        rejects=sorted(rejects),
    )


def encode_all(
    chunks: Iterable[Chunk], choices: Choices, workers: int | None = None
) -> Iterator[tuple[Chunk, Encoded]]:
    """Encode chunks in order, over all cores where there are many.

    Args:
        chunks: rows with where they come from.
        choices: what they become.
        workers: processes; by default one a core.
    """
    chunks = iter(chunks)
    first = list(islice(chunks, IN_PROCESS + 1))
    if len(first) <= IN_PROCESS:
        yield from ((chunk, encode_rows(chunk.rows, choices)) for chunk in first)
        return
    with ExitStack() as stack:
        idle = [_Worker(stack) for _ in range(workers or num_cores())]
        busy: deque[tuple[_Worker, Chunk]] = deque()
        for chunk in chain(first, chunks):
            if not idle:
                worker, sent = busy.popleft()
                yield sent, worker.receive()
                idle.append(worker)
            worker = idle.pop()
            worker.send(chunk.rows, choices)
            busy.append((worker, chunk))
        for worker, sent in busy:
            yield sent, worker.receive()


def num_cores() -> int:
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

    def send(self, rows: list[Row], choices: Choices) -> None:
        with contextlib.suppress(BrokenPipeError):  # told when its answer is asked for
            _write(self.process.stdin, (rows, choices))

    def receive(self) -> Encoded:
        assert self.process.stdout is not None
        try:
            answer: Encoded = pickle.load(self.process.stdout)
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


def serve() -> None:
    """Answer until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends us
    # Whatever a library prints must not reach the pipe.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            rows, choices = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _write(answers, encode_rows(rows, choices))


if __name__ == "__main__":
    # Under its own name, so that what is pickled here can be read there.
    from chemscale.bench.data import encoding

    encoding.serve()
