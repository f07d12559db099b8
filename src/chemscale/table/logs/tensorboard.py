"""TensorBoard: the event files of a folder are one run, with `hparams.yaml` as Lightning's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chemscale.table.errors import MissingPackage
from chemscale.table.logs.lightning import hparams
from chemscale.table.logs.rows import Row, settings

NAME = "events.out.tfevents.*"


def holds(path: Path) -> bool:
    """Whether this starts a run, and is no part of one: `add_hparams` makes a folder inside."""
    return not (_is_part(path.parent) and any(path.parent.parent.glob(NAME)))


def read(files: Sequence[Path]) -> list[Row]:
    """One row: the last of every scalar, and what `add_hparams` told.

    Raises:
        MissingPackage: tensorboard is not installed.
    """
    folder = files[0].parent
    row: Row = {"step": 0}
    for part in (*_parts(folder), folder):
        scalars, told = _read(part, 1)
        row |= {tag: points[-1][1] for tag, points in scalars.items()} | told
        row["step"] = max([row["step"], *(points[-1][0] for points in scalars.values())])
    return [row | hparams(folder) | {"run": folder.as_posix()}]


def history(path: Path) -> list[Row]:
    """A row for each step at which a scalar was written; all files of a folder are one run."""
    folder = path.parent
    if path != min(folder.glob(NAME)):
        return []
    told: Row = {}
    for part in (*_parts(folder), folder):
        scalars, settings_there = _read(part, 0)
        told |= settings_there
    steps: dict[int, Row] = {}
    for tag, points in scalars.items():
        for step, value in points:
            steps.setdefault(step, {"step": step})[tag] = value
    told |= hparams(folder) | {"run": folder.as_posix()}
    return [row | told for _, row in sorted(steps.items())]


def _parts(folder: Path) -> list[Path]:
    return sorted({file.parent for file in folder.glob(f"*/{NAME}") if _is_part(file.parent)})


def _is_part(folder: Path) -> bool:
    """Whether the folder is named by a time, as `add_hparams` does."""
    return re.fullmatch(r"\d+(\.\d+)?", folder.name) is not None


def _read(folder: Path, most: int) -> tuple[dict[str, list[tuple[int, float]]], Row]:
    """Steps and values of each scalar, the last `most` of them or with 0 all; and settings."""
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise MissingPackage.of("tensorboard", "track", str(folder)) from None

    events = EventAccumulator(str(folder), size_guidance={"scalars": most, "tensors": most})
    events.Reload()
    found = {
        tag: [(one.step, one.value) for one in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }
    for tag in events.Tags()["tensors"]:  # TensorFlow 2 writes scalars as tensors
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            found[tag] = [
                (one.step, float(make_ndarray(one.tensor_proto))) for one in events.Tensors(tag)
            ]
    told: Row = {}
    for content in _contents(events, "hparams").values():
        for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
            kind = value.WhichOneof("kind")
            told[name] = getattr(value, kind) if kind else None
    return found, settings(told)


def _contents(events: Any, plugin: str) -> dict[str, bytes]:
    try:
        return dict(events.PluginTagToContent(plugin))
    except KeyError:
        return {}
