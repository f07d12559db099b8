"""SMILES → tokens → SMILES on real files, in both notations: how many come back, and why not.

    python benchmarks/round_trip.py zinc250k.csv.gz qm9.csv.gz --failures failures.csv

Both sides are canonical SMILES of RDKit, stereochemistry included; salts and mixtures stay whole.
Exit code 1 where fewer than --share of the rows come back.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

from rdkit import Chem, RDLogger

from chemscale.bench.data.encoding import Choices, read
from chemscale.bench.data.molecule_files import read_smiles
from chemscale.bench.data.notation import spell, split
from chemscale.bench.data.token_batch import UNK
from chemscale.bench.data.tokens import SPECIAL, Tokenizer

NOTATIONS = ("selfies", "smiles")


def flat(smiles: str) -> str:
    """Canonical SMILES without stereochemistry; empty where RDKit reads none."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return ""
    Chem.RemoveStereochemistry(molecule)
    return str(Chem.MolToSmiles(molecule))


def why(canonical: str, back: str) -> str:
    """Why a molecule did not come back."""
    again = Chem.MolFromSmiles(canonical)
    if again is None or Chem.MolToSmiles(again) != canonical:
        return "RDKit writes it otherwise when it reads its own canonical SMILES"
    if not back:
        return "RDKit does not accept what comes back"
    if flat(canonical) == flat(back):
        return "stereochemistry differs"
    return "another molecule"


def look(path: Path, column: str, limit: int | None, failures: csv.Writer) -> float:
    """Print a line a notation; return the smallest share."""
    rows = read_smiles(path, column)[:limit]
    molecules, unread = [], Counter()
    for smiles in rows:
        try:
            molecules.append(read(smiles, Choices(fragments="keep")).canonical)
        except ValueError as error:
            unread[str(error)] += 1
            failures.writerow([path.name, "both", smiles, "", f"not read: {error}"])
    shares = []
    for notation in NOTATIONS:
        reasons: Counter[str] = Counter()
        texts, spelt = [], []
        for canonical, text in zip(molecules, spell(molecules, notation), strict=True):
            if isinstance(text, ValueError):
                reasons[str(text).split("[")[0]] += 1
                failures.writerow([path.name, notation, canonical, "", text])
            else:
                texts.append(text)
                spelt.append(canonical)
        symbols = sorted({symbol for text in texts for symbol in split(text, notation)})
        tokenizer = Tokenizer((*SPECIAL, *symbols), Choices(notation, "keep"))
        ids, counts = tokenizer.tokenize(texts)
        assert UNK not in ids
        end = 0
        for canonical, count in zip(spelt, counts.tolist(), strict=True):
            back = tokenizer.smiles(ids[end : end + count].tolist())
            end += count
            if back != canonical:
                reason = why(canonical, back)
                reasons[reason] += 1
                failures.writerow([path.name, notation, canonical, back, reason])
        good = len(molecules) - reasons.total()
        shares.append(good / len(rows))
        told = "; ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(6))
        print(
            f"{path.name:34} {notation:8} {good:>9,} of {len(rows):>9,} ({shares[-1]:.4%}), "
            f"{unread.total()} not read{'; ' + told if told else ''}",
            flush=True,
        )
    return min(shares)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--column", default="smiles")
    parser.add_argument("--rows", type=int, help="of each file, from its beginning")
    parser.add_argument("--share", type=float, default=0.999)
    parser.add_argument("--failures", type=Path, default=Path("failures.csv"))
    asked = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    with asked.failures.open("w", newline="") as stream:
        failures = csv.writer(stream)
        failures.writerow(["file", "notation", "smiles", "back", "reason"])
        worst = min(look(path, asked.column, asked.rows, failures) for path in asked.files)
    sys.exit(worst < asked.share)


if __name__ == "__main__":
    main()
