"""How a molecule is spelt: SELFIES symbols, or SMILES by atoms.

SELFIES (Krenn et al. 2020): each bracket is a symbol, and so is the dot between fragments.
SMILES: a bracket atom, Br, Cl and a ring number of two digits or more are one symbol, every other
character is one (after Schwaller et al. 2019). Both split without loss: the symbols, joined, are
the text.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from selfies import DecoderError, EncoderError, decoder, encoder

from chemscale.bench.building import TROUBLES, built
from chemscale.table.records import Notation

_SOURCE = Path(__file__).with_name("notation.cpp")
_SYMBOL = {
    "selfies": re.compile(r"\[[^\]]*\]?|[^\[]", re.DOTALL),
    "smiles": re.compile(r"\[[^\]]*\]|Br|Cl|%\d\d|%\(\d+\)|.", re.DOTALL | re.ASCII),
}


def spell(canonical: str, notation: Notation) -> str:
    """The text of a molecule in a notation, from its canonical SMILES.

    Raises:
        ValueError: the notation has no word for it; the message is the reason.
    """
    if notation == "smiles":
        return canonical
    try:
        return str(encoder(canonical))
    except EncoderError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1].strip()
        reason = reason.removeprefix("Reason: ").removeprefix("[").removesuffix("]")
        raise ValueError(f"no SELFIES: {reason}") from None
    except Exception as error:  # a fault of the library in one molecule must not cost all others
        raise ValueError(f"no SELFIES: {type(error).__name__} in selfies") from error


def unspell(text: str, notation: Notation) -> str:
    """A SMILES for a text, empty if there is none; RDKit need not accept it."""
    if notation == "smiles":
        return text
    try:
        return str(decoder(text))
    except DecoderError:
        return ""


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
    joined, known = "\n".join(texts).encode(), "\n".join(symbols).encode()
    assert joined.count(b"\n") == len(texts) - 1, "a line break in a text"
    ids = np.empty(len(joined) + 1, dtype=np.int32)
    counts = np.empty(len(texts), dtype=np.int64)
    total = shared.tokenize(
        notation == "smiles", joined, len(joined), len(texts), known, len(known), len(symbols),
        unknown, ids.ctypes.data, counts.ctypes.data,
    )  # fmt: skip
    return ids[:total].copy(), counts


@functools.cache
def library() -> ctypes.CDLL | None:
    """The native version; None, with a notice, where it is switched off or cannot be built."""
    if os.environ.get("CHEMSCALE_NATIVE") == "0":
        return None
    try:
        shared = ctypes.CDLL(str(built(_SOURCE)))
    except TROUBLES as error:
        logging.getLogger("chemscale").warning(
            "tokens without native code, several times slower: %s. A C++ compiler on the PATH "
            "brings it; CHEMSCALE_NATIVE=0 silences this.",
            getattr(error, "stderr", None) or error,
        )
        return None
    whole, text = ctypes.c_int64, ctypes.c_char_p
    place = ctypes.c_void_p
    shared.tokenize.restype = whole
    shared.tokenize.argtypes = [whole, text, whole, whole, text, whole, whole, whole, place, place]
    return shared
