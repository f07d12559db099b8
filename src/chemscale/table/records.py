"""What was asked: the study and the runs it stands for.

What was measured and concluded lies next door, in `results`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from chemscale.table import units
from chemscale.table.errors import hint
from chemscale.table.external import External
from chemscale.table.recipes import RECIPES as RECIPES
from chemscale.table.recipes import Recipe as Recipe
from chemscale.table.recipes import RecipeSpec as RecipeSpec
from chemscale.table.record import Record

FORMAT = 1  # of everything stored in a study folder; raised when an older reader would misread it

FIRST_EVALUATION = 1_000  # items after which a trunk is evaluated for the first time

MOLECULE_FORMATS = ("csv", "smi", "parquet", "tokens")
STRUCTURE_FORMATS = ("extxyz", "db", "npz", "hdf5", "aselmdb")
FOR_MOLECULES = ("column", "notation", "fragments", "charges", "stereo", "max_length")
FOR_STRUCTURES = ("energy_key", "forces_key", "stress_key", "energy_unit", "units")


# --- the study -----------------------------------------------------------------------------------


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
Share = Annotated[float, Field(ge=0, lt=1)]

JudgingSplit = Literal["validation", "test", "shift"]
Notation = Literal["selfies", "smiles"]
Fragments = Literal["reject", "largest", "keep"]
Charges = Literal["keep", "neutralize"]
Stereo = Literal["keep", "drop"]


class DatasetSpec(Record):
    """Where the items come from and how they are split.

    Either the `name` of a registered dataset, or a `format` with a `path` (file, list or glob).
    """

    name: str | None = None
    format: (
        Literal["csv", "smi", "parquet", "tokens", "extxyz", "db", "npz", "hdf5", "aselmdb"] | None
    ) = None
    path: Paths = ()
    column: str = "smiles"  # molecules: the column that holds the SMILES, any case
    notation: Notation = "selfies"  # molecules: what their tokens spell
    fragments: Fragments = "reject"  # molecules of several: refused, the largest, or all with dots
    charges: Charges = "keep"  # neutralize: protons added or taken where that is possible
    stereo: Stereo = "keep"
    energy_key: str | None = None  # structures: where the labels are, when not found by themselves
    forces_key: str | None = None
    stress_key: str | None = None
    energy_unit: Literal["eV", "kcal/mol", "Ha"] = "eV"  # forces are in this unit per Å
    # structures, instead of energy_unit: what their files are in; default eV, Å, energy/length and
    # energy/length^3
    units: dict[Literal["energy", "length", "forces", "stress"], str] | None = None
    group: str | None = None  # content, scaffold, formula, blocks, or the name of a column
    validation: Share | Paths = 0.05
    test: Share | Paths = 0.1
    shift: Paths = ()  # another distribution, reported beside the test set
    # Items of a split that are evaluated, at most; one number, or one for some of the splits.
    max_evaluated: PositiveInt | dict[JudgingSplit, PositiveInt] | None = None
    max_length: PositiveInt = 512  # molecules: longest token sequence kept
    max_rejected: Share = 0.01  # share of rows that may be rejected

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.format is None):
            raise ValueError("give either the name of a registered dataset or a format with a path")
        if self.format and not self.path:
            raise ValueError(f"format {self.format!r} needs a path")
        strange = FOR_STRUCTURES if self.format in MOLECULE_FORMATS else FOR_MOLECULES
        told = self.model_dump(exclude_defaults=True)
        if self.format and (given := [name for name in strange if name in told]):
            raise ValueError(f"{', '.join(given)}: means nothing for format {self.format!r}")
        if self.units is not None:
            if self.energy_unit != "eV":
                raise ValueError("give units or energy_unit, not both")
            units.check({str(key): value for key, value in self.units.items()})
        shares = [share for share in (self.test, self.validation) if isinstance(share, float)]
        if sum(shares) >= 1:
            raise ValueError("test + validation must leave something to train on")
        if 0.0 in shares:
            raise ValueError("test and validation must each hold something: give a share above 0")
        return self


class Search(Record):
    """Which settings are tried, on how much of the trunk, and how many are finished."""

    learning_rate: tuple[PositiveFloat, ...] = Field(min_length=1)
    batch_size: tuple[PositiveInt, ...] = ()  # empty: the recipe's
    fraction: float = Field(0.2, gt=0, le=1)  # of the trunk's ceiling
    finish: int = Field(4, ge=0)  # smaller size: finished to calibrate the forecast


class Budget(Record):
    """The most a trunk may see (exactly one of `items`, `flops`), and when it may end sooner.

    A trunk ends, from its 16th evaluation on, when `items_seen ≥ items_at_best / (1 - patience)`;
    `patience = 1` switches that off. With `unless_falling` it goes on while the losses since the
    best fall. The cooldown comes on top.
    """

    items: PositiveInt | None = None
    flops: PositiveFloat | None = None
    patience: float = Field(0.5, gt=0, le=1)
    unless_falling: bool = False

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.items is None) == (self.flops is None):
            raise ValueError("give exactly one of items and flops")
        return self


class Prices(Record):
    """What a plan was charged by, all in one currency; a price of 0 is free."""

    label: NonNegativeFloat = 0.0  # per training item beyond those there are
    hour: NonNegativeFloat = 0.0  # per hour of training on `device`
    device: str | None = None  # as in `Size.items_per_second`
    available: NonNegativeInt  # training items there were, labelled already


class Forecast(Record):
    """What a plan promised before its runs were trained; never rewritten."""

    family: str
    size: str
    num_params: int
    num_train: int
    metric: str
    value: float
    intervals: dict[str, tuple[float, float]]  # level in per cent → low, high, for one new run
    law: str  # the fitted law, in words
    fitted_runs: tuple[str, ...]
    made: str  # time, ISO 8601, UTC
    why: str  # the budget or target that asked for it, in words
    capped_at_items: int | None = None  # holds only at this training length
    prices: Prices | None = None
    money: float | None = None  # labels and training of all seeds, by `prices`
    # other metric → value and 90 % interval of one new run, by a link learned from the runs
    utility: dict[str, tuple[float, float, float]] | None = None


class Study(Record):
    """One study file. A plan is a study with a `forecast`."""

    name: str = Field(min_length=1)
    families: dict[str, tuple[str, ...]] = Field(min_length=1)  # family → sizes
    dataset: DatasetSpec
    num_train: tuple[PositiveInt, ...] = Field(min_length=1)
    seeds: PositiveInt | dict[str, PositiveInt] = 1
    # Size → values of num_train that the sweep leaves to a plan, to be forecast before trained.
    hold_out: dict[str, tuple[PositiveInt, ...]] = {}
    recipe: RecipeSpec
    budget: Budget
    search: Search | None = None
    external: dict[str, External] = {}  # families that are somebody else's trainers
    forecast: tuple[Forecast, ...] = ()
    format: int = FORMAT

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for label, values in (("num_train", self.num_train), *self.families.items()):
            if len(set(values)) != len(values):
                raise ValueError(f"{label} names a value twice")
            if not values:
                raise ValueError(f"{label} has no sizes")
        molecules = self.dataset.format in MOLECULE_FORMATS
        if self.dataset.format and molecules != (self.recipe.name == "molecules"):
            kinds = ("structures", "molecules") if molecules else ("molecules", "structures")
            fitting = [name for name in RECIPES if (name == "molecules") == molecules]
            raise ValueError(
                f"recipe {self.recipe.name!r} is for {kinds[0]}, format {self.dataset.format!r} "
                f"holds {kinds[1]}: {' or '.join(map(repr, fitting))} trains on them"
            )
        known = {size for sizes in self.families.values() for size in sizes}
        if isinstance(self.seeds, dict):
            for key in self.seeds:
                if key not in known | {"default"}:
                    raise ValueError(f"seeds: no size {key!r}{hint(key, known)}")
        for key, values in self.hold_out.items():
            if key not in known:
                raise ValueError(f"hold_out: no size {key!r}{hint(key, known)}")
            if missing := set(values) - set(self.num_train):
                raise ValueError(f"hold_out: {key} names {sorted(missing)}, not in num_train")
        return self

    def swept(self, size: str) -> tuple[int, ...]:
        """The values of `num_train` that the sweep trains a size on."""
        return tuple(n for n in self.num_train if n not in self.hold_out.get(size, ()))

    def num_seeds(self, size: str) -> int:
        """How many seeds a size is trained with."""
        if isinstance(self.seeds, int):
            return self.seeds
        return self.seeds.get(size, self.seeds.get("default", 1))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """What the search tries; without one, the recipe's."""
        tried = self.search.batch_size if self.search else ()
        return tried or (self.recipe.resolve().batch_size,)

    @property
    def search_num_train(self) -> int:
        """The `num_train` of the search: the middle one, the lower of two middles."""
        return sorted(self.num_train)[(len(self.num_train) - 1) // 2]


# --- the runs ------------------------------------------------------------------------------------


class Trunk(Record):
    """All that determines a run's path but its length."""

    family: str
    family_revision: int
    config: dict[str, Any]
    dataset: str  # fingerprint
    dataset_revision: int
    num_train: int
    recipe: Recipe
    seed: int
    start_from: str | None = None  # digest of the weights that it starts from; None: from chance


class Length(Record):
    """How far a run goes along its trunk."""

    items: int | None
    flops: float | None
    patience: float
    cooldown: bool = True  # False: the trunk only, as in a search
    unless_falling: bool = False


class Run(Record):
    """One training: a trunk and its length, under the name that people see."""

    id: str
    size: str
    unit: str
    trunk: Trunk
    length: Length

    @classmethod
    def of(cls, size: str, unit: str, trunk: Trunk, length: Length) -> Run:
        """Name the run by the hash of what changes its result."""
        return cls(id=digest(trunk, length), size=size, unit=unit, trunk=trunk, length=length)

    @property
    def key(self) -> tuple[str, str]:
        """Family and size."""
        return self.trunk.family, self.size

    @property
    def trunk_id(self) -> str:
        """Shared by runs that differ only in length."""
        return digest(self.trunk)

    @property
    def folder_name(self) -> str:
        """For people; never parsed."""
        return f"{self.trunk.family}-{self.size}-{self.trunk.num_train}-{self.id[:10]}"


# A field that joined a record later is left out of the hash while it holds this value, so that
# the ids of older studies stay as they are: {record: {field: neutral value}}.
NEUTRAL: dict[type[Record], dict[str, Any]] = {
    Recipe: {
        "max_tokens": None,
        "max_edges": None,
        "mup_base_width": None,
        "stress_weight": 0.0,
        "loss": "huber",
        "ema": 0.0,
    },
    Trunk: {"start_from": None},
    Length: {"unless_falling": False},
}


def digest(*records: Record) -> str:
    """Hash records by their canonical JSON: sorted keys, floats as `repr`."""
    text = "\n".join(
        json.dumps(_canonical(record), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        for record in records
    )
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _canonical(value: Any) -> Any:
    if isinstance(value, Record):
        neutral = NEUTRAL.get(type(value), {})
        return {
            name: _canonical(getattr(value, name))
            for name in type(value).model_fields
            if name not in neutral or getattr(value, name) != neutral[name]
        }
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("a run's identity holds finite numbers only")
        return repr(value)
    return value
