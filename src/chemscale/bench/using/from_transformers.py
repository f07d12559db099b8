"""Models from folders of `transformers`, with what is wrong put right and named.

Read without `transformers`. Pickles are never opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch as safetensors
import torch
import torch.nn.functional as F
from selfies import DecoderError, decoder
from selfies.compatibility import modernize_symbol
from torch import Tensor

from chemscale.bench.data.encoding import Choices
from chemscale.bench.data.tokens import SPECIAL, Tokenizer
from chemscale.bench.models.base import LanguageModel, build, load_family
from chemscale.bench.models.counterpart import Counterpart
from chemscale.bench.training.devices import default_device
from chemscale.bench.using.gate import known_molecules
from chemscale.bench.using.to_transformers import ROLES
from chemscale.bench.using.trained import TrainedModel
from chemscale.table.errors import DataError
from chemscale.table.records import Notation
from chemscale.table.registry import families

EMBEDDING = "symbols.weight"
# What the special tokens are called where nobody says: BERT's way, as in the released ChemGPT, ours
# and that of Llama.
USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "bos": ("[CLS]", "<bos>", "<s>"),
    "eos": ("[SEP]", "<eos>", "</s>"),
    "unk": ("[UNK]", "<unk>"),
}
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
BRACKET = re.compile(r"\[[^\[\]]+\]")  # a symbol of SELFIES
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('pytorch_model.bin', "
    "weights_only=True); s.save_file({k: v.clone() for k, v in w.items()}, 'model.safetensors')\""
)


@dataclass(frozen=True)
class Found:
    """A model read from a folder of transformers."""

    trained: TrainedModel
    repairs: tuple[str, ...]  # what was changed, a sentence each
    limits: tuple[str, ...]  # what it cannot do, a sentence each


def read(folder: Path) -> Found:
    """Read a folder of transformers: a ChemGPT as it was released, or what `write` wrote.

    Raises:
        DataError: what is wrong and cannot be put right.
    """
    try:
        return _read(folder)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from None


def _read(folder: Path) -> Found:
    told = _read_json(folder, "config.json")
    weights = _weights(folder)
    name, counterpart = _family(told)
    config: Any = counterpart.from_config(told)
    ours = counterpart.ours(weights, config.num_layers)
    ours = {key: value.float() for key, value in ours.items()}
    kind = load_family(name)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in kind(config).state_dict().items()}
    _refuse_misfits(ours, shapes)
    words = _words(_read_json(folder, "tokenizer.json"))
    optional = folder / "tokenizer_config.json"
    named = _read_json(folder, optional.name) if optional.exists() else {}
    rows, vocabulary, repairs, notation = _vocabulary(words, told, named, len(ours[EMBEDDING]))
    whole = ours[EMBEDDING]
    ours[EMBEDDING] = whole[rows].contiguous()
    config = config.model_copy(update={"vocab_size": len(rows)})
    model = build(kind, config, 0, torch.float32)
    assert isinstance(model, LanguageModel)
    model.load_state_dict(ours)
    model = model.to(default_device()).eval()
    trained = TrainedModel(folder.name, name, model, Tokenizer(vocabulary, Choices(notation)))
    if len(rows) < len(whole):
        lost = _lost_chance(trained, whole, rows)
        if lost is not None:
            repairs.append(f"what was dropped had {lost:.1e} of the chance on bundled molecules")
    return Found(trained, tuple(repairs), tuple(_limits(vocabulary)))


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / name).read_text())
    except FileNotFoundError:
        raise DataError(f"no {name} here") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{name} cannot be read: {error}") from None
    return found


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the parts that its index names."""
    names = ["model.safetensors"]
    if (folder / "model.safetensors.index.json").exists():
        index = _read_json(folder, "model.safetensors.index.json")["weight_map"]
        names = sorted(set(index.values()))
    found: dict[str, Tensor] = {}
    for name in names:
        try:
            found |= safetensors.load((folder / name).read_bytes())
        except FileNotFoundError:
            if any((folder / pickle).exists() for pickle in PICKLES):
                raise DataError(
                    "the weights are a pickle, which may run anything when it is opened. In that "
                    f"folder, if you trust it:\n  {CONVERT}"
                ) from None
            raise DataError(f"no {name} here") from None
        except Exception as error:  # whatever a broken file makes the library say
            raise DataError(f"{name} cannot be read: {error}") from None
    return found


def _family(told: Mapping[str, Any]) -> tuple[str, Counterpart]:
    known = []
    for name in families.names():
        counterpart = load_family(name).counterpart
        if counterpart is None:
            continue
        if counterpart.model_type == told.get("model_type"):
            return name, counterpart
        known.append(counterpart.model_type)
    raise DataError(
        f"config.json: model_type {told.get('model_type')!r} is no family of ours; known: "
        f"{', '.join(sorted(set(known)))}"
    )


