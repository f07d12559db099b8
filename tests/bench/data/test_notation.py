"""Notations: what is split comes together again, and native code says what the libraries say."""

import csv
import gzip
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import selfies
from hypothesis import given, settings
from hypothesis import strategies as st

from chemscale.bench.data import notation
from chemscale.bench.data.notation import spell, split, tokenize, unspell

SHARED = Path(os.environ.get("CHEMSCALE_SHARED", Path(__file__).parents[4] / "shared"))
FILES = ("zinc250k", "pubchem_pcs_a", "chembl31_valid", "qm9")

TRICKY = [
    "C",
    "[2H]C([2H])O",
    "C[C@@H](O)[C@H](N)C(=O)O",
    "C[C@]12CC[C@H]3[C@@H](CCC4=CC(=O)CC[C@]34C)[C@@H]1CC[C@@H]2O",
    "F/C=C/F",
    "C/C=C\\C1CC1",
    "c1ccc2[nH]ccc2c1",
    "c1ccc2c(c1)ccc1ccccc12",
    "O=c1[nH]c2ccccc2[nH]1",
    "c1cc[o+]cc1",
    "c1cc[se]c1",
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C",
    "C[N+](=O)[O-]",
    "[O-]Cl(=O)(=O)=O",
    "C1CC2CCC1CC2",
    "C12C3C4C1C5C2C3C45",
    "C1=CC=CC1=C1C=CC=C1",
    "N#Cc1c(Cl)cc(Br)cc1I",
    "[13CH4]",
    "[Na+].[Cl-]",
    "CC.O.N",
    "[Fe+2]",
    "[CH3]",
    "C[Si](C)(C)C",
    "O=S(=O)(c1ccccc1)N1CCC%11(CC1)OCCO%11",
    "C1CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC1",
    "CC(C)(CC(C)(CC(C)(CCCCCCCCCCCCCCCCCCCCC)C)C)C",
    "c1ccc(-c2ccccc2)cc1",
    "c1ccc2ccccc2c1-c1c2ccccc2cc2ccccc12",
    "B1OC(C)(C)C(C)(C)O1",
]
BAD = [
    "",
    "C(",
    "C1CC",
    "CC)",
    "c1cccc1",
    "C=",
    "[Xx]",
    "*C",
    "C$C",
    "CC(C)(C)(C)C",
    "C11",
    "[nH",
    "C:C",
]


def by_library(smiles: str) -> str | None:
    try:
        return selfies.encoder(smiles)
    except Exception:
        return None


@pytest.fixture
def native():
    if notation.library() is None:
        pytest.skip("no C++ compiler here")


@pytest.fixture
def plain(monkeypatch):
    monkeypatch.setenv("CHEMSCALE_NATIVE", "0")
    notation.library.cache_clear()
    yield
    notation.library.cache_clear()


def test_the_native_encoder_writes_what_selfies_writes(native):
    found = notation._native_selfies(TRICKY + BAD)
    for smiles, text in zip(TRICKY + BAD, found, strict=True):
        assert text is None or text == by_library(smiles), smiles
    assert sum(text is not None for text in found[: len(TRICKY)]) > 0.9 * len(TRICKY)
    assert not any(found[len(TRICKY) :])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="CNOFcnos[]()=#1234%+-@H/\\.BrCl", max_size=25))
def test_the_native_encoder_never_differs_whatever_it_is_given(text):
    (found,) = notation._native_selfies([text])
    assert found is None or found == by_library(text)


def test_it_obeys_the_constraints_that_selfies_was_given(native):
    (before,) = notation._native_selfies(["O=Cl(=O)C"])
    try:
        selfies.set_semantic_constraints("hypervalent")
        (after,) = notation._native_selfies(["O=Cl(=O)C"])
        assert before is None and after == selfies.encoder("O=Cl(=O)C")
    finally:
        selfies.set_semantic_constraints()


def test_without_native_code_the_texts_and_ids_are_the_same(native, monkeypatch, request):
    texts = [text for text in spell(TRICKY, "selfies") if isinstance(text, str)]
    symbols = sorted({symbol for text in texts for symbol in split(text, "selfies")})[3:]
    ids, counts = tokenize(texts, symbols, "selfies", -1)
    words, lengths = tokenize(TRICKY, ["C", "Cl", "%11", "[2H]", "("], "smiles", -1)
    request.getfixturevalue("plain")
    assert [text for text in spell(TRICKY, "selfies") if isinstance(text, str)] == texts
    again, sizes = tokenize(texts, symbols, "selfies", -1)
    assert np.array_equal(again, ids) and np.array_equal(sizes, counts)
    again, sizes = tokenize(TRICKY, ["C", "Cl", "%11", "[2H]", "("], "smiles", -1)
    assert np.array_equal(again, words) and np.array_equal(sizes, lengths)
    assert (ids == -1).any() and counts.sum() == len(ids)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="CNl[]@%1(0)B r.é", max_size=30))
def test_symbols_joined_are_the_text(text):
    assert "".join(split(text, "smiles")) == text == "".join(split(text, "selfies"))


def test_selfies_are_split_as_the_library_does():
    for text in spell(TRICKY, "selfies"):
        if isinstance(text, str):
            assert split(text, "selfies") == list(selfies.split_selfies(text))


@pytest.mark.parametrize(
    ("smiles", "symbols"),
    [
        ("C[C@@H](Cl)Br", ["C", "[C@@H]", "(", "Cl", ")", "Br"]),
        ("c1ccncc1", ["c", "1", "c", "c", "n", "c", "c", "1"]),
        ("C%12CC%12", ["C", "%12", "C", "C", "%12"]),
        ("C%(105)C", ["C", "%(105)", "C"]),
        ("[Na+].[Cl-]", ["[Na+]", ".", "[Cl-]"]),
        ("CBr.BC", ["C", "Br", ".", "B", "C"]),
    ],
)
def test_smiles_are_split_by_atoms(smiles, symbols):
    assert split(smiles, "smiles") == symbols
    ids, counts = tokenize([smiles], symbols, "smiles", -1)
    assert [symbols[index] for index in ids] == symbols and counts.tolist() == [len(symbols)]


def test_what_has_no_selfies_says_why():
    good, star, five = spell(["CC", "*C", "CC(C)(C)(C)C"], "selfies")
    assert good == "[C][C]" and unspell(good, "selfies") == "CC"
    assert str(star) == "no SELFIES: unrecognized symbol '*'"
    assert "no SELFIES: [C] with 5 bond(s)" in str(five) or "C with 5 bond(s)" in str(five)
    assert unspell("[C", "selfies") == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_native_and_library_agree_on_25_000_real_molecules(native, name):
    source = SHARED / f"data/molecules/{name}.csv.gz"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    with gzip.open(source, "rt", newline="") as stream:
        rows = list(csv.reader(stream))
    column = [cell.lower() for cell in rows[0]].index("smiles")
    step = (len(rows) - 1) // 25_000
    texts = [row[column] for row in itertools.islice(rows, 1, None, step)][:25_000]
    declined = 0
    for smiles, text in zip(texts, notation._native_selfies(texts), strict=True):
        declined += text is None
        assert text is None or text == by_library(smiles), smiles
    assert declined < 0.02 * len(texts)
