"""Commands for trained models: generate, evaluate, embed, probe."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from chemscale.cli_options import AsJson
from chemscale.table.errors import UsageError

ModelPath = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Folder of a run, or a study: its best model.")
]
Molecules = Annotated[
    Path, typer.Argument(metavar="FILE", help="Molecules: CSV, Parquet, list of SMILES; .gz too.")
]
Column = Annotated[str, typer.Option(help="Of the SMILES, in any case.")]
Layer = Annotated[
    int | None, typer.Option(help="After which layer; 0: symbols; -1: the last. Default: output.")
]
Temperature = Annotated[float, typer.Option(help="Below 1 closer to the likeliest; 0: that only.")]
TopK = Annotated[int | None, typer.Option(help="Only the k likeliest symbols each time.")]
TopP = Annotated[float | None, typer.Option(help="Only the likeliest symbols up to this chance.")]
Seed = Annotated[int, typer.Option(help="Of the random numbers.")]
BatchSize = Annotated[int, typer.Option(help="Molecules at once.")]
MaxRejected = Annotated[float, typer.Option(help="Share of molecules that may be left out.")]


class _Pooling(StrEnum):
    mean = "mean"
    max = "max"
    last = "last"


class _Unknown(StrEnum):
    reject = "reject"
    keep = "keep"


Pooling = Annotated[_Pooling, typer.Option(help="Over the symbols.")]
Unknown = Annotated[
    _Unknown, typer.Option(help="Molecules with symbols that the model does not know.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (generate, evaluate, embed, probe):
        app.command()(command)


def generate(
    model: ModelPath,
    count: Annotated[int, typer.Option(help="Molecules, for each prompt.")] = 100,
    prompt: Annotated[
        list[str] | None, typer.Option(help="How they begin: SMILES or SELFIES; may be repeated.")
    ] = None,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    max_length: Annotated[int | None, typer.Option(help="The most symbols and one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write new molecules, one SMILES a line.

    How many were usable goes to standard error.

    Example: chemscale generate my-study --count 1000 --prompt 'c1ccc(-c2ccccn2)cc1'
    """
    from chemscale import tables, using
    from chemscale.progress import watching

    with watching() as watch:
        trained = using.language_model(model, watch)
        samples = using.generate(
            trained, count, prompts=prompt or (), temperature=temperature, top_k=top_k,
            top_p=top_p, seed=seed, batch_size=batch_size, max_length=max_length, watch=watch,
        )  # fmt: skip
    if as_json:
        tables.print_json(samples)
    else:
        for one in samples:
            if one.smiles:
                print(one.smiles)
    for text in dict.fromkeys(one.prompt for one in samples):
        mine = [one for one in samples if one.prompt == text]
        valid = [one for one in mine if one.smiles]
        distinct = len({one.smiles for one in valid})
        said = (
            f"{len(valid):,} of {len(mine):,} usable ({distinct:,} distinct); "
            f"{sum(not one.finished for one in mine):,} did not end"
        )
        if text and valid:
            share = sum(one.keeps is True for one in valid) / len(valid)
            said += f"; {share:.1%} of the usable ones keep {text}"
        print(f"{trained.name}: {said}", file=sys.stderr)


def evaluate(
    source: Annotated[
        Path,
        typer.Argument(metavar="STUDY", help="Study, folder of a run, or a file of molecules."),
    ],
    against: Annotated[
        Path | None, typer.Option(help="With a file of molecules: the reference, a file too.")
    ] = None,
    samples: Annotated[
        int, typer.Option(help="From each model; or molecules of a file, structures of a split.")
    ] = 10_000,
    dynamics: Annotated[
        float, typer.Option(help="Potentials: ps of dynamics at constant energy, from 300 K.")
    ] = 0.0,
    temperature: Temperature = 1.0,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    column: Column = "smiles",
    as_json: AsJson = False,
) -> None:
    """Say what every trained model of a study is good for.

    Samples of language models, errors of potentials.

    Example: chemscale evaluate my-study, with potentials: chemscale evaluate my-study --dynamics 5,
    or: chemscale evaluate mine.smi --against test.csv.gz
    """
    from chemscale import evaluation, tables, tables_using
    from chemscale.progress import watching

    is_study = source.is_dir() or source.suffix == ".toml"
    if is_study == (against is not None):
        raise UsageError(f"{source}: --against goes with a file of molecules, and only with one")
    with watching() as watch:
        if against is None:
            found = evaluation.evaluate(
                source, num_samples=samples, temperature=temperature, top_k=top_k, top_p=top_p,
                seed=seed, batch_size=batch_size, dynamics=dynamics, watch=watch,
            )  # fmt: skip
        else:
            sets = [_some(path, column, samples) for path in (source, against)]
            measured = evaluation.compare(*sets, watch=watch)
    if against is not None:
        counts = {"molecules": len(sets[0]), "reference": len(sets[1])}
        if as_json:
            tables.print_json(counts | measured)
        else:
            for name, value in (counts | measured).items():
                print(f"  {name:<20} {value:,}" if name in counts else f"  {name:<20} {value:.4g}")
    elif as_json:
        tables.print_json(found)
    else:
        tables_using.print_evaluation(found, source)


