"""How a molecule is spelt: SELFIES symbols, or SMILES by atoms.

SELFIES (Krenn et al. 2020): each bracket is a symbol, and so is the dot between fragments.
SMILES: a bracket atom, Br, Cl and a ring number of two digits or more are one symbol, every other
character is one (after Schwaller et al. 2019). Both split without loss: the symbols, joined, are
the text.
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import selfies
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from chemscale.bench import building
from chemscale.table.records import Notation

_SYMBOL = {
    "selfies": re.compile(r"\[[^\]]*\]?|[^\[]", re.DOTALL),
    "smiles": re.compile(r"\[[^\]]*\]|Br|Cl|%\d\d|%\(\d+\)|.", re.DOTALL | re.ASCII),
}


def spell(canonicals: Sequence[str], notation: Notation) -> list[str | ValueError]:
    """The texts of molecules in a notation, or why it has none, from their canonical SMILES."""
    if notation == "smiles":
        return list(canonicals)
    found = _native_selfies(canonicals)
    return [
        _selfies(one) if text is None else text for one, text in zip(canonicals, found, strict=True)
    ]


def _selfies(canonical: str) -> str | ValueError:
    try:
        return str(selfies.encoder(canonical))
    except selfies.EncoderError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        reason = reason.removeprefix("Reason: ").removeprefix("[").removesuffix("]")
        return ValueError(f"no SELFIES: {reason}")
    except Exception as error:  # a fault of the library in one molecule must not cost all others
        return ValueError(f"no SELFIES: {type(error).__name__} in selfies")


def _native_selfies(canonicals: Sequence[str]) -> list[str | None]:
    """What the native encoder writes: the same as `selfies`, or None where it does not say."""
    shared = library()
    if shared is None or not canonicals:
        return [None] * len(canonicals)
    joined = "\n".join(canonicals).encode()
    allowed = selfies.get_semantic_constraints()
    constraints = "".join(f"\n{key} {value}" for key, value in allowed.items()).encode()
    sizes = np.empty(len(canonicals), dtype=np.int64)
    capacity = 16 * len(joined) + 64
    out = ctypes.create_string_buffer(capacity)
    total = shared.spell(
        joined, len(joined), len(canonicals), constraints, out, capacity, sizes.ctypes.data
    )
    if total < 0:
        return [None] * len(canonicals)
    text = out.raw[:total].decode()
    ends = np.cumsum(np.maximum(sizes, 0)).tolist()
    return [
        text[end - size : end] if size > 0 else None
        for end, size in zip(ends, sizes.tolist(), strict=True)
    ]


def unspell(text: str, notation: Notation) -> str:
    """A SMILES for a text, empty if there is none; RDKit need not accept it."""
    if notation == "smiles":
        return text
    try:
        return str(selfies.decoder(text))
    except selfies.DecoderError:
        return ""


def canonical(smiles: str) -> str:
    """The canonical SMILES; empty where RDKit accepts none."""
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
        return "" if molecule is None else str(Chem.MolToSmiles(molecule))


def split(text: str, notation: Notation) -> list[str]:
    """The symbols of a text; joined they are the text again."""
    return _SYMBOL[notation].findall(text)


def tokenize(
    texts: Sequence[str], symbols: Sequence[str], notation: Notation, unknown: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Number the symbols of many texts.

    Args:
        texts: (M,) none holds a line break.
        symbols: by id.
        notation: of the texts.
        unknown: the id of what is not among the symbols.

    Returns:
        (S,) ids of all of them in order; (M,) how many each has.
    """
    shared = library()
    if shared is None or not texts:
        number = {symbol: index for index, symbol in enumerate(symbols)}
        rows = [[number.get(one, unknown) for one in split(text, notation)] for text in texts]
        flat = np.array([index for row in rows for index in row], dtype=np.int32)
        return flat, np.array([len(row) for row in rows], dtype=np.int64)
    joined, known = ("\n".join(lines).encode() for lines in (texts, symbols))
    assert joined.count(b"\n") == len(texts) - 1, "a line break in a text"
    ids = np.empty(len(joined) + 1, dtype=np.int32)
    margin = bytes(8)
    counts = np.empty(len(texts), dtype=np.int64)
    total = shared.tokenize(
        notation == "smiles", joined + margin, len(joined), len(texts), known + margin, len(known),
        len(symbols),
        unknown, ids.ctypes.data, counts.ctypes.data,
    )  # fmt: skip
    return ids[:total].copy(), counts


@functools.cache
def library() -> SimpleNamespace | None:
    """The native functions; None where they are switched off or cannot be built."""
    loss = "molecules without native code, several times slower"
    spelling = building.library(Path(__file__).with_name("selfies.cpp"), loss)
    splitting = spelling and building.library(Path(__file__).with_name("tokenize.cpp"), loss)
    if spelling is None or splitting is None:
        return None
    whole, text, place = ctypes.c_int64, ctypes.c_char_p, ctypes.c_void_p
    found = SimpleNamespace(spell=spelling.spell, tokenize=splitting.tokenize)
    found.spell.restype = found.tokenize.restype = whole
    found.spell.argtypes = [text, whole, whole, text, text, whole, place]
    found.tokenize.argtypes = [
        whole, text, whole, whole, text, whole, whole, whole, place, place
    ]  # fmt: skip
    return found