def _refuse_misfits(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise DataError(
                f"config.json asks for {name} of {tuple(shape)}, the weights have "
                f"{tuple(weights[name].shape)}: they do not belong together"
            )
        if not torch.isfinite(weights[name]).all():
            raise DataError(f"{name} has values that are no numbers: the weights are broken")


def _words(tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Every symbol with its id."""
    kind = tokenizer.get("model", {}).get("type")
    if kind not in ("WordLevel", "WordPiece"):
        raise DataError(f"tokenizer.json: a {kind} tokeniser; its tokens are no symbols of SELFIES")
    words = dict(tokenizer["model"]["vocab"])
    return words | {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}


def _vocabulary(
    words: Mapping[str, int], told: Mapping[str, Any], named: Mapping[str, Any], num_rows: int
) -> tuple[list[int], tuple[str, ...], list[str], Notation]:
    """Which row of the embedding is which symbol of ours: rows, symbols, repairs, notation."""
    if (last := max(words.values())) >= num_rows:
        raise DataError(
            f"tokenizer.json numbers {len(words)} symbols up to {last}, but the weights have "
            f"{num_rows} rows: they do not belong together"
        )
    repairs: list[str] = []
    special = [_special(role, words, told, named, repairs) for role in ROLES]
    spelt = told.get("notation") or ("selfies" if "[C]" in words else "smiles")
    notation: Notation = "smiles" if spelt == "smiles" else "selfies"
    if notation == "smiles" and "C" not in words:
        raise DataError("tokenizer.json: its symbols are neither SELFIES nor SMILES")
    symbols: dict[str, int] = {}
    renamed, twice, pieces = [], [], []
    for word, index in sorted(words.items(), key=lambda item: item[1]):
        if index in special:
            continue
        whole = BRACKET.fullmatch(word) or word == "." if notation == "selfies" else True
        symbol = modernize_symbol(word) if notation == "selfies" and whole else word
        if word in ("[MASK]", *SPECIAL) or not whole or not _is_symbol(symbol, notation):
            pieces.append(word)
        elif symbol in symbols:
            twice.append(word)
        else:
            symbols[symbol] = index
            if symbol != word:
                renamed.append(word)
    if extra := num_rows - len(set(words.values())):
        repairs.append(f"{extra} rows of the embedding have no symbol and were dropped")
    if pieces:
        repairs.append(
            f"{len(pieces)} tokens are no symbols of {notation.upper()} and were dropped: "
            f"{_some(pieces)}"
        )
    if renamed:
        repairs.append(
            f"{len(renamed)} symbols of SELFIES 1 go by their names in SELFIES 2: {_some(renamed)}"
        )
    if twice:
        repairs.append(
            f"{len(twice)} have the new name of another and were dropped: {_some(twice)}"
        )
    return [*special, *symbols.values()], (*SPECIAL, *symbols), repairs, notation


def _special(
    role: str,
    words: Mapping[str, int],
    told: Mapping[str, Any],
    named: Mapping[str, Any],
    repairs: list[str],
) -> int:
    """The id of a special token: as the tokeniser names it, the config numbers it, or as usual."""
    given = named.get(f"{role}_token")
    name = given.get("content") if isinstance(given, Mapping) else given
    if name is None:
        name = next((usual for usual in USUAL[role] if usual in words), None)
    if name is None or name not in words:
        raise DataError(
            f"tokenizer.json: no {role} token ({', '.join(USUAL[role])}); {NEEDS[role]}"
        )
    index = words[name]
    key = f"{role}_token_id"
    number = told.get(key)
    if role != "unk" and number != index:
        why = "is not said" if number is None else f"is {number}"
        if number is not None and number > max(words.values()):
            why += f", outside the vocabulary of {len(words)}"
        repairs.append(f"{key} {why}: it is {index}, {name}")
    return index


NEEDS = {
    "pad": "molecules of unequal length need one",
    "bos": "generation begins with it",
    "eos": "generation would not stop",
    "unk": "it stands for symbols never seen",
}


def _is_symbol(word: str, notation: str) -> bool:
    if notation == "smiles":
        return not word.startswith("##")
    try:
        decoder(f"[C]{word}")
    except DecoderError:
        return False
    return True


def _some(names: list[str]) -> str:
    return " ".join(names[:4]) + (" …" if len(names) > 4 else "")


def _limits(vocabulary: tuple[str, ...]) -> list[str]:
    if any("@" in symbol for symbol in vocabulary):
        return []
    return [
        "no symbols for stereo centres: molecules with them have unknown symbols, so take stereo "
        "off first"
    ]


@torch.no_grad()
def _lost_chance(trained: TrainedModel, embedding: Tensor, rows: list[int]) -> float | None:
    """The chance, on bundled molecules, of what is not in the vocabulary any more."""
    batch, _ = known_molecules(trained)
    if batch is None:
        return None
    device = next(trained.model.parameters()).device
    features = trained.model.features(batch.to(device))
    chances = F.linear(features, embedding.to(device)).softmax(dim=1)
    kept = torch.tensor(rows, device=device)
    return float((1 - chances[:, kept].double().sum(dim=1)).clamp(min=0).mean())
