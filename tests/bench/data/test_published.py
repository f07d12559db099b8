"""The published tokenisers of ChemGPT: the ids that the library gives, and their limits."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest
import tokenizers
from rdkit import Chem
from selfies.compatibility import modernize_symbol

from chemscale.bench.data.notation import spell, split
from chemscale.bench.data.published import PublishedTokenizer, new_symbol, old_symbol
from chemscale.table.errors import DataError

SHARED = Path(os.environ.get("CHEMSCALE_SHARED", Path(__file__).parents[4] / "shared"))
NAMES = ("pubchem10M_tokenizer", "pubchem10M_selfiesv2_tokenizer")
ODD = [
    "",
    ".",
    "[C].[O]",
    "[C",
    "C]",
    "[C@@H1][C]",
    "[/C][=C][\\C]",
    "[UNK][C]",
    "[Xx" + "x" * 200 + "]",
]


def published(name: str) -> Path:
    path = SHARED / f"data/litmatter/{name}/tokenizer.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def real(count: int) -> list[str]:
    """SMILES as they come, stereochemistry and salts included."""
    path = SHARED / "data/molecules/pubchem_pcs_a.csv.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with gzip.open(path, "rt", newline="") as stream:
        return [row[0] for row in csv.reader(stream)][1 : count + 1]


def agree(path: Path, smiles: list[str]) -> int:
    """How many texts were compared, in the spelling of the file."""
    ours, theirs = PublishedTokenizer.read(path), tokenizers.Tokenizer.from_file(str(path))
    texts = [text for text in spell(smiles, "selfies") if isinstance(text, str)] + ODD
    if ours.old:
        texts = ["".join(map(old_symbol, split(text, "selfies"))) for text in texts]
    for text, found in zip(texts, theirs.encode_batch(texts), strict=True):
        assert ours.ids(text) == found.ids, text
    return len(texts)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_tokenizers_library(name):
    assert agree(published(name), real(1_500)) > 1_400


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ids_are_those_of_the_tokenizers_library_on_50_000_molecules(name):
    assert agree(published(name), real(60_000)) > 49_900


@pytest.mark.parametrize("name", NAMES)
def test_a_molecule_comes_back_without_stereochemistry_as_its_largest_fragment(name):
    tokenizer = PublishedTokenizer.read(published(name))
    ids = tokenizer.encode("C[C@H](N)C(=O)[O-].[Na+]")
    assert ids[0] == tokenizer.vocabulary["[CLS]"] and ids[-1] == tokenizer.vocabulary["[SEP]"]
    assert tokenizer.vocabulary["[UNK]"] not in ids
    assert Chem.CanonSmiles(tokenizer.smiles(ids)) == "CC(N)C(=O)[O-]"
    assert Chem.CanonSmiles(tokenizer.smiles([*ids, 9, 9])) == "CC(N)C(=O)[O-]"
    with pytest.raises(DataError, match="not a SMILES"):
        tokenizer.encode("C(")


@pytest.mark.parametrize("name", NAMES)
def test_the_published_ones_have_no_stereochemistry_and_no_dot(name):
    tokenizer = PublishedTokenizer.read(published(name))
    assert not any(mark in symbol for symbol in tokenizer.symbols for mark in "@/\\.")
    assert tokenizer.vocabulary["[UNK]"] in tokenizer.ids("[C].[C]")
    assert len(tokenizer.symbols) == {True: 684, False: 669}[tokenizer.old]


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("[C]", "[C]"), ("[=Branch1]", "[Branch1_2]"), ("[#Branch2]", "[Branch2_3]"),
        ("[Ring1]", "[Ring1]"), ("[=Ring2]", "[Expl=Ring2]"), ("[O-1]", "[O-expl]"),
        ("[NH1+1]", "[NH+expl]"), ("[=N+1]", "[=N+expl]"), ("[Cr+2]", "[Cr+2expl]"),
        ("[NH2]", "[NH2expl]"), ("[CH0]", "[Cexpl]"), ("[2H]", "[2Hexpl]"), ("[Si]", "[Siexpl]"),
        ("[C@@H1]", "[C@@Hexpl]"), (".", "."),
    ],
)  # fmt: skip
def test_symbols_of_selfies_2_in_the_spelling_of_1_and_back(new, old):
    assert old_symbol(new) == old
    assert modernize_symbol(old) == new_symbol(old) == new


def test_every_whole_symbol_of_the_older_vocabulary_is_spelt_back():
    tokenizer = PublishedTokenizer.read(published(NAMES[0]))
    whole = [symbol for symbol in tokenizer.symbols if symbol[0] == "[" and symbol[-1] == "]"][5:]
    assert len(whole) > 150
    lost = [symbol for symbol in whole if old_symbol(new_symbol(symbol)) != symbol]
    assert lost == ["[teexpl]"]  # aromatic, which no SELFIES is


def test_another_tokeniser_is_refused(tmp_path):
    for told in ({}, {"model": {"type": "BPE"}}, []):
        (tmp_path / "tokenizer.json").write_text(json.dumps(told))
        with pytest.raises(DataError, match=r"tokenizer\.json: not"):
            PublishedTokenizer.read(tmp_path / "tokenizer.json")
