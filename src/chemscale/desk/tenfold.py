"""What ten times more of a resource buys, from the largest run there is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from chemscale.desk.costs import Costs
from chemscale.desk.forecast import Prediction, predict
from chemscale.table.errors import NotIdentified
from chemscale.table.fits import FamilyFit


@dataclass(frozen=True)
class Tenfold:
    """One resource multiplied, and the forecast there or why there is none."""

    resource: str  # "now", "data", "size" or "data and size"
    num_params: float
    num_train: float
    answer: Prediction | str  # a sentence where the fit does not identify it
    measured: float | None  # geometric mean of the runs that were trained there


def tenfold(one: FamilyFit, costs: Costs) -> list[Tenfold]:
    """Forecast at the largest run, then at 10 times its data, its size, and √10 times each.

    The largest run is that of most parameters times training items. The last row multiplies
    parameters times training items by ten, the compute where every item is seen equally often.

    Raises:
        NotIdentified: nothing was fitted.
    """
    if not one.observed:
        raise NotIdentified(f"{one.family}: nothing was fitted; train the study first")
    largest = max(one.observed, key=lambda cell: math.prod(cell.key))
    num_params, num_train = largest.key
    root = math.sqrt(10)
    steps = {"now": (1, 1), "size": (10, 1), "data": (1, 10), "data and size": (root, root)}
    rows = []
    for resource, (size, data) in steps.items():
        place = (num_params * size, num_train * data)
        answer: Prediction | str
        try:
            costs.refuse(one, place[1])
            answer = predict(one, *place)
        except NotIdentified as error:
            answer = str(error)
        rows.append(Tenfold(resource, *place, answer, largest.loss if resource == "now" else None))
    return rows
