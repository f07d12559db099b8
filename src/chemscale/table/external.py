"""Somebody else's trainer as a family: how it is called, and how what it writes is read.

A study declares it in `[external.NAME]` and asks for its sizes under that name. Its command is an
argument list, never a shell string, with values in braces: those of the size, of the recipe, and
`num_train`, `seed`, `items`, `epochs`, `steps`, `train`, `validation`, `test`, `shift`.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from string import Formatter
from typing import Any, Self

from pydantic import Field, PositiveInt, model_validator

from chemscale.table.errors import DataError, hint
from chemscale.table.record import Record

Value = str | int | float
LOG = "log.txt"  # what the command prints, in its working folder


class Rule(Record):
    """Where numbers stand in what a trainer writes: one row for each line that has them."""

    file: str = LOG  # or a pattern such as results/*_train.txt, in the working folder
    pattern: str | None = None  # regular expression with named groups, searched in each line
    columns: dict[str, str] = {}  # of a CSV with a header or JSON lines: our name → its name
    where: dict[str, Value] = {}  # only rows that hold these values
    scale: dict[str, float] = {}  # our name → factor into our unit

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.pattern is None) == (not self.columns):
            raise ValueError("give either a pattern with named groups, or columns")
        if self.pattern is not None:
            try:
                groups = set(re.compile(self.pattern).groupindex)
            except re.error as error:
                raise ValueError(f"pattern is not a regular expression: {error}") from None
            if not groups:
                raise ValueError("pattern has no named group, such as (?P<val_loss>[-.e0-9]+)")
            if self.where:
                raise ValueError("where selects rows of columns; put it into the pattern")
        if unknown := set(self.scale) - self.names:
            raise ValueError(f"scale: {hint(sorted(unknown)[0], self.names)[2:]}")
        return self

    @property
    def names(self) -> set[str]:
        """What it reads."""
        groups = re.compile(self.pattern).groupindex if self.pattern is not None else self.columns
        return set(groups)

    def rows(self, folder: Path) -> list[dict[str, float]]:
        """All rows written so far, in order; numbers that a row does not have are left out.

        Raises:
            DataError: the file lacks a column that is asked for.
        """
        found = [path for path in folder.glob(self.file) if path.is_file()]
        if not found:
            return []
        path = max(found, key=lambda one: (one.stat().st_mtime, one.name))
        text = path.read_text(errors="replace")
        return [row for row in self._read(text, path) if row]

    def _read(self, text: str, path: Path) -> Iterator[dict[str, float]]:
        if self.pattern is not None:
            for match in map(re.compile(self.pattern).search, text.splitlines()):
                if match:
                    yield self._numbers(match.groupdict())
            return
        lines = list(_lines(text))
        told = {name for line in lines for name in line}
        for name in (*self.columns.values(), *self.where):
            if lines and name not in told:
                raise DataError(f"{path}: no column {name!r}{hint(name, told)}")
        for line in lines:
            if all(_same(line.get(name), wanted) for name, wanted in self.where.items()):
                yield self._numbers({ours: line.get(name) for ours, name in self.columns.items()})

    def _numbers(self, told: Mapping[str, Any]) -> dict[str, float]:
        found = {}
        for name, value in told.items():
            with suppress(TypeError, ValueError):
                found[name] = float(value) * self.scale.get(name, 1.0)
        return found


class External(Record):
    """A command line that trains, and what it leaves behind."""

    command: tuple[str, ...] = Field(min_length=1)
    sizes: dict[str, dict[str, Value]] = Field(min_length=1)  # size → values, num_params among them
    curve: Rule  # val_loss, with items_seen, step, epochs (done) or epoch (from 0); train_loss
    test: Rule  # the last row: metrics on the test set, such as force_mae
    shift: Rule | None = None  # likewise on the shift set
    resume: tuple[str, ...] | None = None  # arguments to go on after a kill; None: it starts anew
    environment: dict[str, str] = {}
    energy_key: str = "energy"  # labels in the files of structures that it is given
    forces_key: str = "forces"
    stress_key: str = "stress"  # written where the recipe has a stress_weight
    revision: PositiveInt = 1  # raised when the same command gives other numbers

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for size, values in self.sizes.items():
            count = values.get("num_params")
            if not isinstance(count, int) or count <= 0:
                raise ValueError(
                    f"sizes.{size} has no num_params, its number of parameters; the trainer's own "
                    "log usually tells it"
                )
        if "val_loss" not in self.curve.names:
            raise ValueError("curve does not read val_loss, the loss on the validation set")
        if not {"epoch", "epochs", "step", "items_seen"} & self.curve.names:
            raise ValueError("curve reads none of items_seen, step, epochs, epoch: when was it so?")
        return self

    @classmethod
    def of(cls, config: Mapping[str, Any], size: str) -> External:
        """Of a run's config, as `config` made it."""
        told = {name: value for name, value in config.items() if name != "values"}
        return cls.read({**told, "sizes": {size: config["values"]}}, "run.json")

    def config(self, size: str) -> dict[str, Any]:
        """What decides the result of a size: all but where the program lies and its environment."""
        told = self.model_dump(mode="json", exclude={"sizes", "environment", "revision", "resume"})
        told["command"][0] = Path(self.command[0]).name
        if told["stress_key"] == "stress":  # joined later: runs without it keep their ids
            del told["stress_key"]
        return told | {"values": self.sizes[size]}

    def keys(self, stress: bool) -> tuple[str, ...]:
        """What labels are called in the files of structures; the stress among them, or not."""
        return (self.energy_key, self.forces_key, *((self.stress_key,) if stress else ()))

    def arguments(self, values: Mapping[str, Value]) -> list[str]:
        """The command with all values filled in.

        Raises:
            DataError: a value that nobody gives.
        """
        return [_filled(part, values) for part in self.command]


def _filled(part: str, values: Mapping[str, Value]) -> str:
    try:
        for _, name, _, _ in Formatter().parse(part):
            if name is not None and name not in values:
                raise DataError(f"command: {part!r} asks for {{{name}}}{hint(name, values)}")
        return part.format_map(values)
    except ValueError as error:
        raise DataError(
            f"command: {part!r}: {error}; a brace that is meant as such is written twice"
        ) from None


def _lines(text: str) -> Iterable[dict[str, Any]]:
    """Lines of JSON or of a CSV, whichever it is; the last may be half written."""
    if text.lstrip().startswith("{"):
        for line in text.splitlines():
            with suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found
    else:
        for row in csv.DictReader(io.StringIO(text), skipinitialspace=True):
            yield {str(name).strip(): value for name, value in row.items() if name is not None}


def _same(found: Any, wanted: Value) -> bool:
    if isinstance(wanted, str):
        return str(found) == wanted
    with suppress(TypeError, ValueError):
        return math.isclose(float(found), wanted)
    return False
