"""The base of all that is stored: a frozen record that refuses unknown keys.

All mistakes of a file are told at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from chemscale.table.errors import StudyError, hint


class Record(BaseModel):
    """A frozen pydantic model that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def read(cls, data: Mapping[str, Any], where: str) -> Self:
        """Build the record, or tell every mistake at once.

        Raises:
            StudyError: with one sentence per mistake, each naming the key.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise StudyError(where, list(_mistakes(error, cls))) from None


def _mistakes(error: ValidationError, root: type[BaseModel]) -> Iterable[str]:
    items = error.errors()
    places = [_place(item["loc"]) for item in items]
    told: list[list[str]] = []
    for item, path in zip(items, places, strict=True):
        key = ".".join(path)
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in places)
        if item["type"] == "too_short" and deeper:
            continue  # only because what is in it was refused
        if path in told:
            continue  # another branch of the same union
        told.append(path)
        if item["type"] == "extra_forbidden":
            yield f"unknown key {key!r}{hint(path[-1], _keys_at(root, path[:-1]))}"
        elif item["type"] == "missing":
            yield f"{key!r} is missing"
        else:
            message = item["msg"].removeprefix("Value error, ")
            message = message.replace("valid tuple", "list: […]")
            given = "" if isinstance(item["input"], dict) else f" (got {item['input']!r})"
            yield f"{key}: {message}{given}" if key else f"{message}"


def _place(location: tuple[int | str, ...]) -> list[str]:
    """The keys that lead to a mistake, without the branches of unions that pydantic adds."""
    parts = [str(part) for part in location]
    return [part for part in parts if not re.search(r"[\[\]()]|^function-|^constrained-", part)]


def _keys_at(root: type[BaseModel], path: list[str]) -> list[str]:
    """Return the keys allowed at a path inside a record, looking through unions."""
    model: type[BaseModel] = root
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        inner = [annotation, *getattr(annotation, "__args__", ())]
        nested = [kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if nested:
            model = nested[0]
    return list(model.model_fields)
