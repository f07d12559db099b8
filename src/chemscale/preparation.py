"""The verb `prepare`: files of molecules, encoded once into a store that studies name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chemscale.progress import Watch, preparing, quiet
from chemscale.table.errors import MissingPackage, UsageError

if TYPE_CHECKING:
    from chemscale.bench.data.prepare import Card


def prepare(
    source: str | Path | Sequence[str | Path],
    to: str | Path,
    *,
    format: str | None = None,
    column: str = "smiles",
    notation: str = "selfies",
    fragments: str = "reject",
    charges: str = "keep",
    stereo: str = "keep",
    group: str = "content",
    workers: int | None = None,
    watch: Watch = quiet,
) -> Card:
    """Encode molecules once into a folder that a study can name; after a kill, go on.

    Args:
        source: files, or globs of them.
        to: folder of the token store.
        format: csv, smi or parquet; by default what the name of the first file says.
        column: with the SMILES.
        notation: selfies or smiles.
        fragments: reject molecules of several, take the largest, or keep them with their dots.
        charges: keep, or neutralize where protons allow it.
        stereo: keep or drop.
        group: what stays in one split: content, scaffold, formula, or a column.
        workers: processes; by default one a core.
        watch: told about progress.

    Raises:
        DataError: a file cannot be read, lacks a column, or holds no molecule.
        StoreError: the folder holds something else.
    """
    with MissingPackage.told("train", "preparing molecules"):
        from chemscale.bench.data.base import resolve_paths
        from chemscale.bench.data.encoding import Choices
        from chemscale.bench.data.molecule_files import FORMS, form_of
        from chemscale.bench.data.prepare import prepare as encode_once

    choices = Choices(notation, fragments, charges, stereo, group)  # type: ignore[arg-type]
    given = [source] if isinstance(source, str | Path) else list(source)
    files = resolve_paths([str(path) for path in given], Path())
    form = format or form_of(files[0])
    if form is None:
        raise UsageError(
            f"{files[0]}: not named as {', '.join(FORMS)}; say csv, smi or parquet with --format. "
            "Structures need no preparing: name them in a study, and `chemscale expand` reads them "
            "and tells what they hold"
        )
    if form not in ("csv", "smi", "parquet"):
        raise UsageError(f"no format named {form!r}: csv, smi or parquet")

    with preparing(watch) as progress:
        return encode_once(
            Path(to), files, form, column, choices, workers=workers, progress=progress
        ).card
