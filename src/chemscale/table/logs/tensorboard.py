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
    parts = sorted({file.parent for file in folder.glob(f"*/{NAME}") if _is_part(file.parent)})
    row: Row = {"step": 0}
    for part in (*parts, folder):
        row |= (found := _read(part)) | {"step": max(row["step"], found["step"])}
    return [row | hparams(folder) | {"run": folder.as_posix()}]


def _is_part(folder: Path) -> bool:
    """Whether the folder is named by a time, as `add_hparams` does."""
    return re.fullmatch(r"\d+(\.\d+)?", folder.name) is not None


def _read(folder: Path) -> Row:
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError:
        raise MissingPackage.of("tensorboard", "track", str(folder)) from None

    events = EventAccumulator(str(folder), size_guidance={"scalars": 1, "tensors": 1})
    events.Reload()
    found = {tag: events.Scalars(tag)[-1] for tag in events.Tags()["scalars"]}
    row: Row = {tag: one.value for tag, one in found.items()}
    steps = [one.step for one in found.values()]
    for tag in events.Tags()["tensors"]:  # TensorFlow 2 writes scalars as tensors
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "scalars":
            last = events.Tensors(tag)[-1]
            row[tag] = float(make_ndarray(last.tensor_proto))
            steps.append(last.step)
    told: Row = {}
    for content in _contents(events, "hparams").values():
        for name, value in HParamsPluginData.FromString(content).session_start_info.hparams.items():
            kind = value.WhichOneof("kind")
            told[name] = getattr(value, kind) if kind else None
    return row | settings(told) | {"step": max(steps, default=0)}


def _contents(events: Any, plugin: str) -> dict[str, bytes]:
    try:
        return dict(events.PluginTagToContent(plugin))
    except KeyError:
        return {}
