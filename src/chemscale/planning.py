"""What a fit says about what to do next, beside the plan itself; without torch."""

from __future__ import annotations

from pathlib import Path

from chemscale import verbs
from chemscale.desk import design as designing
from chemscale.desk import tenfold as multiplying
from chemscale.desk.design import Design
from chemscale.desk.tenfold import Tenfold
from chemscale.table.errors import UnknownName
from chemscale.table.points import points_of
from chemscale.table.store import StudyFolder


def tenfold(path: str | Path, *, family: str | None = None) -> dict[str, list[Tenfold]]:
    """What ten times more data or size buys each family of a study or table (`desk.tenfold`)."""
    fits = {one.family: one for one in verbs.fitted(path).families}
    if family is not None and family not in fits:
        raise UnknownName.of("fitted family", family, fits)
    return {name: multiplying.tenfold(one) for name, one in fits.items() if family in (None, name)}


def pilot(
    path: str | Path,
    *,
    at: str,
    num_train: int | None = None,
    flops: float | None = None,
) -> tuple[Design, Path | None]:
    """Rank pilot runs for a forecast (`desk.design`) and write the first as a plan.

    Returns the ranking and the plan's file; none where piloting should stop.

    Args:
        path: study folder.
        at: "family:size" of the forecast.
        num_train: of the forecast; by default the largest fitted.
        flops: what one pilot run may cost; by default as much as the run `at`.

    Raises:
        NotIdentified: there is no forecast to narrow; says which run would give one.
    """
    folder = StudyFolder(path)
    study = folder.study()
    found = designing.design(
        verbs.fitted(folder.path),
        study,
        folder.sizes(),
        at,
        num_train,
        flops=flops,
        available=folder.available(),
        bought=points_of(folder.trained()),
    )
    planned = found.plan(study, now=verbs.now())
    if planned is None:
        return found, None
    verbs.choose_for(folder, planned)
    return found, folder.write_plan(planned)
