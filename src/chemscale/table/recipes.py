"""How a size is trained: the whole of it, the named defaults, and what a study says of it."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from chemscale.table.errors import hint
from chemscale.table.record import Record


class Recipe(Record):
    """How a size is trained.

    Losses are in units of the training set's force RMS (potentials) or in nats (language models).
    """

    revision: int = 1
    learning_rate: PositiveFloat = 1e-3
    batch_size: PositiveInt = 32  # items per step, all devices together
    warmup: int = Field(2_000, ge=0)  # items, not a fraction: runs of any length share one trunk
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: PositiveFloat = 1.0  # largest gradient norm
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: for comparison, has no trunk
    cooldown: float = Field(0.2, gt=0, lt=1)  # of the items seen at the branch
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    energy_weight: float = Field(1.0, ge=0)
    forces_weight: float = Field(10.0, ge=0)
    stress_weight: float = Field(0.0, ge=0)  # of the virial per atom, in periodic structures
    loss: Literal["huber", "l1", "l2"] = "huber"  # potentials: mean of what a deviation costs
    huber_delta: PositiveFloat = 0.1  # potentials: quadratic below, linear above
    # What a step leaves of the mean of the weights before it; the mean is what is judged. 0: none.
    ema: float = Field(0.0, ge=0, lt=1)
    # What is computed at a time, at most: a larger batch is cut into parts. None: no limit.
    max_tokens: PositiveInt | None = None  # of molecules
    max_edges: PositiveInt | None = None  # of structures

    # Language models: rates and starts are those of this width, carried to others by μP (Yang et
    # al. 2021); None: the same for all widths.
    mup_base_width: PositiveInt | None = None

    @property
    def learns_slopes(self) -> bool:
        """Whether the loss holds slopes of the energy: forces, or stress."""
        return self.forces_weight > 0 or self.stress_weight > 0

    @property
    def more_labels(self) -> tuple[str, ...]:
        """What the loss uses beyond energies and forces, which all data are known by."""
        return ("stress",) if self.stress_weight > 0 else ()

    @property
    def max_load(self) -> int | None:
        """Tokens or edges computed at a time, at most; None: the whole batch."""
        return self.max_edges if self.max_tokens is None else self.max_tokens


RECIPES = {
    "molecules": Recipe(learning_rate=3e-3, batch_size=32, weight_decay=0.1),
    "energy-and-forces": Recipe(learning_rate=3e-3, batch_size=8, betas=(0.9, 0.99), clip=10.0),
    "energy": Recipe(
        learning_rate=3e-3, batch_size=8, betas=(0.9, 0.99), clip=10.0, forces_weight=0.0
    ),
}


FOR_POTENTIALS = ("energy_weight", "forces_weight", "stress_weight", "loss", "huber_delta")


class RecipeSpec(Record):
    """A named recipe, with the values that depart from it."""

    name: str
    warmup: int | None = Field(None, ge=0)
    learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt | None = None
    weight_decay: float | None = Field(None, ge=0)
    betas: tuple[float, float] | None = None
    clip: PositiveFloat | None = None
    schedule: Literal["constant", "cosine"] | None = None
    cooldown: float | None = Field(None, gt=0, lt=1)
    precision: Literal["float32", "bfloat16", "float64"] | None = None
    energy_weight: float | None = Field(None, ge=0)
    forces_weight: float | None = Field(None, ge=0)
    stress_weight: float | None = Field(None, ge=0)
    loss: Literal["huber", "l1", "l2"] | None = None
    huber_delta: PositiveFloat | None = None
    ema: float | None = Field(None, ge=0, lt=1)
    max_tokens: PositiveInt | None = None
    max_edges: PositiveInt | None = None
    mup_base_width: PositiveInt | None = None
    # Folder of a run or study whose final weights are started from; or one for each size.
    start_from: str | dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name not in RECIPES:
            raise ValueError(f"no recipe named {self.name!r}{hint(self.name, RECIPES)}")
        if self.name == "molecules" and self.max_edges is not None:
            raise ValueError("max_edges is for structures; molecules are limited by max_tokens")
        if self.name != "molecules" and self.max_tokens is not None:
            raise ValueError("max_tokens is for molecules; structures are limited by max_edges")
        given = [name for name in FOR_POTENTIALS if getattr(self, name) is not None]
        if self.name == "molecules" and given:
            raise ValueError(
                f"{', '.join(given)}: for potentials; molecules have one loss, leave out"
            )
        if self.loss in ("l1", "l2") and self.huber_delta is not None:
            raise ValueError(f"huber_delta means nothing with loss = {self.loss!r}; leave it out")
        return self

    def resolve(self) -> Recipe:
        """Return the named recipe with the departures applied."""
        changed = self.model_dump(exclude_none=True, exclude={"name", "start_from"})
        return RECIPES[self.name].model_copy(update=changed)
