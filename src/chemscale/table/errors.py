"""Everything that can go wrong and is not our own mistake.

ChemscaleError             exit 1   a failure with a sentence for the reader
├── UsageError             exit 2   the request cannot be understood
│   ├── UnknownName        exit 2   a name that nobody registered
│   └── StudyError         exit 2   a study file with mistakes, all of them listed
├── DataError              exit 3   input data rejected
├── NotIdentified          exit 4   the data do not determine the answer
├── StoreError             exit 1   the study folder cannot be read or written
├── MissingPackage         exit 1   an optional package is needed; names the pip line
└── Stopped                exit 75  stopped early on purpose; run again to continue
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class ChemscaleError(Exception):
    """A failure with a sentence for the reader."""

    exit_code = 1


class UsageError(ChemscaleError):
    """The request cannot be understood."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that nobody registered."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], where: str = "") -> UnknownName:
        """Say which name is unknown, what was probably meant, and what there is."""
        return cls(f"{where + ': ' if where else ''}no {kind} named {name!r}{hint(name, known)}")


class StudyError(UsageError):
    """A study file with mistakes, all of them listed.

    Attributes:
        mistakes: one sentence each.
    """

    def __init__(self, where: str, mistakes: Sequence[str]):
        self.mistakes = tuple(mistakes)
        count = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{where}: {count}\n" + "\n".join(f"  - {line}" for line in mistakes))


class DataError(ChemscaleError):
    """Input data rejected."""

    exit_code = 3


class NotIdentified(ChemscaleError):
    """The data do not determine the answer."""

    exit_code = 4


class StoreError(ChemscaleError):
    """The study folder cannot be read or written."""


class MissingPackage(ChemscaleError):
    """An optional package is needed."""

    @classmethod
    def of(cls, package: str, extra: str, purpose: str) -> MissingPackage:
        """Name the package, what needs it, and the exact line that installs it."""
        return cls(f"{purpose} needs {package}: pip install 'chemscale[{extra}]'")

    @classmethod
    @contextmanager
    def told(cls, extra: str, purpose: str) -> Iterator[None]:
        """Say so of a package that the block imports and that is not there."""
        try:
            yield
        except ModuleNotFoundError as error:
            raise cls.of(str(error.name), extra, purpose) from error


class Stopped(ChemscaleError):
    """Stopped early on purpose; the same command continues."""

    exit_code = 75


def _by_number(name: str) -> list[tuple[str, int]]:
    """So that w24 comes before w128."""
    return [
        (word, int(digits or 0))
        for word, digits in re.findall(r"(\D*)(\d*)", name.replace(",", ""))
    ]


def hint(name: str, known: Iterable[str]) -> str:
    """End an error about an unknown name: the nearest known one, then all of them."""
    names = sorted(known, key=_by_number)
    near = difflib.get_close_matches(name, names, n=1)
    guess = f". Did you mean {near[0]!r}?" if near else "."
    return f"{guess} Known: {', '.join(names) if names else 'none'}."
