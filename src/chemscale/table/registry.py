"""Plug-ins by name: model families, datasets, executors.

Ours and other people's are found the same way, through entry points; naming them imports nothing.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from chemscale.table.errors import MissingPackage, UnknownName


class Registry:
    """What goes by a name in one entry-point group.

    Args:
        kind: what the names are, for messages ("model family").
        group: the entry-point group ("chemscale.families").
    """

    def __init__(self, kind: str, group: str):
        self.kind = kind
        self.group = group
        self._entries: dict[str, EntryPoint] | None = None

    def names(self) -> list[str]:
        """All registered names, sorted, without importing any of them."""
        return sorted(self._found())

    def load(self, name: str) -> Any:
        """Import and return what is registered under `name`.

        Raises:
            UnknownName: nobody registered it.
            MissingPackage: it is there, but a package it imports is not installed.
        """
        found = self._found()
        if name not in found:
            raise UnknownName.of(self.kind, name, found)
        try:
            return found[name].load()
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("chemscale"):
                raise
            raise MissingPackage.of(error.name, "train", f"the {self.kind} {name!r}") from error

    def _found(self) -> dict[str, EntryPoint]:
        if self._entries is None:
            self._entries = {entry.name: entry for entry in entry_points(group=self.group)}
        return self._entries


families = Registry("model family", "chemscale.families")
datasets = Registry("dataset", "chemscale.datasets")
executors = Registry("executor", "chemscale.executors")
