"""Token stores: prepared once, whatever happens, and used as the files they came from."""

import csv
import gzip
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from chemscale.bench.data import encoding, molecule_files, prepare, sorting
from chemscale.bench.data.base import open_dataset
from chemscale.bench.data.encoding import Choices
from chemscale.bench.data.prepare import TokenStore
from chemscale.bench.data.token_batch import UNK
from chemscale.bench.data.tokens import Molecules
from chemscale.table.errors import DataError, StoreError, UsageError
from chemscale.table.records import DatasetSpec

HEADS = ("C", "CC", "OC", "NC", "F", "CCC", "CC(C)", "N#CC", "COC", "Cl")
RINGS = ("c1ccc({})cc1", "C1CCC({})CC1", "c1cc({})ccn1", "C1CC({})CO1", "c1csc({})n1")
TAILS = ("C", "O", "N", "F", "C(=O)O", "OC", "C#N", "N(C)C")
MANY = [f"{a}{ring.format(b)}" for a, ring, b in itertools.product(HEADS, RINGS, TAILS)]
ROWS = [*MANY, *MANY[:30], "C(", "", "CCO.Cl"]


def write(path: Path, rows: list[str], column: str = "smiles") -> Path:
    path.write_text("\n".join([column, *(f'"{row}"' for row in rows)]) + "\n")
    return path


def made(folder: Path, *files: Path, choices: Choices | None = None, **options) -> TokenStore:
    return prepare.prepare(folder, files, "csv", "smiles", choices or Choices(), **options)


def opened(path: Path, **options) -> Molecules:
    given = {"format": "tokens" if path.is_dir() else "csv", "max_rejected": 0.2, **options}
    dataset = open_dataset(DatasetSpec(path=path.name, **given), path.parent)
    assert isinstance(dataset, Molecules)
    return dataset


def decoded(dataset: Molecules, items: np.ndarray) -> list[str]:
    from chemscale.bench.models.chemgpt import ChemGPT

    batch = dataset.collate(ChemGPT.fitted_config("w16", dataset))(items)
    texts = batch.targets.split(batch.lengths.tolist())
    return [dataset.tokenizer.smiles(text.tolist()) for text in texts]


def contents(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.iterdir() if path.name != ".lock"}


