"""Molecules: read, split, numbered and packed."""

import csv
import gzip
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import selfies
from pydantic import ValidationError
from rdkit import Chem

from chemscale.bench.data import encoding, molecule_files, tokens
from chemscale.bench.data.base import SPLITS, open_dataset
from chemscale.bench.data.token_batch import BOS, EOS, UNK, TokenBatch
from chemscale.bench.data.tokens import SPECIAL, Molecules
from chemscale.bench.models.chemgpt import ChemGPT
from chemscale.table.errors import DataError
from chemscale.table.records import DatasetSpec

HEADS = ("C", "CC", "OC", "NC", "FC", "CCC", "CC(C)", "N#CC", "COC", "ClC")
RINGS = ("c1ccc({})cc1", "C1CCC({})CC1", "c1cc({})ccn1", "C1CC({})CO1", "c1csc({})n1")
TAILS = ("C", "O", "N", "F", "C(=O)O", "C(=O)N", "OC", "C#N", "CCO", "N(C)C")
ORDERED = [f"{a}{ring.format(b)}" for a, ring, b in itertools.product(HEADS, RINGS, TAILS)]
MANY = [ORDERED[37 * n % len(ORDERED)] for n in range(len(ORDERED))]  # any part has all symbols


def write(path: Path, smiles: list[str], column: str = "smiles", **others: list[str]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([column, *others])
        writer.writerows(zip(smiles, *others.values(), strict=True))
    return path


def read(path: Path, **options) -> Molecules:
    form = {"csv": "csv", "smi": "smi", "txt": "smi", "parquet": "parquet"}
    kind = form[path.name.removesuffix(".gz").rsplit(".", 1)[1]]
    dataset = open_dataset(DatasetSpec(format=kind, path=path.name, **options), path.parent)
    assert isinstance(dataset, Molecules)
    return dataset


def config(dataset: Molecules) -> ChemGPT.Config:
    fitted = ChemGPT.fitted_config("w16", dataset)
    assert isinstance(fitted, ChemGPT.Config)
    return fitted


def smiles_of(dataset: Molecules, items: np.ndarray) -> list[str]:
    """Decode items through a batch, as a model would see them."""
    if not len(items):
        return []
    batch = dataset.collate(config(dataset))(items)
    rows = batch.targets.split(batch.lengths.tolist())
    return [dataset.tokenizer.smiles(row.tolist()) for row in rows]


def canonical(smiles: list[str]) -> list[str]:
    return [Chem.CanonSmiles(text) for text in smiles]


def otherwise(smiles: list[str]) -> list[str]:
    """The same molecules, written from their last atom."""
    molecules = [Chem.MolFromSmiles(text) for text in smiles]
    return [Chem.MolToSmiles(m, rootedAtAtom=m.GetNumAtoms() - 1) for m in molecules]


def by_split(dataset: Molecules) -> dict[str, set[str]]:
    return {name: set(smiles_of(dataset, dataset.indices(name))) for name in SPLITS}


@pytest.fixture
def many(tmp_path: Path) -> Molecules:
    return read(write(tmp_path / "many.csv", MANY))


# --- what is read --------------------------------------------------------------------------------


def test_every_molecule_comes_back_as_its_canonical_smiles(many):
    everything = np.arange(len(many.split))
    assert sorted(smiles_of(many, everything)) == sorted(set(canonical(MANY)))
    assert many.rejects == []


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.smi", "a.txt", "a.smi.gz", "a.parquet"])
def test_every_format_gives_the_same_dataset(many, tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        import pyarrow as pa
        from pyarrow.parquet import write_table

        write_table(pa.table({"id": range(len(MANY)), "Smiles": MANY}), path)
    else:
        lines = [f"{text} name {n}\n" for n, text in enumerate(MANY)]
        if ".csv" in name:
            lines = ["id,Smiles\n"] + [f"{n},{text}\n" for n, text in enumerate(MANY)]
        opener = gzip.open if name.endswith("gz") else open
        with opener(path, "wt") as stream:
            stream.writelines(lines)
    other = read(path)
    assert np.array_equal(other.content, many.content)
    assert np.array_equal(other.split, many.split)
    assert other.fingerprint(100, 0) == many.fingerprint(100, 0)


def test_a_missing_column_names_the_columns_there_are(tmp_path):
    path = write(tmp_path / "a.csv", MANY, "smile", label=["x"] * len(MANY))
    with pytest.raises(DataError, match=r"no column named 'smiles'.*'smile'\?.*label, smile"):
        read(path)
    with pytest.raises(DataError, match="'batch'. Known: label, smile"):
        read(path, column="smile", group="batch")


def test_a_rejected_row_is_kept_with_its_number_and_the_reason(tmp_path):
    odd = ["", "not-a-molecule", "CC(C)(C)(C)C", "CCO.CC", "*CC", "C" * 60, "C$C"]
    path = write(tmp_path / "a.csv", MANY[:10] + odd + MANY[10:], id=["1"] * (len(MANY) + 7))
    dataset = read(path, max_rejected=0.5, max_length=50)
    reasons = {reject.row: reject.reason for reject in dataset.rejects}
    assert reasons == {
        11: "empty row",
        12: "not a SMILES",
        13: "Explicit valence for atom # 1 C, 5, is greater than permitted",
        14: "2 fragments (fragments = 'largest' or 'keep' takes them)",
        15: "no SELFIES: unrecognized symbol '*'",
        16: "61 tokens, more than max_length = 50",
        17: "no SELFIES: unrecognized symbol '$'",
    }
    assert {reject.source for reject in dataset.rejects} == {"a.csv"}
    assert len(dataset.split) == len(set(canonical(MANY)))


def test_blank_lines_are_rows_except_at_the_end(tmp_path):
    path = tmp_path / "a.smi"
    path.write_text("\n".join([MANY[0], "", *MANY[1:]]) + "\n\n\n")
    assert [reject.row for reject in read(path).rejects] == [2]


def test_too_many_rejected_rows_are_an_error_that_shows_them(tmp_path):
    path = write(tmp_path / "a.csv", [*MANY[:180], "C(", "C)", "CC)"])
    with pytest.raises(DataError, match=r"(?s)3 of 183 rows.*row 181: not a SMILES: C\("):
        read(path)


def test_of_molecules_written_twice_the_first_is_kept_and_the_rest_are_counted(tmp_path):
    again = otherwise(MANY[:20])
    once = read(write(tmp_path / "a.csv", MANY))
    twice = read(write(tmp_path / "b.csv", MANY + again))
    assert np.array_equal(once.content, twice.content)
    duplicates = len(MANY) + 20 - len(twice.content)
    assert any(f"repeat a molecule: {duplicates};" in note for note in twice.notes)
    assert twice.rejects == []


def test_a_file_that_is_not_what_it_says_is_a_data_error(tmp_path):
    for name in ("a.parquet", "a.csv.gz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b nonsense")
        with pytest.raises(DataError, match="cannot be read as"):
            read(tmp_path / name)
    (tmp_path / "b.csv").write_text("smiles\n")
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path / "b.csv")


# --- the cache and the workers -------------------------------------------------------------------


def test_the_second_opening_encodes_nothing_and_gives_the_same(tmp_path, monkeypatch):
    path = write(tmp_path / "a.csv", [*MANY, "C("], id=["a"] * (len(MANY) + 1))
    fresh = read(path)

    def never(*_):
        raise AssertionError("encoded again")

    monkeypatch.setattr(tokens, "prepare", never)
    cached = read(path)
    assert cached.rejects == fresh.rejects and len(fresh.rejects) == 1
    assert cached.fingerprint(50, 1) == fresh.fingerprint(50, 1)
    assert np.array_equal(cached.heavy_atoms, fresh.heavy_atoms)
    items = np.arange(len(fresh.split))
    assert smiles_of(cached, items) == smiles_of(fresh, items)


def test_the_worker_processes_give_what_one_process_gives(tmp_path, monkeypatch):
    rows = [*MANY[:120], "C(", "", *MANY[120:]]
    alone = read(write(tmp_path / "a.csv", rows, id=["1"] * len(rows)))
    monkeypatch.setattr(encoding, "IN_PROCESS", 0)
    monkeypatch.setattr(molecule_files, "CHUNK", 50)
    calls: list[tuple[str, int, int]] = []
    path = write(tmp_path / "b.csv", rows, id=["2"] * len(rows))
    spec = DatasetSpec(format="csv", path="b.csv")
    together = Molecules(spec, tmp_path, lambda *call: calls.append(call))
    assert path.read_bytes() != (tmp_path / "a.csv").read_bytes()  # else the cache would answer
    assert np.array_equal(together.content, alone.content)
    assert [(r.row, r.reason) for r in together.rejects] == [
        (r.row, r.reason) for r in alone.rejects
    ]
    assert together.fingerprint(100, 0) == alone.fingerprint(100, 0)
    assert calls[-1][0] == "merging"
    encoded = [call for call in calls if call[0] == "encoding molecules"]
    assert encoded[-1][1:] == (len(rows), len(rows))


# --- splits and subsets --------------------------------------------------------------------------


def test_splits_stay_as_they_are_when_the_file_grows(tmp_path):
    small = by_split(read(write(tmp_path / "a.csv", MANY[:300])))
    large = by_split(read(write(tmp_path / "b.csv", MANY[300:] + MANY[:300])))
    for name in ("train", "validation", "test"):
        assert small[name] and small[name] < large[name]


def test_training_subsets_are_nested_and_differ_between_seeds(many):
    sizes = [10, 30, 100, 300]
    subsets = [set(many.subset(size, seed=1)) for size in sizes]
    assert all(a < b for a, b in itertools.pairwise(subsets))
    assert set(many.subset(100, seed=2)) != subsets[2]
    assert set(many.indices("train")) >= subsets[-1]
    with pytest.raises(DataError, match="more than the"):
        many.subset(10_000, seed=0)


def test_training_molecules_that_occur_in_an_evaluation_file_are_removed(tmp_path):
    main = write(tmp_path / "a.csv", MANY[:400])
    write(tmp_path / "test.csv", otherwise(MANY[380:430]))
    write(tmp_path / "shift.csv", MANY[430:])
    dataset = read(main, test="test.csv", shift="shift.csv")
    splits = by_split(dataset)
    assert splits["test"] == set(canonical(MANY[380:430]))
    assert splits["shift"] == set(canonical(MANY[430:]))
    assert not splits["train"] & (splits["test"] | splits["shift"] | splits["validation"])
    assert any("occur in an evaluation set" in note for note in dataset.notes)


def test_evaluation_files_need_not_have_the_column_that_groups(tmp_path):
    main = write(tmp_path / "a.csv", MANY[:400], plate=[str(n // 4) for n in range(400)])
    write(tmp_path / "test.csv", MANY[400:])
    assert by_split(read(main, group="plate", test="test.csv"))["test"] <= set(canonical(MANY))


def test_no_scaffold_lies_in_two_splits(tmp_path):
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    linkers = [f"C{'C' * n}c1ccc({ring})cc1" for n in range(8) for ring in ("C2CCCC2", "c2ccncc2")]
    rings = [f"C1{'C' * n}C({'O' * k}C)C1" for n in range(1, 30) for k in (0, 1)]
    chains = ["C" * n for n in range(1, 40)]
    dataset = read(write(tmp_path / "a.csv", linkers + rings + chains), group="scaffold", test=0.3)
    splits = by_split(dataset)
    scaffolds = {
        name: {MurckoScaffoldSmiles(text) for text in members} - {""}
        for name, members in splits.items()
    }
    for a, b in itertools.combinations(scaffolds, 2):
        assert not scaffolds[a] & scaffolds[b]
    # Chains have no scaffold, and so do not all go one way.
    assert any("1" not in text for text in splits["test"])
    assert any("1" not in text for text in splits["train"])


def test_isomers_share_a_split_by_formula_and_rows_of_a_plate_by_column(tmp_path):
    plates = [str(n // 5) for n in range(len(MANY))]
    path = write(tmp_path / "a.csv", MANY, plate=plates)
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    formulas = [CalcMolFormula(Chem.MolFromSmiles(text)) for text in MANY]
    for group, labels in (("formula", formulas), ("plate", plates)):
        label = dict(zip(reversed(canonical(MANY)), reversed(labels), strict=True))
        splits = by_split(read(path, group=group))
        found = [{label[text] for text in splits[name]} for name in ("train", "validation", "test")]
        assert all(found)
        assert not any(a & b for a, b in itertools.combinations(found, 2))


def test_blocks_are_refused_for_molecules(tmp_path):
    with pytest.raises(DataError, match="trajectories"):
        read(write(tmp_path / "a.csv", MANY), group="blocks")


# --- vocabulary ----------------------------------------------------------------------------------


def test_the_vocabulary_is_that_of_all_training_molecules_and_of_no_other(tmp_path):
    main = write(tmp_path / "a.csv", MANY)
    write(tmp_path / "test.csv", ["CCBr", "CCCCCCCCO", "C[Si](C)C"])
    dataset = read(main, test="test.csv")
    expected = {
        symbol
        for text in by_split(dataset)["train"]
        for symbol in selfies.split_selfies(selfies.encoder(text))
    }
    vocabulary = dataset.vocabulary()
    assert vocabulary[:4] == SPECIAL
    assert vocabulary[4:] == tuple(sorted(expected))
    assert not {"[Br]", "[Si]"} & set(vocabulary)


def test_unseen_symbols_become_unk_and_the_molecule_is_not_known(tmp_path):
    main = write(tmp_path / "a.csv", MANY)
    write(tmp_path / "test.csv", ["CCBr", "CCCCCCCCO", "C[Si](C)C"])
    dataset = read(main, test="test.csv")
    items = dataset.indices("test")
    batch = dataset.collate(config(dataset))(items)
    assert sorted(batch.known.tolist()) == [False, False, True]
    assert np.array_equal(batch.known.numpy(), dataset.known[items])
    unknown = batch.molecule[batch.targets == UNK].unique().tolist()
    assert unknown == (~batch.known).nonzero().flatten().tolist()
    assert any("2 of 3 test molecules have symbols" in note for note in dataset.notes)
    assert dataset.known[dataset.indices("train")].all()


def test_a_model_made_for_other_data_is_refused(many):
    fitted = config(many)
    with pytest.raises(DataError, match="symbols, but the model was made for 7"):
        many.collate(fitted.model_copy(update={"vocab_size": 7}))
    with pytest.raises(DataError, match="the model takes at most 5"):
        many.collate(fitted.model_copy(update={"max_length": 5}))


def test_encoding_and_decoding_are_inverse(many):
    ids = many.tokenizer.encode("OCC1CCC(F)CC1")
    assert ids[0] == BOS and ids[-1] == EOS and UNK not in ids
    assert many.tokenizer.text(ids) == selfies.encoder(Chem.CanonSmiles("OCC1CCC(F)CC1"))
    assert many.tokenizer.smiles(ids) == Chem.CanonSmiles("OCC1CCC(F)CC1")
    assert UNK in many.tokenizer.encode("CCI")
    with pytest.raises(DataError, match="not a SMILES"):
        many.tokenizer.encode("C(")


# --- batches -------------------------------------------------------------------------------------


def test_a_batch_is_its_molecules_one_after_another(many):
    collate = many.collate(config(many))
    items = many.indices("train")[[5, 2, 9, 0]]
    batch = collate(items)
    singles = [collate(items[i : i + 1]) for i in range(4)]
    for field in ("tokens", "targets", "positions", "lengths", "heavy_atoms"):
        together = [value for single in singles for value in getattr(single, field).tolist()]
        assert getattr(batch, field).tolist() == together
    assert batch.molecule.tolist() == [i for i in range(4) for _ in range(len(singles[i].tokens))]
    for single in singles:
        tokens, targets = single.tokens.tolist(), single.targets.tolist()
        assert tokens[0] == BOS and targets[-1] == EOS and tokens[1:] == targets[:-1]
        assert single.positions.tolist() == list(range(len(tokens)))
    heavy = [Chem.MolFromSmiles(text).GetNumHeavyAtoms() for text in smiles_of(many, items)]
    assert batch.heavy_atoms.tolist() == heavy
    assert batch.num_molecules == 4


@pytest.mark.parametrize("window", [None, 1, 3, 10, 100])
def test_pairs_are_those_that_a_causal_window_lets_through(window):
    sizes = np.array([1, 4, 11, 30])
    batch = TokenBatch.of(np.full(sizes.sum(), 5), sizes, sizes)
    visible = sum(
        min(query + 1, window or 1_000) for size in sizes for query in range(int(size) + 1)
    )
    assert batch.pairs(window) == visible


# --- real data -----------------------------------------------------------------------------------


def test_moses_molecules_survive_the_way_to_tokens_and_back(tmp_path):
    shared = Path(os.environ.get("CHEMSCALE_SHARED", Path(__file__).parents[4] / "shared"))
    source = shared / "data/molecules/moses_test.csv.gz"
    if not source.exists():
        pytest.skip(f"{source} is not there")
    with gzip.open(source, "rt") as stream:
        head = list(itertools.islice(stream, 2001))
    (tmp_path / "moses.csv").write_text("".join(head))
    dataset = read(tmp_path / "moses.csv")
    assert dataset.rejects == []
    given = list(dict.fromkeys(canonical([line.split(",")[0] for line in head[1:]])))
    assert sorted(smiles_of(dataset, np.arange(len(dataset.split)))) == sorted(given)
    assert 20 < len(dataset.vocabulary()) < 40
    shares = [len(dataset.indices(name)) / len(given) for name in ("train", "validation", "test")]
    assert np.allclose(shares, [0.85, 0.05, 0.1], atol=0.025)


def test_validation_may_be_judged_on_fewer_items_than_the_test_set(tmp_path):
    dataset = read(write(tmp_path / "a.csv", MANY), max_evaluated={"validation": 7})
    assert len(dataset.evaluated("validation")) == 7 < len(dataset.indices("validation"))
    assert len(dataset.evaluated("test")) == len(dataset.indices("test")) > 7
    with pytest.raises(ValidationError, match="train"):
        DatasetSpec(name="example-molecules", max_evaluated={"train": 7})
