"""The door: one command a stage. Results on standard output, progress on standard error.

Exit codes: 0 done, 1 failure, 2 usage, 3 input data rejected, 4 not identifiable, 75 stopped early
(run again to continue), 130 Ctrl-C.
"""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from chemscale import cli_exchange, cli_label, cli_planning, cli_using
from chemscale.cli_options import AsJson, ColumnNames, Constants, Sources
from chemscale.table.columns import pairs
from chemscale.table.errors import ChemscaleError, DataError, Stopped, UsageError

app = typer.Typer(
    name="chemscale",
    help="Measure how deep chemical models scale, and plan the next run before paying for it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class _Kind(StrEnum):
    families = "families"
    datasets = "datasets"
    executors = "executors"
    recipes = "recipes"


StudyPath = Annotated[
    Path, typer.Argument(metavar="STUDY", help="Study folder, its study.toml, or a plan in it.")
]


@app.command()
def quickstart(
    folder: Annotated[
        Path | None, typer.Argument(help="Where; default the next free quickstart-<n>.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
) -> None:
    """Do the whole job on the data that comes with the package.

    Example: chemscale quickstart
    """
    from chemscale.progress import watching
    from chemscale.quickstart import run

    with watching() as watch:
        path, words = run(folder, workers, watch)
    for line in words:
        print(line)
    print(f"\nThe report: {path}")


@app.command()
def expand(
    study: StudyPath,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time ten training steps of each size.")
    ] = False,
    rejects: Annotated[bool, typer.Option("--rejects", help="List the rows left out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print runs, FLOPs, memory, time and mistakes before training.

    Example: chemscale expand my-study --measure
    """
    from chemscale import tables, verbs
    from chemscale.progress import watching

    with watching() as watch:
        expansion = verbs.expand(study, measure=measure, watch=watch)
    if as_json:
        tables.print_json(tables.expansion_data(expansion))
    else:
        tables.print_expansion(expansion, rejects=rejects)


@app.command()
def prepare(
    source: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="csv, smi or parquet; gzip'd or not.")
    ],
    to: Annotated[Path, typer.Option(help="Folder of the token store.")],
    format: Annotated[
        str | None, typer.Option(help="csv, smi or parquet; default what the name says.")
    ] = None,
    column: Annotated[str, typer.Option(help="With the SMILES.")] = "smiles",
    notation: Annotated[str, typer.Option(help="selfies or smiles.")] = "selfies",
    fragments: Annotated[
        str, typer.Option(help="Salts and mixtures: reject, largest or keep.")
    ] = "reject",
    charges: Annotated[
        str, typer.Option(help="keep, or neutralize where protons allow it.")
    ] = "keep",
    stereo: Annotated[str, typer.Option(help="keep or drop.")] = "keep",
    group: Annotated[
        str, typer.Option(help="What stays in one split: content, scaffold, formula, a column.")
    ] = "content",
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turn any number of SMILES into a token store for a study. Again to continue.

    Example: chemscale prepare pubchem-*.smi.gz --to pubchem --fragments largest
    """
    from chemscale import preparation, tables
    from chemscale.progress import watching

    with watching() as watch:
        card = preparation.prepare(
            [str(path) for path in source],
            to,
            format=format,
            column=column,
            notation=notation,
            fragments=fragments,
            charges=charges,
            stereo=stereo,
            group=group,
            workers=workers,
            watch=watch,
        )
    if as_json:
        tables.print_json(card)
    else:
        tables.print_card(card, to)
    if not card.molecules:
        raise DataError(
            f"{to}: none of {card.rows:,} rows is a molecule that can be used. Remove this folder "
            "and name the column of the SMILES by --column, or the kind of file by --format"
        )
    if card.cut_off:
        raise DataError(
            f"could not be read to their end: {', '.join(card.cut_off)}; where they are damaged, "
            "get them again and prepare them into another folder"
        )


@app.command()
def train(
    study: StudyPath,
    on: Annotated[str, typer.Option(help="Executor; see `chemscale list executors`.")] = "local",
    chapter: Annotated[
        str | None, typer.Option(help="search: stop after it; sweep: only the sweep.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; by default one a GPU, else one a core.")
    ] = None,
    sbatch: Annotated[
        str | None,
        typer.Option(help="With --on slurm, options of sbatch: '--partition gpu --gres gpu:1'."),
    ] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Checkpoint and leave after this long (exit code 75).")
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            help="Train again what ended as: diverged, failed, out_of_memory, stopped_early."
        ),
    ] = None,
    ranks: Annotated[
        int, typer.Option(min=1, help="Processes (or GPUs) that train one run together.")
    ] = 1,
    shard: Annotated[
        bool, typer.Option("--shard", help="Spread weights and optimiser over the ranks (FSDP2).")
    ] = False,
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Keep less for the way back, compute it once more."),
    ] = False,
    compile_layers: Annotated[
        bool, typer.Option("--compile", help="Compile the layers with torch.compile.")
    ] = False,
) -> None:
    """Train what the study asks for and what is not done yet. Again to continue.

    Example: chemscale train my-study --max-hours 2
    """
    from chemscale import tables, verbs
    from chemscale.progress import watching

    resources = {"ranks": ranks, "shard": shard, "recompute": recompute, "compile": compile_layers}
    options = resources if sbatch is None else {**resources, "sbatch": sbatch}
    if sbatch is not None and on != "slurm":
        raise UsageError("--sbatch has options for SLURM's jobs: add --on slurm")
    if shard and ranks == 1:
        raise UsageError("--shard spreads a run over ranks: say how many by --ranks")
    allowed = ("diverged", "failed", "out_of_memory", "stopped_early")
    for status in retry or ():
        if status not in allowed:
            raise UsageError(f"--retry {status}: one of {', '.join(allowed)}")
    with watching() as watch:
        verbs.train(
            study,
            on=on,
            chapter=chapter,
            workers=workers,
            max_hours=max_hours,
            retry=retry or (),
            watch=watch,
            **{key: value for key, value in options.items() if value not in (False, 1)},
        )
    tables.print_trained(study)


cli_planning.register_estimate(app)


@app.command()
def fit(
    sources: Sources,
    metric: Annotated[str | None, typer.Option(help="The loss to fit.")] = None,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.9,
    columns: ColumnNames = None,
    constants: Constants = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV for what was read from tables and logs.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit how the loss falls with data and size, with intervals. Needs no torch.

    Example: chemscale fit my-study, or: chemscale fit curves.csv, or: chemscale fit lightning_logs
    """
    from chemscale import tables, verbs

    found = verbs.fit(
        sources,
        metric=metric,
        level=level,
        columns=pairs(columns or (), "--columns"),
        constants=pairs(constants or (), "--set"),
        table=table,
    )
    if as_json:
        tables.print_json(found)
    else:
        print("\n".join(tables.wrapped(str(found))))


cli_planning.register(app)


@app.command()
def report(
    sources: Sources,
    output: Annotated[
        Path | None,
        typer.Option(help="Default: report.html in STUDY, TABLE-report.html beside a table."),
    ] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for SVG and PNG figures.")] = None,
    metric: Annotated[str | None, typer.Option(help="The loss to fit in tables and logs.")] = None,
    columns: ColumnNames = None,
    constants: Constants = None,
) -> None:
    """Write one HTML file: what was found, and how sure it is. Needs no torch.

    Example: chemscale report my-study
    """
    from chemscale import reporting

    mapped = pairs(columns or (), "--columns")
    constant = pairs(constants or (), "--set")
    print(
        reporting.report(
            sources,
            output=output,
            figures=figures,
            columns=mapped,
            constants=constant,
            metric=metric,
        )
    )


@app.command("list")
def list_(
    what: Annotated[_Kind | None, typer.Argument(help="One kind only.")] = None,
    as_json: AsJson = False,
) -> None:
    """Name the families, datasets, executors and recipes there are.

    Example: chemscale list families
    """
    from chemscale import tables
    from chemscale.table.records import RECIPES
    from chemscale.table.registry import datasets, executors, families

    kinds = {
        "families": families.names(),
        "datasets": datasets.names(),
        "executors": executors.names(),
        "recipes": sorted(RECIPES),
    }
    if what is not None:
        kinds = {what.value: kinds[what.value]}
    if as_json:
        tables.print_json(kinds)
        return
    for kind, names in kinds.items():
        print(f"{kind}: {', '.join(names)}")


cli_using.register(app)
cli_exchange.register(app)
cli_label.register(app)


class _ToldToLeave(BaseException):
    """SIGTERM, as KeyboardInterrupt is Ctrl-C: nothing on the way may take it for less."""


def _leave(*_: object) -> None:
    raise _ToldToLeave


def main() -> None:
    """Run the command line; every foreseen failure is a sentence and an exit code."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        if app(standalone_mode=False) == 130:  # some versions of typer end on Ctrl-C with a value
            raise KeyboardInterrupt
    except ChemscaleError as error:
        print(f"chemscale: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        print(
            f"chemscale: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr
        )
        sys.exit(1)
    except _ToldToLeave:
        print("chemscale: told to leave; the same command continues", file=sys.stderr)
        sys.exit(Stopped.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print("chemscale: interrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # of the parser
            print(f"chemscale: {error.format_message()}", file=sys.stderr)
            sys.exit(error.exit_code)
        raise


if __name__ == "__main__":
    main()
