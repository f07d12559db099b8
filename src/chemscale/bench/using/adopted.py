"""A folder with a model that no run of ours trained: `model.json` and `weights.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch as safetensors
import torch

from chemscale.bench.data.encoding import Choices
from chemscale.bench.data.tokens import Tokenizer
from chemscale.bench.models.base import LanguageModel, build, load_family
from chemscale.bench.training.devices import default_device
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.adopted import FILE, Adopted, read
from chemscale.table.files import write_folder
from chemscale.table.records import FORMAT


def write(folder: Path, trained: TrainedModel, adopted: Adopted, card: str) -> None:
    """Write a model as a folder that is not there yet, whole."""
    weights = {k: v.detach().cpu().contiguous() for k, v in trained.model.state_dict().items()}
    told = {"format": FORMAT, **adopted.model_dump(mode="json")}
    files = {
        FILE: json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n",
        "weights.safetensors": safetensors.save(weights),
        "README.md": card.encode(),
    }
    write_folder(folder, files)


def load(folder: Path) -> TrainedModel:
    """The model of an adopted folder, ready to be used.

    Raises:
        StoreError: a file is missing, or is of a later version.
    """
    told = read(folder)
    kind = load_family(told.family)
    model = build(kind, kind.Config.read(told.config, f"{folder / FILE}"), 0, torch.float32)
    assert isinstance(model, LanguageModel)
    model.load_state_dict(safetensors.load((folder / "weights.safetensors").read_bytes()))
    model = model.to(default_device()).eval()
    return TrainedModel(
        folder.name, told.family, model, Tokenizer(told.symbols, Choices(told.notation))
    )
