"""Folders that `transformers` loads: five files and a card.

What `AutoModelForCausalLM`, `AutoTokenizer` and `pipeline` read is written without `transformers`.
`from_transformers` reads such folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch as safetensors

from chemscale.bench.data.token_batch import BOS, UNK
from chemscale.bench.data.tokens import SPECIAL
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import UsageError
from chemscale.table.files import write_folder

ROLES = ("pad", "bos", "eos", "unk")  # in the order of our first four symbols
PATTERN = {"selfies": r"\[[^\[\]]*\]", "smiles": r"\[[^\[\]]*\]|Br|Cl|%\d\d|%\(\d+\)|."}


def write(trained: TrainedModel, folder: Path, card: str) -> None:
    """Write a model as `transformers` reads it.

    Args:
        trained: the model.
        folder: where; it must not be there yet.
        card: the text of README.md.

    Raises:
        UsageError: the folder is there, or the family has no counterpart in transformers.
    """
    counterpart = trained.model.counterpart
    if counterpart is None:
        raise UsageError(f"{trained.family} has no counterpart in transformers")
    refuse_existing(folder)
    config = counterpart.to_config(trained.config)
    weights = {name: value.detach().cpu() for name, value in trained.model.state_dict().items()}
    named = counterpart.theirs(weights, trained.model.num_layers)
    del named[counterpart.output]  # tied: transformers takes the embedding
    told = {
        "architectures": [counterpart.architecture],
        "model_type": counterpart.model_type,
        "dtype": str(next(iter(named.values())).dtype).removeprefix("torch."),
        "notation": trained.notation,
        **config,
    }
    ids = {f"{role}_token_id": index for index, role in enumerate(ROLES[:3])}
    sampling = {"do_sample": True, "max_length": trained.max_length, **ids}
    names = {f"{role}_token": SPECIAL[index] for index, role in enumerate(ROLES)}
    tokens = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": trained.max_length,
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        **names,
    }
    write_folder(
        folder,
        {
            "config.json": _json(told),
            "generation_config.json": _json(sampling),
            "model.safetensors": safetensors.save(named, {"format": "pt"}),
            "tokenizer.json": _json(_tokenizer(trained)),
            "tokenizer_config.json": _json(tokens),
            "README.md": card.encode(),
        },
    )


def refuse_existing(folder: Path) -> None:
    """Write over nothing.

    Raises:
        UsageError: there is something already.
    """
    if folder.exists():
        raise UsageError(f"{folder}: is there already; name a folder that is not")


def _tokenizer(trained: TrainedModel) -> dict[str, Any]:
    """A whole word for each symbol; begins with <bos>, and does not end, so that it can go on."""
    bos = {"SpecialToken": {"id": SPECIAL[BOS], "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": index, "content": symbol, "special": True, "single_word": False,
             "lstrip": False, "rstrip": False, "normalized": False}
            for index, symbol in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": PATTERN[trained.notation]},
            "behavior": "Isolated",
            "invert": False,
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                bos,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 0}},
            ],
            "special_tokens": {
                SPECIAL[BOS]: {"id": SPECIAL[BOS], "ids": [BOS], "tokens": [SPECIAL[BOS]]}
            },
        },
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "WordLevel",
            "vocab": {symbol: index for index, symbol in enumerate(trained.symbols)},
            "unk_token": SPECIAL[UNK],
        },
    }  # fmt: skip


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, indent=1, ensure_ascii=False).encode() + b"\n"
