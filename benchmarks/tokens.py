"""Molecules to tokens beside the `selfies` package, in turn.

    python benchmarks/tokens.py --path zinc250k.csv.gz

- numbering: SELFIES to ids, beside `selfies.split_selfies` and a dictionary.
- spelling: canonical SMILES to SELFIES on one core, beside `selfies.encoder`.
- encoding: all that a worker of `chemscale prepare` does to a row (RDKit reads and writes it,
  SELFIES, ids, hashes) on one core, beside `selfies.encoder` alone.
- with --workers: the same by so many processes, their start included; by wall time, so only on a
  machine that is otherwise idle, and with --rows of 50,000 or more.

CPU time but for the last. Medians over rounds, and the quartiles of the ratio; who goes first
alternates.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import selfies
from rdkit import Chem, RDLogger

from chemscale.bench.data.encoding import Choices, encode_all, encode_rows
from chemscale.bench.data.examples import FOLDER
from chemscale.bench.data.molecule_files import Chunk, Row, read_smiles
from chemscale.bench.data.notation import spell, tokenize

CHUNK = 1_000


def in_turn(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    clock: Callable[[], float],
) -> str:
    """Time both; a line of medians."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for side in (0, 1) if turn % 2 else (1, 0):
            start = clock()
            (ours, theirs)[side]()
            seconds[side].append(clock() - start)
    ratios = [peer / our for our, peer in zip(*seconds, strict=True)]
    low, _, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    our, peer = (statistics.median(side) for side in seconds)
    return (
        f"ours {our:.3f} s, peer {peer:.3f} s, "
        f"ratio {statistics.median(ratios):.1f} ({low:.1f}–{high:.1f})"
    )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--path", type=Path, default=FOLDER / "molecules.csv.gz")
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int)
    asked = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    rows = read_smiles(asked.path)[: asked.rows]
    molecules = [Chem.MolFromSmiles(text) for text in rows]
    canonical = [Chem.MolToSmiles(one) for one in molecules if one is not None]
    texts = [text for text in spell(canonical, "selfies") if isinstance(text, str)]
    symbols = sorted({symbol for text in texts for symbol in selfies.split_selfies(text)})
    number = {symbol: index for index, symbol in enumerate(symbols)}
    chunks = [
        Chunk(0, begin, [Row(text, "") for text in rows[begin : begin + CHUNK]])
        for begin in range(0, len(rows), CHUNK)
    ]

    def split_and_look_up() -> list[list[int]]:
        return [[number[symbol] for symbol in selfies.split_selfies(text)] for text in texts]

    def plain() -> None:
        for smiles in canonical:
            try:
                selfies.encoder(smiles)
            except selfies.EncoderError:
                continue

    ids, _ = tokenize(texts, symbols, "selfies", -1)
    assert ids.tolist() == [index for row in split_and_look_up() for index in row]
    print(f"{asked.path.name}: {len(rows):,} rows, {len(ids) / len(texts):.1f} symbols a molecule")
    jobs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "numbering": (lambda: tokenize(texts, symbols, "selfies", -1), split_and_look_up),
        "spelling": (lambda: spell(canonical, "selfies"), plain),
        "encoding": (lambda: [encode_rows(chunk.rows, Choices()) for chunk in chunks], plain),
    }
    for name, (ours, theirs) in jobs.items():
        print(f"  {name}: {in_turn(ours, theirs, asked.rounds, time.process_time)}", flush=True)
    if asked.workers:

        def together() -> None:
            for _ in encode_all(iter(chunks), Choices(), asked.workers):
                pass

        told = in_turn(together, plain, asked.rounds, time.perf_counter)
        print(f"  encoding, {asked.workers} workers, wall time: {told}")


if __name__ == "__main__":
    main()
