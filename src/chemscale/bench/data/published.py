r"""The tokenisers that were published with ChemGPT, id for id ("paper mode").

Frey et al. released two `tokenizer.json`: 684 symbols spelt as in SELFIES 1, 669 as in SELFIES 2
(github.com/ncfrey/litmatter). Both are WordPiece over brackets: a symbol that is not in the
vocabulary silently falls apart into pieces, or becomes `[UNK]`. Their limits: no symbol for
stereochemistry (`@`, `/`, `\`) and none for the dot, so a molecule is reduced to its largest
fragment without stereochemistry; and no token is declared to stop or to pad, though `[SEP]` and
`[PAD]` stand in the vocabulary. Datasets here ("fixed mode") have a symbol for all that training
molecules hold, and a stop and a pad token of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chemscale.bench.data.encoding import Choices, read
from chemscale.bench.data.notation import spell, split, unspell
from chemscale.table.errors import DataError

_CHOICES = Choices(fragments="largest", stereo="drop")
_BARE = ("B", "C", "N", "O", "S", "P", "F", "Cl", "Br", "I")
_OLD_BONDS = {"": "1", "=": "2", "#": "3"}


@dataclass(frozen=True)
class PublishedTokenizer:
    """One of the two, read from its file."""

    vocabulary: dict[str, int]
    longest: int  # characters; a longer symbol is unknown

    @classmethod
    def read(cls, path: Path) -> PublishedTokenizer:
        """Read `tokenizer.json`.

        Raises:
            DataError: it is not of this kind.
        """
        try:
            told = json.loads(path.read_text())
            model = told["model"]
            alike = (
                model["type"] == "WordPiece"
                and model["continuing_subword_prefix"] == "##"
                and model["unk_token"] == "[UNK]"
                and told["pre_tokenizer"]["pattern"]["Regex"] == r"\[(.*?)\]"
                and {"[CLS]", "[SEP]", "[PAD]", "[UNK]"} <= set(model["vocab"])
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not a published tokenizer.json: {error!r}") from error
        if not alike:
            raise DataError(f"{path}: not WordPiece over brackets, as the published ones are")
        return cls(model["vocab"], model["max_input_chars_per_word"])

    @cached_property
    def old(self) -> bool:
        """Whether symbols are spelt as in SELFIES 1."""
        return "[Branch1_1]" in self.vocabulary

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """All entries by id."""
        return tuple(sorted(self.vocabulary, key=self.vocabulary.__getitem__))

    def spell(self, smiles: str) -> str:
        """SELFIES of the largest fragment without stereochemistry, spelt as in the vocabulary.

        Raises:
            DataError: it cannot be read, or has no SELFIES.
        """
        try:
            (text,) = spell([read(smiles, _CHOICES).canonical], "selfies")
        except ValueError as error:
            raise DataError(f"{smiles[:200]!r}: {error}") from None
        if isinstance(text, ValueError):
            raise DataError(f"{smiles[:200]!r}: {text}")
        return "".join(map(old_symbol, split(text, "selfies"))) if self.old else text

    def encode(self, smiles: str) -> list[int]:
        """Ids of a molecule, from `[CLS]` to `[SEP]`."""
        return self.ids(self.spell(smiles))

    def ids(self, text: str) -> list[int]:
        """Ids of a text of SELFIES, from `[CLS]` to `[SEP]`."""
        words = [word for word in re.split(r"(\[.*?\])", text) if word]
        inner = [index for word in words for index in self._pieces(word)]
        return [self.vocabulary["[CLS]"], *inner, self.vocabulary["[SEP]"]]

    def smiles(self, ids: Iterable[int]) -> str:
        """A SMILES for ids up to the first `[SEP]`, empty if there is none."""
        parts = []
        for index in ids:
            entry = self.symbols[index]
            if entry == "[SEP]":
                break
            if entry not in ("[CLS]", "[PAD]", "[UNK]", "[MASK]"):
                parts.append(entry.removeprefix("##") if entry != "###" else "#")
        text = "".join(parts)
        if self.old:
            text = "".join(map(new_symbol, split(text, "selfies")))
        return unspell(text, "selfies")

    @cached_property
    def _known(self) -> dict[str, list[int]]:
        return {}

    def _pieces(self, word: str) -> list[int]:
        """The ids of a word: its own, or those of the longest pieces from the left."""
        if word not in self._known:
            self._known[word] = self._parts(word)
        return self._known[word]

    def _parts(self, word: str) -> list[int]:
        unknown = [self.vocabulary["[UNK]"]]
        if len(word) > self.longest:
            return unknown
        found, begin = [], 0
        while begin < len(word):
            mark = "##" if begin else ""
            for end in range(len(word), begin, -1):
                index = self.vocabulary.get(mark + word[begin:end])
                if index is not None:
                    found.append(index)
                    begin = end
                    break
            else:
                return unknown
        return found


def old_symbol(symbol: str) -> str:
    """A symbol of SELFIES 2 in SELFIES 1: `[=Branch1]` is `[Branch1_2]`, `[O-1]` is `[O-expl]`."""
    inner = symbol[1:-1]
    bond = inner[:1] if inner[:1] in ("=", "#", "/", "\\") else ""
    atom = inner[len(bond) :]
    if atom.startswith("Branch"):
        return f"[{atom}_{_OLD_BONDS[bond]}]"
    if atom.startswith("Ring"):
        return f"[Expl{bond}{atom}]" if bond else symbol
    if symbol == "." or atom in _BARE:
        return symbol
    atom = re.sub(r"H0$", "", atom)
    atom = re.sub(r"H1(?=$|[+-])", "H", atom)
    atom = re.sub(r"([+-])1$", r"\1", atom)
    return f"[{bond}{atom}expl]"


def new_symbol(symbol: str) -> str:
    """How SELFIES 2 spells a symbol of SELFIES 1."""
    from selfies.compatibility import modernize_symbol

    return str(modernize_symbol(symbol))
