"""Points of several studies in one table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chemscale.table.records import Study
from chemscale.table.results import Point


def join(studies: Mapping[Path, tuple[Study, list[Point]]]) -> list[Point]:
    """Points of studies, told apart where they were trained otherwise.

    Studies that share data, recipe and budget are one ladder. A family that was trained in several
    ways bears the study's name behind its own, `painn (tuned)`, so that no law runs over both.

    Args:
        studies: by their folders, from which relative paths in a study start.
    """
    ways = {folder: _way(study, folder) for folder, (study, _) in studies.items()}
    names = Counter(study.name for study, _ in studies.values())
    kinds: dict[str, set[str]] = {}
    for folder, (_, points) in studies.items():
        for point in points:
            kinds.setdefault(point.family, set()).add(ways[folder])
    joined = []
    for folder, (study, points) in studies.items():
        name = study.name if names[study.name] == 1 else str(folder)
        joined += [
            point.model_copy(update={"family": f"{point.family} ({name})"})
            if len(kinds[point.family]) > 1
            else point
            for point in points
        ]
    return joined


def _way(study: Study, folder: Path) -> str:
    """How a study trains: what it has in common with studies that extend it."""

    def placed(value: Any) -> Any:
        if isinstance(value, str):
            return str((folder / Path(value).expanduser()).resolve())
        return [placed(one) for one in value] if isinstance(value, tuple | list) else value

    files = ("path", "validation", "test", "shift")
    dataset = study.dataset.model_copy(
        update={name: placed(getattr(study.dataset, name)) for name in files}
    )
    recipe = study.recipe.model_copy(
        update={"start_from": placed(study.recipe.start_from)}  # a mapping has names of its own
    )
    return repr((dataset, recipe, study.budget))