@pytest.fixture
def small(monkeypatch):
    """Runs and ranges so small that there are many."""
    monkeypatch.setattr(encoding, "IN_PROCESS", 1_000)
    monkeypatch.setattr(molecule_files, "CHUNK", 50)
    monkeypatch.setattr(prepare, "RUN_ROWS", 150)
    monkeypatch.setattr(sorting, "RANGE_ITEMS", 150)
    monkeypatch.setattr(sorting, "JOURNAL_SECONDS", 0.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# --- a store is the data of its files ------------------------------------------------------------


@pytest.mark.parametrize("group", ["content", "scaffold"])
def test_a_store_gives_the_splits_subsets_and_batches_of_its_file(tmp_path, small, group):
    path = write(tmp_path / "a.csv", ROWS)
    made(tmp_path / "store", path, choices=Choices(group=group))
    shares = {"test": 0.3, "validation": 0.3}
    ours, theirs = opened(tmp_path / "store", **shares), opened(path, group=group, **shares)
    for seed, size in itertools.product((0, 1), (10, 60)):
        assert ours.fingerprint(size, seed) == theirs.fingerprint(size, seed)
        assert decoded(ours, ours.subset(size, seed)) == decoded(theirs, theirs.subset(size, seed))
    assert set(ours.subset(10, 3)) < set(ours.subset(60, 3))
    assert ours.rejects == theirs.rejects and len(ours.rejects) == 3
    assert ours.notes == theirs.notes
    assert ours.vocabulary() == theirs.vocabulary()


def test_many_small_runs_make_the_store_of_one_large_one(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", ROWS)
    made(tmp_path / "large", path)
    monkeypatch.setattr(encoding, "IN_PROCESS", 1_000)
    monkeypatch.setattr(molecule_files, "CHUNK", 11)
    monkeypatch.setattr(prepare, "RUN_ROWS", 33)
    monkeypatch.setattr(sorting, "RANGE_ITEMS", 9)
    made(tmp_path / "small", path)
    assert contents(tmp_path / "small") == contents(tmp_path / "large")


def test_several_files_are_as_one(tmp_path, small):
    whole = made(tmp_path / "whole", write(tmp_path / "a.csv", ROWS))
    parts = [write(tmp_path / f"{n}.csv", ROWS[begin : begin + 200])
             for n, begin in enumerate(range(0, len(ROWS), 200))]  # fmt: skip
    both = made(tmp_path / "both", *parts)
    assert np.array_equal(whole.content, both.content)
    assert np.array_equal(whole.symbols, both.symbols)
    assert np.array_equal(whole.rows, both.rows + 200 * both.file)
    assert both.card.fingerprint == whole.card.fingerprint
    dataset = opened(tmp_path / "both")
    assert [(r.source, r.row) for r in dataset.rejects] == [("2.csv", n) for n in (31, 32, 33)]


def test_evaluation_sets_may_be_stores_too(tmp_path):
    made(tmp_path / "store", write(tmp_path / "a.csv", MANY))
    made(tmp_path / "other", write(tmp_path / "b.csv", ["CCCCBr", *MANY[:20]]))
    dataset = opened(tmp_path / "store", test="other")
    same = opened(tmp_path / "a.csv", test="b.csv")
    assert dataset.fingerprint(100, 0) == same.fingerprint(100, 0)
    assert any("occur in an evaluation set" in note for note in dataset.notes)
    assert sorted(decoded(dataset, dataset.indices("test"))) == sorted(
        decoded(same, same.indices("test"))
    )


def test_the_card_counts_what_is_there(tmp_path, small):
    card = made(tmp_path / "store", write(tmp_path / "a.csv", ROWS)).card
    distinct = {Chem.CanonSmiles(text) for text in MANY}
    assert card.rows == len(ROWS) == card.molecules + card.duplicates + card.rejected
    assert card.molecules == len(distinct) and card.rejected == 3
    assert card.reasons["N fragments (fragments = 'largest' or 'keep' takes them)"] == 1
    assert sum(card.lengths.counts.values()) == card.molecules
    assert sum(card.vocabulary.values()) == card.tokens - card.molecules
    heavy = [Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in distinct]
    assert card.heavy_atoms.mean == pytest.approx(np.mean(heavy))
    assert (card.heavy_atoms.smallest, card.heavy_atoms.largest) == (min(heavy), max(heavy))
    assert set(card.files) == {"a.csv"} and card.choices["notation"] == "selfies"


def test_of_equal_molecules_the_first_row_is_kept_and_the_copies_are_counted(tmp_path, small):
    rows = ["OCC", *MANY[:150], "CCO", "C(C)O"]
    store = made(tmp_path / "store", write(tmp_path / "a.csv", rows))
    (found,) = np.flatnonzero(store.copies == 3)
    assert store.rows[found] == 1 and store.card.duplicates == 2


# --- interrupted and resumed ---------------------------------------------------------------------


def test_a_preparation_stopped_at_any_moment_goes_on_to_the_same_store(tmp_path, small):
    path = write(tmp_path / "a.csv", ROWS)
    moments = 0

    def count(*_):
        nonlocal moments
        moments += 1

    made(tmp_path / "whole", path, progress=count)
    assert moments > 12
    for moment in range(1, moments + 1, 2):
        left = moment

        def stop(*_):
            nonlocal left
            left -= 1
            if not left:
                raise KeyboardInterrupt

        target = tmp_path / f"stopped-{moment}"
        with pytest.raises(KeyboardInterrupt):
            made(target, path, progress=stop)
        made(target, path)
        assert contents(target) == contents(tmp_path / "whole")


def test_what_is_encoded_is_not_encoded_again(tmp_path, small, monkeypatch):
    path = write(tmp_path / "a.csv", ROWS)

    def stop(what, done, total):
        if what == "merging":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "store", path, progress=stop)
    with pytest.raises(DataError, match="did not end; give `chemscale prepare` again"):
        TokenStore.open(tmp_path / "store")
    monkeypatch.setattr(prepare, "encode_all", None)
    assert made(tmp_path / "store", path).card.rows == len(ROWS)


@pytest.mark.slow
def test_five_kills_at_random_moments_leave_the_same_store(tmp_path):
    source = write(tmp_path / "a.csv", ROWS * 30)
    code = (
        "from chemscale.bench.data import molecule_files, prepare, sorting; "
        "molecule_files.CHUNK = 100; prepare.RUN_ROWS = 500; sorting.RANGE_ITEMS = 50; "
        "sorting.JOURNAL_SECONDS = 0.0; "
        "from chemscale.cli import main; main()"
    )

    def command(store: str) -> list[str]:
        return [sys.executable, "-c", code, "prepare", str(source), "--to", str(tmp_path / store)]

    subprocess.run(command("whole"), check=True, capture_output=True)
    chance = random.Random(1)
    begun, killed = tmp_path / "killed/asked.json", 0
    for _ in range(5):
        process = subprocess.Popen(
            command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not begun.exists() and process.poll() is None:
            pass
        try:
            process.wait(chance.uniform(0.0, 3.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            killed += 1
    subprocess.run(command("killed"), check=True, capture_output=True)
    assert killed
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_folder_holds_one_preparation(tmp_path):
    path = write(tmp_path / "a.csv", MANY[:40])
    made(tmp_path / "store", path)
    with pytest.raises(StoreError, match="prepared from other choices"):
        made(tmp_path / "store", path, choices=Choices(stereo="drop"))
    with pytest.raises(StoreError, match="prepared from other files"):
        made(tmp_path / "store", write(tmp_path / "b.csv", MANY[:50]))
    with pytest.raises(StoreError, match=r"holds .*\.csv; a store needs a folder of its own"):
        made(tmp_path, path)
    path.rename(tmp_path / "c.csv")
    assert made(tmp_path / "store", tmp_path / "c.csv").card.rows == 40


def test_what_is_no_store_is_told_apart(tmp_path):
    with pytest.raises(DataError, match="no token store"):
        opened(tmp_path, max_rejected=0.0)


# --- choices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("notation", ["selfies", "smiles"])
@pytest.mark.parametrize(
    ("given", "choice", "expected"),
    [
        ("CC(=O)[O-].[Na+]", {"fragments": "largest"}, "CC(=O)[O-]"),
        ("CC(=O)[O-].[Na+]", {"fragments": "keep"}, "CC(=O)[O-].[Na+]"),
        ("CC(=O)[O-].[Na+]", {"fragments": "largest", "charges": "neutralize"}, "CC(=O)O"),
        ("C[NH3+]", {"charges": "neutralize"}, "CN"),
        ("C[N+](C)(C)C", {"charges": "neutralize"}, "C[N+](C)(C)C"),
        ("C[C@H](N)C(=O)O", {}, "C[C@H](N)C(=O)O"),
        ("C[C@H](N)C(=O)O", {"stereo": "drop"}, "CC(N)C(=O)O"),
        ("F/C=C/F", {"stereo": "drop"}, "FC=CF"),
        ("F/C=C\\F", {}, "F/C=C\\F"),
    ],
)
def test_a_molecule_becomes_what_was_chosen(tmp_path, notation, given, choice, expected):
    store = made(
        tmp_path / "store",
        write(tmp_path / "a.csv", [given]),
        choices=Choices(notation, **choice),
    )
    from chemscale.bench.data.tokens import SPECIAL, Tokenizer

    tokenizer = Tokenizer((*SPECIAL, *store.alphabet), Choices(notation, **choice))
    ids = [len(SPECIAL) + int(symbol) for symbol in store.symbols]
    assert tokenizer.smiles(ids) == Chem.CanonSmiles(expected)
    assert tokenizer.encode(given)[1:-1] == ids
    heavy = Chem.MolFromSmiles(expected).GetNumHeavyAtoms()
    assert store.heavy_atoms.tolist() == [heavy]


def test_both_notations_have_the_same_splits_and_subsets(tmp_path):
    path = write(tmp_path / "a.csv", MANY)
    selfies, smiles = opened(path), opened(path, notation="smiles")
    assert np.array_equal(selfies.content, smiles.content)
    assert np.array_equal(selfies.split, smiles.split)
    assert np.array_equal(selfies.subset(100, 1), smiles.subset(100, 1))
    assert decoded(selfies, selfies.subset(50, 0)) == decoded(smiles, smiles.subset(50, 0))
    assert selfies.fingerprint(50, 0) != smiles.fingerprint(50, 0)
    assert "c" in smiles.vocabulary() and "[C]" in selfies.vocabulary()


def test_a_study_cannot_ask_a_store_for_what_it_was_not_made_with(tmp_path):
    made(tmp_path / "store", write(tmp_path / "a.csv", MANY))
    with pytest.raises(DataError, match="prepared with notation = 'selfies', not 'smiles'"):
        opened(tmp_path / "store", notation="smiles")
    with pytest.raises(DataError, match="prepared with group = 'content', not 'scaffold'"):
        opened(tmp_path / "store", group="scaffold")
    with pytest.raises(UsageError, match="'inchi' is none of selfies, smiles"):
        Choices("inchi")  # type: ignore[arg-type]


# --- bad input -----------------------------------------------------------------------------------


def test_a_truncated_file_costs_its_rest_and_no_other(tmp_path, small):
    text = ("smiles\n" + "\n".join(MANY) + "\n").encode()
    cut = tmp_path / "a.csv.gz"
    cut.write_bytes(gzip.compress(text)[:-400])
    rest = write(tmp_path / "b.csv", ["CCCBr", "CCCI"])
    store = made(tmp_path / "store", cut, rest)
    assert store.card.cut_off == ("a.csv.gz",)
    assert {"[Br]", "[I]"} <= set(store.alphabet) and store.card.molecules > 2
    (reject,) = store.rejects(list(store.card.files))
    assert reject.source == "a.csv.gz" and reject.row == store.card.rows - 2
    assert "cannot be read beyond this row" in reject.reason
    assert any("could not be read to its end" in note for note in opened(store.path).notes)
    with pytest.raises(DataError, match="cannot be read as csv"):
        opened(cut)


def test_each_bad_row_is_named_and_none_is_fatal(tmp_path):
    path = tmp_path / "a.csv"
    rows = [b"CCO", b"CC\xe9", b"", b"C" * 100_000, b"not,a", b'"' + b"C" * 200_000 + b'"', b"CCN"]
    path.write_bytes(b"smiles,id\n" + b"\n".join(rows) + b"\n")
    store = made(tmp_path / "store", path)
    assert store.card.molecules == 2
    reasons = {reject.row: reject.reason for reject in store.rejects(["a.csv"])}
    assert reasons == {
        2: "not UTF-8",
        3: "empty row",
        4: "100,000 characters, more than 10,000",
        5: "not a SMILES",
        6: "not a row of CSV: field larger than field limit (131072)",
    }
    assert set(store.card.reasons) == {
        "not UTF-8",
        "empty row",
        "N characters, more than N",
        "not a SMILES",
        "not a row of CSV: field larger than field limit (N)",
    }


def test_a_file_that_is_no_text_is_told_by_name(tmp_path):
    (tmp_path / "a.csv").write_bytes(bytes(range(128, 256)) + b"\n")
    with pytest.raises(DataError, match=r"a\.csv: no column named 'smiles', .* no text in UTF-8$"):
        made(tmp_path / "store", tmp_path / "a.csv")


def test_a_file_in_utf_16_is_told_by_name(tmp_path):
    (tmp_path / "a.csv").write_text("smiles\nCCO\n", encoding="utf-16")
    with pytest.raises(DataError, match=r"a\.csv: UTF-16; save it as UTF-8"):
        made(tmp_path / "store", tmp_path / "a.csv")


def test_a_missing_column_of_the_last_file_is_told_before_the_first_is_read(tmp_path):
    first = write(tmp_path / "a.csv", MANY[:30])
    last = write(tmp_path / "b.csv", MANY[:30], "smile")
    with pytest.raises(DataError, match=r"b\.csv: no column named 'smiles'"):
        made(tmp_path / "store", first, last)
    assert not (tmp_path / "store").exists()


def test_unknown_symbols_and_bad_smiles_at_inference_are_named(tmp_path):
    tokenizer = opened(write(tmp_path / "a.csv", MANY)).tokenizer
    assert tokenizer.encode("CC[Si](C)C").count(UNK) == 1
    for text, reason in (("C(", "not a SMILES"), ("C" * 100_000, "100,000 characters")):
        with pytest.raises(DataError, match=reason):
            tokenizer.encode(text)


# --- the command ---------------------------------------------------------------------------------


def test_the_command_says_what_it_made_and_how_to_use_it(tmp_path, capsys, monkeypatch):
    from chemscale import cli

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.csv", ROWS)

    def call(*words: str) -> str:
        cli.app(["prepare", *words], standalone_mode=False)
        return capsys.readouterr().out

    out = call("a.csv", "--to", "store", "--fragments", "largest")
    assert f"{len(ROWS):,} rows: " in out and "fragments largest" in out
    assert 'dataset = { format = "tokens", path = "store" }' in out
    card = json.loads(call("a.csv", "--to", "store", "--fragments", "largest", "--json"))
    assert card["rows"] == len(ROWS) and card["choices"]["fragments"] == "largest"
    with (tmp_path / "store/rejects.csv").open(newline="") as stream:
        rejects = list(csv.DictReader(stream))
    assert [(row["row"], row["reason"]) for row in rejects] == [
        (str(len(ROWS) - 2), "not a SMILES"),
        (str(len(ROWS) - 1), "empty row"),
    ]
    with pytest.raises(DataError, match="none of 2 rows is a molecule.*--column"):
        (tmp_path / "no.smi").write_text("1,CCO\n2,CCN\n")
        call("no.smi", "--to", "nothing")
    with pytest.raises(
        DataError, match="no column named 'smiles'.*it is a row: write one with the"
    ):
        (tmp_path / "no.csv").write_text("1,CCO\n2,CCN\n")
        call("no.csv", "--to", "nothing2")
    with pytest.raises(UsageError, match="--format"):
        call(str(Path(os.devnull)), "--to", "other")