def embed(
    model: ModelPath,
    molecules: Molecules,
    output: Annotated[
        Path | None, typer.Option(help="A .npy file: a row for each of FILE, NaN without a vector.")
    ] = None,
    nearest: Annotated[
        list[str] | None, typer.Option(help="Find the nearest to this SMILES; may be repeated.")
    ] = None,
    count: Annotated[int, typer.Option(help="With --nearest: how many.")] = 5,
    layer: Layer = None,
    pooling: Pooling = _Pooling.mean,
    unknown: Unknown = _Unknown.reject,
    max_rejected: MaxRejected = 0.01,
    column: Column = "smiles",
) -> None:
    """Turn molecules into vectors; find the nearest by cosine.

    Example: chemscale embed my-study library.csv --output vectors.npy --nearest 'CCOc1ccccc1'
    """
    from chemscale import using
    from chemscale.progress import watching

    if output is None and not nearest:
        raise UsageError("embed: give --output FILE.npy, --nearest SMILES, or both")
    using.need_bench()
    import numpy as np

    from chemscale.bench.data.molecule_files import read_smiles
    from chemscale.bench.using.embed import nearest as nearest_of

    texts = read_smiles(molecules, column)
    settings: dict[str, Any] = {"layer": layer, "pooling": pooling.value, "unknown": unknown.value}
    with watching() as watch:
        trained = using.language_model(model, watch)
        asked = None
        if nearest:
            asked = using.embed(trained, nearest, max_rejected=0, source="--nearest", **settings)
        found = using.embed(
            trained, texts, max_rejected=max_rejected, source=molecules.name, watch=watch,
            **settings,
        )  # fmt: skip
    _tell_left_out(found.rejects, len(texts))
    if output is not None:
        vectors = np.full((len(texts), found.vectors.shape[1]), np.nan, np.float32)
        vectors[found.rows] = found.vectors
        with output.open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
        print(f"{len(found.rows):,} vectors of {vectors.shape[1]} in {output}")
    if asked is not None:
        places, cosines = nearest_of(asked.vectors, found.vectors, count)
        for query, near, how in zip(nearest or (), places, cosines, strict=True):
            print(f"nearest to {query}:")
            for place, cosine in zip(near, how, strict=True):
                row = int(found.rows[place])
                print(f"  {cosine:.4f}  row {row + 1}  {texts[row]}")


def probe(
    model: ModelPath,
    molecules: Molecules,
    target: Annotated[
        list[str] | None, typer.Option(help="Column to tell; several of one kind are averaged.")
    ] = None,
    splits: Annotated[int, typer.Option(help="By scaffold, a fifth held out in each.")] = 3,
    layer: Layer = None,
    pooling: Pooling = _Pooling.mean,
    unknown: Unknown = _Unknown.keep,
    max_rejected: MaxRejected = 0.05,
    column: Column = "smiles",
    as_json: AsJson = False,
) -> None:
    """Tell properties from frozen embeddings.

    Beside Morgan fingerprints, on unseen scaffolds.

    Example: chemscale probe my-study esol.csv --target solubility
    """
    from chemscale import tables, tables_using, using
    from chemscale.progress import watching

    if not target:
        raise UsageError("probe: name at least one column, --target NAME")
    using.need_bench()
    from chemscale.bench.data.molecule_files import read_smiles, read_targets

    texts, values = read_smiles(molecules, column), read_targets(molecules, column, target)
    with watching() as watch:
        found = using.probe(
            model, texts, values, num_splits=splits, layer=layer, pooling=pooling.value,
            unknown=unknown.value, max_rejected=max_rejected, source=molecules.name, watch=watch,
        )  # fmt: skip
    _tell_left_out(found.rejects, len(texts))
    if as_json:
        counts = {"num_molecules": found.num_molecules, "num_unknown": found.num_unknown}
        tables.print_json({**counts, "scores": found.scores})
    else:
        tables_using.print_probed(found)


def _some(path: Path, column: str, count: int) -> list[str]:
    """The rows of lowest hash, so that any file gives a fair sample."""
    from chemscale import using

    using.need_bench()
    from chemscale.bench.data.molecule_files import read_smiles

    def place(text: str) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    return sorted(read_smiles(path, column), key=place)[:count]


def _tell_left_out(rejects: Any, total: int) -> None:
    if not rejects:
        return
    reasons = Counter(reject.reason for reject in rejects)
    print(f"{len(rejects):,} of {total:,} molecules left out:", file=sys.stderr)
    for reason, number in reasons.most_common(10):
        print(f"  {number:,}: {reason}", file=sys.stderr)
    if len(reasons) > 10:
        print(f"  and {len(reasons) - 10:,} other reasons", file=sys.stderr)
