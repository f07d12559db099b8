"""What trained models are good for."""

from __future__ import annotations

from chemscale.table.record import Record


class SampleSettings(Record):
    """How samples were drawn that models are evaluated on."""

    num_samples: int
    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None


class ErrorSettings(Record):
    """What potentials are evaluated on."""

    num_structures: int  # of each split, at most
    dynamics: float = 0.0  # ps of dynamics at constant energy
    temperature: float = 300.0  # K, at its start
    seed: int = 0  # of its velocities


class Evaluated(Record):
    """What one run is good for: metric → value. Of the shift set with `shift_` before."""

    run: str
    metrics: dict[str, float]


class Evaluation(Record):
    """What trained models of a study are good for, run by run, all judged alike.

    Language models by samples of theirs, potentials by their errors.
    """

    settings: SampleSettings | ErrorSettings
    num_reference: dict[str, int]  # split → items that the samples or errors are of
    floor: dict[str, float] = {}  # the same of as many training molecules: what is in reach
    runs: tuple[Evaluated, ...] = ()
    made: str
